"""EK-FAC's eigenvalues: the second moments of per-sequence gradients in the Kronecker eigenbasis.

For the head of a large vocabulary, every group of texts would store as many eigenvalues as the query gradient has entries. For
such a head only the row sums r and the column sums c are stored, and the eigenvalues are approximated by r cᵀ / sum r, as in
Adafactor.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import torch

from beam_quad.gradients import passes, tracked
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.scoring import products, tensors
from beam_quad.scoring.factors import Eigenbasis
from beam_quad.scoring.fitting import Labels, SumLossPasses

# Maximum entries of a head's eigenvalues stored individually: 256 MB of float32. On a model of 1.1 M parameters, the rank
# correlation with scores under the full eigenvalues is .984 for the head alone and .998 with all layers for r cᵀ / sum r, and
# .863 and .946 for K-FAC's eigenvalues.
_MOST_ENTRIES = 1 << 26


@dataclasses.dataclass(frozen=True)
class EigenvalueSum:
    """Sums over sequences of (U_Gᵀ D U_A)², with D the gradient of a sequence, for one input of tracked modules.

    Attributes:
      squares: The sum by block, float32 or float64 [out, in (+ 1)].
      num_sequences: Windows in the sums.
      rows: Row sums of `squares` for blocks too large to store it, [out].
      columns: Column sums for the same blocks, [in (+ 1)].
    """

    squares: dict[str, torch.Tensor]
    num_sequences: int
    rows: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    columns: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "EigenvalueSum") -> "EigenvalueSum":
        return EigenvalueSum(
            tensors.add(self.squares, other.squares),
            self.num_sequences + other.num_sequences,
            tensors.add(self.rows, other.rows),
            tensors.add(self.columns, other.columns),
        )

    def mean(self) -> dict[str, torch.Tensor]:
        """Divides by the number of sequences, at least 1.

        Returns:
          Eigenvalues by block, [out, in (+ 1)].
        """
        means = {name: squares / self.num_sequences for name, squares in self.squares.items()}
        for name, rows in self.rows.items():
            total = rows.double().sum().item()
            # A head without any gradient has eigenvalues of 0, not 0 / 0.
            scale = 1 / (total * self.num_sequences) if total > 0 else 0.0
            means[name] = torch.outer(rows, scale * self.columns[name])
        return means

    def save(self, file: tensors.Writable) -> None:
        """Writes the sum as safetensors."""
        tensors.write(
            file,
            {
                "counts": torch.tensor([self.num_sequences]),
                **tensors.prefixed("square", self.squares),
                **tensors.prefixed("row", self.rows),
                **tensors.prefixed("column", self.columns),
            },
        )

    @classmethod
    def load(cls, file: BinaryIO) -> "EigenvalueSum":
        """Reads what `save` wrote."""
        named = tensors.read(file)
        return cls(
            tensors.with_prefix("square", named),
            int(named["counts"].item()),
            tensors.with_prefix("row", named),
            tensors.with_prefix("column", named),
        )


def is_factored(block: Block) -> bool:
    """Tests whether only row and column sums of a block's eigenvalues are stored."""
    return block.is_head and math.prod(block.shape) > _MOST_ENTRIES


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
      blocks: The tracked blocks.
      bases: Eigenbases by input, made by `eigenbasis` from the sums of `covariance_sums`.
      ids: Example ids; labels are drawn from (seed, id, window, position), as for the covariances.
      texts: Texts of the examples.
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
    watched = tracked.watched_modules(blocks)
    rotation = _Rotation(proxy, blocks, bases)

    def compute(max_batch_tokens: int) -> dict[str, EigenvalueSum]:
        accumulator = _Squares(proxy, blocks, rotation)
        for batch in sample.batches(max_batch_tokens):
            accumulator.start(batch.tokens.to(proxy.device))
            sample.run(watched, batch, accumulator.record)
        return accumulator.sums(len(sample.windows))

    return passes.with_halving(proxy, compute)


