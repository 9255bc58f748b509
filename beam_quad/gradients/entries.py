"""The entries of the tracked blocks' gradients that are kept if there are too many to keep all."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from beam_quad import seeding
from beam_quad.gradients.tracked import Block


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
    """A seeded index set of entries, with scales that preserve inner products in expectation.

    The entries of all blocks, in order, are cut into as many runs of almost equal length as entries are kept. A hash of
    the run's number picks one entry of the run. The entry is scaled by the square root of the run's length.

    Attributes:
      shapes: Shape of each block, [out, in (+ 1)], in the order of the blocks.
      positions: Kept entries of each block, as positions in the flattened block, int64, ascending.
      scales: Factor of each kept entry, float32; 1 if all entries are kept.
    """

    shapes: dict[str, tuple[int, int]]
    positions: dict[str, torch.Tensor]
    scales: dict[str, torch.Tensor]

    @classmethod
    def draw(cls, blocks: Sequence[Block], max_entries: int, seed: int) -> "Entries":
        """Draws at most `max_entries` entries, or all if there are no more.

        Raises:
          ValueError: If there is no block, or `max_entries` is not positive.
        """
        if not blocks or max_entries < 1:
            raise ValueError(
                f"no entries to keep of {len(blocks)} blocks with max_entries={max_entries}"
            )
        ends = np.cumsum([block.shape[0] * block.shape[1] for block in blocks])
        num_kept = min(int(ends[-1]), max_entries)
        # Runs rather than draws from all entries: no entry is drawn twice, and every layer is represented by its size.
        edges = np.arange(num_kept + 1, dtype=np.int64) * ends[-1] // num_kept
        lengths = np.diff(edges)
        draws = seeding.uniform(seed, "gradient entries", np.arange(num_kept, dtype=np.uint64))
        kept = edges[:-1] + (draws * lengths).astype(np.int64)
        # Start of each block's entries, among all entries and among the kept ones.
        starts = [0, *ends.tolist()]
        cuts = [0, *np.searchsorted(kept, ends).tolist()]
        positions, scales = {}, {}
        for block, start, low, high in zip(blocks, starts, cuts, cuts[1:], strict=False):
            positions[block.name] = torch.from_numpy(kept[low:high] - start)
            roots = np.sqrt(lengths[low:high]).astype(np.float32)
            scales[block.name] = torch.from_numpy(roots)
        return cls({block.name: block.shape for block in blocks}, positions, scales)

    @property
    def num_kept(self) -> int:
        """Number of kept entries."""
        return sum(len(own) for own in self.positions.values())

    def to(self, device: torch.device) -> "Entries":
        """Returns a copy on a device."""
        return Entries(
            self.shapes,
            {name: own.to(device) for name, own in self.positions.items()},
            {name: own.to(device) for name, own in self.scales.items()},
        )

    def keep(self, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Selects and scales the kept entries of vectors by block, [out, in (+ 1)]: [num_kept], on the vectors' device."""
        return torch.cat(
            [
                vectors[name].flatten()[own.to(vectors[name].device)]
                * self.scales[name].to(vectors[name])
                for name, own in self.positions.items()
            ]
        )
