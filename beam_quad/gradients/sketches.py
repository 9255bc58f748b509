"""Exact gradients of single examples, normalised and compressed, for comparing landmarks with targets."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from beam_quad import errors
from beam_quad.gradients import passes, tracked
from beam_quad.gradients.entries import Entries
from beam_quad.gradients.hadamard import HadamardTransform
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tracked import Block
from beam_quad.gradients.windows import Documents, Window

DEFAULT_DIM = 131_072
DEFAULT_ENTRIES = 1 << 22
# Gradient entries of one block formed at a time, and kept entries in memory at a time: 256 MB and 512 MB of float32.
_GRADIENT_ENTRIES = 1 << 26
_HELD_ENTRIES = 1 << 27


class GradientSketcher:
    """Sketches the gradients of examples and targets. Inner products of sketches are cosines.

    The gradient of an example is that of its mean loss over the predicted tokens of its windows. A sketch keeps a seeded
    set of its entries (`Entries`), multiplies them by Adam's multipliers if there are any, divides by the norm of the
    result, and compresses it (`HadamardTransform`).

    Each block's gradient is computed whole, a few windows at a time, and then reduced to its kept entries. This costs at
    most as much as the block's product in a full backward pass. Whole rows would be cheaper to compute but represent the
    gradient far worse than single entries, because a few rows carry most of the norm.

    Args:
      proxy: The model.
      blocks: The tracked blocks.
      dim: Length of a sketch. If fewer entries are kept, their number is the length, and they are not compressed.
      max_entries: The most entries of a gradient that are kept.
      seed: Seed of the entries and of the transform's signs and rows.
      multipliers: Adam's multiplier a by block, [out, in (+ 1)]; see `optimizer.AdamTerms`.

    Attributes:
      dim: Length of a sketch.
      entries: The index set.

    Raises:
      ValueError: If there is no block, a number is not positive, or a multiplier is missing or has another shape.
    """

    def __init__(
        self,
        proxy: Proxy,
        blocks: Sequence[Block],
        dim: int = DEFAULT_DIM,
        max_entries: int = DEFAULT_ENTRIES,
        seed: int = 0,
        multipliers: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self._proxy = proxy
        self._modules = tracked.by_module(blocks)
        self._embeddings = tracked.tied_embeddings(blocks)
        self._watched = tracked.watched_modules(blocks)
        self.entries = Entries.draw(blocks, max_entries, seed).to(proxy.device)
        num_kept = self.entries.num_kept
        self.dim = min(dim, num_kept)
        self._compress = HadamardTransform(num_kept, dim, seed) if dim < num_kept else None
        self._factors = self._multiplied_scales(multipliers)
        sizes = [len(own) for own in self.entries.positions.values()]
        ends = np.cumsum(sizes).tolist()
        self._columns = {
            name: slice(end - size, end)
            for name, size, end in zip(self.entries.positions, sizes, ends, strict=True)
        }

    def sketch(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Sketches the gradients of examples.

        Args:
          texts: The examples, as texts or prepared.

        Returns:
          float32 [num_texts, dim], on the CPU; of norm 1 before compression.

        Raises:
          ValueError: If an example has no loss token.
          IntegrityError: If a gradient is 0 or not finite.
        """
        documents = self._proxy.read(texts)
        sketches = np.empty((len(documents.loss_tokens), self.dim), np.float32)
        start = 0
        for kept in self._kept_pieces(documents):
            sketches[start : start + len(kept)] = self.compress(kept).float().cpu().numpy()
            start += len(kept)
        return sketches

    def sketch_vector(self, vector: Mapping[str, torch.Tensor]) -> tuple[np.ndarray, float]:
        """Sketches a vector of all tracked entries: a target's mean gradient, or its product with a curvature.

        Adam's multipliers are not applied; they belong to the examples.

        Args:
          vector: The vector by block, [out, in (+ 1)].

        Returns:
          The sketch, float32 [dim], of norm 1 before compression, and the norm of the kept entries, by which it was
          divided.

        Raises:
          IntegrityError: If the vector is 0 or not finite.
        """
        kept = self.entries.keep(vector)[None]
        norms = _checked_norms(kept, "the vector")
        sketch: np.ndarray = self.compress(kept / norms)[0].float().cpu().numpy()
        return sketch, float(norms)

    def compress(self, kept: torch.Tensor) -> torch.Tensor:
        """Compresses kept entries, [n, num_kept] to [n, dim], in their dtype; the map is linear."""
        return kept if self._compress is None else self._compress(kept)

    def _multiplied_scales(
        self, multipliers: Mapping[str, torch.Tensor] | None
    ) -> dict[str, torch.Tensor]:
        proxy, entries = self._proxy, self.entries
        scales = {name: own.to(proxy.sum_dtype) for name, own in entries.scales.items()}
        if multipliers is None:
            return scales
        for name, shape in entries.shapes.items():
            found = tuple(multipliers[name].shape) if name in multipliers else None
            if found != shape:
                raise ValueError(f"the multiplier of {name} has shape {found}, not {shape}")
        return {
            name: own * multipliers[name].to(own).flatten()[entries.positions[name]]
            for name, own in scales.items()
        }

    def _kept_pieces(self, documents: Documents) -> Iterator[torch.Tensor]:
        """Yields the normalised kept entries of as many documents at a time as fit in memory."""
        counts = documents.loss_tokens
        if not counts.all():
            raise ValueError(
                f"text {int(np.argmin(counts))} of the call predicts no token; "
                "reject such texts before landmarks are drawn"
            )
        step = max(1, _HELD_ENTRIES // self.entries.num_kept)
        for start in range(0, len(counts), step):
            stop = min(start + step, len(counts))
            pieces = [w for w in documents.windows if start <= w.document < stop]
            per_document = torch.from_numpy(1 / counts.astype(np.float64))
            kept = self._sum_windows(pieces, per_document, start, stop)
            kept /= _checked_norms(kept, "the gradient of an example")
            yield kept

    def _sum_windows(
        self, pieces: Sequence[Window], per_document: torch.Tensor, start: int, stop: int
    ) -> torch.Tensor:
        """Adds up the kept entries of the documents' windows, [stop - start, num_kept]."""
        proxy = self._proxy

        def compute(max_batch_tokens: int) -> torch.Tensor:
            shape = (stop - start, self.entries.num_kept)
            totals = torch.zeros(shape, dtype=proxy.sum_dtype, device=proxy.device)
            for batch in proxy.micro_batches(pieces, max_batch_tokens):
                weights = passes.token_weights(batch, per_document, proxy)
                rows = (batch.documents - start).to(proxy.device)

                def record(
                    module: str, a: torch.Tensor, g: torch.Tensor, rows: torch.Tensor = rows
                ) -> None:
                    self._add(totals, rows, module, a, g)

                passes.backward(proxy, self._watched, batch, weights, record)
            return totals

        return passes.with_halving(proxy, compute)

    def _add(
        self,
        totals: torch.Tensor,
        rows: torch.Tensor,
        module: str,
        a: torch.Tensor,
        g: torch.Tensor,
    ) -> None:
        """Adds the contribution of one module call to the kept entries of its blocks."""
        if module in self._embeddings:
            blocks: Sequence[Block] = (self._embeddings[module],)
            form = _scattered
        else:
            blocks = self._modules[module]
            a = functional.pad(a.to(totals.dtype), (0, int(blocks[0].has_bias)), value=1.0)
            form = _summed
        for block in blocks:
            positions = self.entries.positions[block.name]
            outputs = g if module in self._embeddings else block.select(g)
            step = max(1, _GRADIENT_ENTRIES // (block.shape[0] * block.shape[1]))
            for start in range(0, len(rows), step):
                some = slice(start, start + step)
                gradients = form(block, a[some], outputs[some].to(totals.dtype)).flatten(1)
                # Adam's multipliers come before the norm: the unit length is that of the step, not of the gradient.
                kept = gradients[:, positions] * self._factors[block.name]
                totals[:, self._columns[block.name]].index_add_(0, rows[some], kept)


def _summed(block: Block, a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Computes the sum over tokens of g aᵀ for each window, [batch, out, in (+ 1)]."""
    return torch.bmm(g.mT, a)


def _scattered(block: Block, a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Computes the gradient of each window at the rows a of a tied embedding, [batch, out, in (+ 1)]."""
    num_rows, width = block.shape
    gradients = g.new_zeros(len(a) * num_rows, width)
    # One addition for all windows: window i has the rows from i · num_rows on.
    at = a + num_rows * torch.arange(len(a), device=a.device)[:, None]
    gradients[:, : g.shape[2]].index_add_(0, at.flatten(), g.flatten(0, 1))
    return gradients.view(len(a), num_rows, width)


def _checked_norms(kept: torch.Tensor, what: str) -> torch.Tensor:
    """Returns the norms of rows, [n, 1]; raises an error if one is 0 or not finite."""
    norms: torch.Tensor = torch.linalg.vector_norm(kept, dim=1, keepdim=True)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise errors.IntegrityError(
            f"{what} is 0 or not finite at the kept entries: the proxy overflows on it, or too few are kept"
        )
    return norms