class _Squares:
    """Accumulates the squares of the rotated gradients over micro-batches."""

    def __init__(self, proxy: Proxy, blocks: Sequence[Block], rotation: "_Rotation") -> None:
        self._modules = tracked.by_module(blocks)
        self._tied = tracked.tied_embeddings(blocks)
        self._rotation = rotation

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=proxy.sum_dtype, device=proxy.device)

        self._squares = {b.name: zeros(*b.shape) for b in blocks if not is_factored(b)}
        self._rows = {b.name: zeros(b.shape[0]) for b in blocks if is_factored(b)}
        self._columns = {b.name: zeros(b.shape[1]) for b in blocks if is_factored(b)}
        self._tokens = torch.empty(0)
        # Rows of the output part of a tied head's gradients; the input part is added before they are squared.
        self._output_rows: dict[str, torch.Tensor] = {}

    def start(self, tokens: torch.Tensor) -> None:
        """Starts a micro-batch of these tokens, int64 [batch, length]."""
        self._rotation.forget_inputs()
        self._tokens = tokens

    def record(self, module: str, a: torch.Tensor, g: torch.Tensor) -> None:
        if module in self._tied:
            self._add_rows(self._tied[module], a, g)
            return
        for block in self._modules[module]:
            rotated = self._rotation.inputs(block, a), self._rotation.outputs(block, g)
            if block.embedding is not None:
                rows = products.gradient_rows(*rotated, self._tokens)
                self._output_rows[block.name] = rows
            for gradients in products.sequence_gradients(*rotated):
                # In place: another tensor of this size may not fit, and the gradient is not needed again.
                squares = gradients.square_()
                if is_factored(block):
                    self._rows[block.name] += squares.sum((0, 2))
                    self._columns[block.name] += squares.sum((0, 1))
                else:
                    self._squares[block.name] += squares.sum(0)

    def _add_rows(self, block: Block, rows: torch.Tensor, deltas: torch.Tensor) -> None:
        added = products.sums_by_row(rows, self._rotation.deltas(block, deltas))
        # (D + d)² - D², with D² already in the sums; tokens with the same row share one d, so only the first counts.
        more = added * (added + 2 * self._output_rows.pop(block.name))
        more *= products.first_of_rows(rows)[..., None]
        if is_factored(block):
            self._rows[block.name].index_add_(0, rows.flatten(), more.sum(2).flatten())
            self._columns[block.name] += more.sum((0, 1))
        else:
            products.add_rows(self._squares[block.name], rows, more)

    def sums(self, num_sequences: int) -> dict[str, EigenvalueSum]:
        """Moves the sums to the CPU; nothing can be recorded afterwards."""

        def taken(totals: dict[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
            return {name: totals.pop(name).cpu() for name in names if name in totals}

        return {
            name: EigenvalueSum(
                taken(self._squares, group),
                num_sequences,
                taken(self._rows, group),
                taken(self._columns, group),
            )
            for name, group in self._rotation.groups.items()
        }


class _Rotation:
    """Rotates tokens rather than gradients: U_Gᵀ (sum g aᵀ) U_A = sum (U_Gᵀ g) (U_Aᵀ a)ᵀ.

    Modules with the same input follow each other in a backward pass, so keeping the last input is enough to rotate every input
    only once.

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
        # The last input is kept alive, so another tensor cannot have the same address.
        if self._last is None or self._last[0] != name or self._last[1].data_ptr() != a.data_ptr():
            self._last = None
            u = self._activation[name]
            self._last = name, a, products.with_bias(a.to(u.dtype), block.has_bias) @ u
        return self._last[2]

    def forget_inputs(self) -> None:
        self._last = None

    def deltas(self, block: Block, g: torch.Tensor) -> torch.Tensor:
        """Rotates the gradients that tokens add to a tied head; they have no bias column."""
        u = self._activation[self._input[block.name]]
        return g.to(u.dtype) @ u[: g.shape[2]]

    def outputs(self, block: Block, g: torch.Tensor) -> torch.Tensor:
        if block.is_head:  # in the basis of the tokens
            return g
        u = self._gradients[block.name]
        return block.select(g).to(u.dtype) @ u
