"""EK-FAC's eigenvalues: the second moments of per-sequence gradients in the Kronecker eigenbasis."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from beam_quad.gradients import passes, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.scoring import products, tensors
from beam_quad.scoring.factors import Eigenbasis
from beam_quad.scoring.fitting import Labels, SumLossPasses


@dataclasses.dataclass(frozen=True)
class EigenvalueSum:
    """Sums over sequences of (U_Gᵀ D U_A)², for one tracked module.

    Attributes:
      squares: The sum by block, float32 or float64 [out, in (+ 1)].
      num_sequences: Windows in the sums.
    """

    squares: dict[str, torch.Tensor]
    num_sequences: int

    def __add__(self, other: "EigenvalueSum") -> "EigenvalueSum":
        return EigenvalueSum(
            tensors.add(self.squares, other.squares), self.num_sequences + other.num_sequences
        )

    def save(self) -> bytes:
        """Writes the sum as safetensors."""
        counts = torch.tensor([self.num_sequences])
        return tensors.dump({"counts": counts, **tensors.prefixed("square", self.squares)})

    @classmethod
    def load(cls, data: bytes) -> "EigenvalueSum":
        """Reads what `save` wrote."""
        named = tensors.parse(data)
        return cls(tensors.with_prefix("square", named), int(named["counts"].item()))


def eigenvalue_sums(
    proxy: Proxy,
    blocks: Sequence[Block],
    bases: Mapping[str, Eigenbasis],
    ids: Sequence[str],
    texts: Sequence[str],
    seed: int,
    labels: Labels = "sampled",
) -> dict[str, EigenvalueSum]:
    """Sums the squares of the rotated per-sequence gradients over a group of examples.

    Args:
      proxy: The model.
      blocks: What is tracked.
      bases: Eigenbasis of every tracked module.
      ids: Example ids; labels are drawn from (seed, id, window, position), the same as for the covariances.
      texts: Their texts.
      seed: The run's seed.
      labels: As for the covariances.

    Returns:
      One sum per module, on the proxy's device, float32 (float64 for a float64 model).

    References:
      George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018.
    """
    sample = SumLossPasses(proxy, ids, texts, seed, labels)
    modules = tracked.by_module(blocks)
    rotations = {name: _Rotation(proxy, bases[name]) for name in modules}

    def compute(max_batch_tokens: int) -> dict[str, EigenvalueSum]:
        squares = {
            block.name: torch.zeros(block.shape, dtype=proxy.sum_dtype, device=proxy.device)
            for block in blocks
        }

        def record(module: str, a: torch.Tensor, g: torch.Tensor) -> None:
            for block, rotated in rotations[module].rotate(modules[module], a, g):
                for gradients in products.sequence_gradients(*rotated):
                    squares[block.name] += gradients.square_().sum(0)

        for batch in sample.batches(max_batch_tokens):
            sample.run(list(modules), batch, record)
        return {
            name: EigenvalueSum({b.name: squares[b.name] for b in group}, len(sample.windows))
            for name, group in modules.items()
        }

    return passes.with_halving(proxy, compute)


class _Rotation:
    """Rotates tokens rather than gradients: U_Gᵀ (sum g aᵀ) U_A = sum (U_Gᵀ g) (U_Aᵀ a)ᵀ."""

    def __init__(self, proxy: Proxy, basis: Eigenbasis) -> None:
        place = torch.empty(0, dtype=proxy.sum_dtype, device=proxy.device)
        self._activation = basis.activation_vectors.to(place)
        self._gradients = {name: u.to(place) for name, u in basis.gradient_vectors.items()}

    def rotate(
        self, group: Sequence[Block], a: torch.Tensor, g: torch.Tensor
    ) -> list[tuple[Block, tuple[torch.Tensor, torch.Tensor]]]:
        dtype = self._activation.dtype
        rotated = products.with_bias(a.to(dtype), group[0].has_bias) @ self._activation
        return [
            (block, (rotated, block.select(g).to(dtype) @ self._gradients[block.name]))
            for block in group
        ]
