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
    """Sums over sequences of (U_Gᵀ D U_A)², for one input of tracked modules.

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
      bases: Eigenbases by input, as `eigenbasis` makes them of what `covariance_sums` gives.
      ids: Example ids; labels are drawn from (seed, id, window, position), the same as for the covariances.
      texts: Their texts.
      seed: The run's seed.
      labels: As for the covariances.

    Returns:
      One sum per input, by its first module, on the CPU, float32 (float64 for a float64 model).

    Raises:
      ValueError: If a block has no basis.

    References:
      George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018.
    """
    sample = SumLossPasses(proxy, ids, texts, seed, labels)
    watched, modules = tracked.watched_modules(blocks), tracked.by_module(blocks)
    tied = tracked.tied_embeddings(blocks)
    rotation = _Rotation(proxy, blocks, bases)

    def compute(max_batch_tokens: int) -> dict[str, EigenvalueSum]:
        squares = {
            block.name: torch.zeros(block.shape, dtype=proxy.sum_dtype, device=proxy.device)
            for block in blocks
        }

        for batch in sample.batches(max_batch_tokens):
            rotation.forget_inputs()
            tokens = batch.tokens.to(proxy.device)
            # Rows of the output part of a tied head's gradients, which the input part is added to before it is squared.
            rows: dict[str, torch.Tensor] = {}

            def record(
                module: str,
                a: torch.Tensor,
                g: torch.Tensor,
                tokens: torch.Tensor = tokens,
                rows: dict[str, torch.Tensor] = rows,
            ) -> None:
                if module in tied:
                    name = tied[module].name
                    added = products.sums_by_row(a, rotation.deltas(tied[module], g))
                    # (D + d)² - D², once for each row.
                    more = (added * (added + 2 * rows[name])) * products.first_of_rows(a)[..., None]
                    products.add_rows(squares[name], a, more)
                    return
                for block in modules[module]:
                    rotated = rotation.inputs(block, a), rotation.outputs(block, g)
                    if block.embedding is not None:
                        rows[block.name] = products.gradient_rows(*rotated, tokens)
                    for gradients in products.sequence_gradients(*rotated):
                        squares[block.name] += gradients.square_().sum(0)

            sample.run(watched, batch, record)
        return {
            name: EigenvalueSum({b: squares.pop(b).cpu() for b in group}, len(sample.windows))
            for name, group in rotation.groups.items()
        }

    return passes.with_halving(proxy, compute)


class _Rotation:
    """Rotates tokens rather than gradients: U_Gᵀ (sum g aᵀ) U_A = sum (U_Gᵀ g) (U_Aᵀ a)ᵀ.

    Modules that are given the same tensor follow each other in a backward pass, so that keeping the last inputs is
    enough to rotate them once.

    Attributes:
      groups: Names of the blocks of every input.
    """

    def __init__(
        self, proxy: Proxy, blocks: Sequence[Block], bases: Mapping[str, Eigenbasis]
    ) -> None:
        place = torch.empty(0, dtype=proxy.sum_dtype, device=proxy.device)
        self._input = {
            block: name for name, basis in bases.items() for block in basis.gradient_vectors
        }
        self.groups: dict[str, list[str]] = {}
        for block in blocks:
            if block.name not in self._input:
                raise ValueError(
                    f"no eigenbasis for {block.name}; was it fitted with other --layers?"
                )
            self.groups.setdefault(self._input[block.name], []).append(block.name)
        self._activation = {name: bases[name].activation_vectors.to(place) for name in self.groups}
        self._gradients = {
            block.name: bases[self._input[block.name]].gradient_vectors[block.name].to(place)
            for block in blocks
            if not block.is_head
        }
        self._last: tuple[str, torch.Tensor, torch.Tensor] | None = None

    def inputs(self, block: Block, a: torch.Tensor) -> torch.Tensor:
        name = self._input[block.name]
        # What is kept is not freed, so that no other tensor lies there.
        if self._last is None or self._last[0] != name or self._last[1].data_ptr() != a.data_ptr():
            self._last = None
            u = self._activation[name]
            self._last = name, a, products.with_bias(a.to(u.dtype), block.has_bias) @ u
        return self._last[2]

    def forget_inputs(self) -> None:
        self._last = None

    def deltas(self, block: Block, g: torch.Tensor) -> torch.Tensor:
        """Rotates what the tokens add to a tied head; there is nothing for a bias."""
        u = self._activation[self._input[block.name]]
        return g.to(u.dtype) @ u[: g.shape[2]]

    def outputs(self, block: Block, g: torch.Tensor) -> torch.Tensor:
        if block.is_head:  # in the basis of the tokens
            return g
        u = self._gradients[block.name]
        return block.select(g).to(u.dtype) @ u
