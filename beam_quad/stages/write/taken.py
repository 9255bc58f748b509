"""Sums over the selected rows, which determine their weights."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad import archives
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.distillation import TakenSums
from beam_quad.errors import UsageError
from beam_quad.records import Split
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.ranked import Weighable


class RowWeights(Protocol):
    """Weighs the rows of a split."""

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns float64 [n], 0 for rows not selected. The weights of the corpus sum to its number of examples."""


@dataclasses.dataclass(frozen=True)
class SumTaken(SplitStage):
    """Sums the influence of the selected rows exactly, per target.

    Takes splits and gives `TakenSums`.

    Args:
      corpus: The corpus.
      selection: The selection.
    """

    kind = "taken"
    artifact_name = "taken.npz"

    selection: Weighable

    def do(self, piece: Split, model: Any) -> TakenSums:
        influence, takers, _ = self.examples(piece, self.corpus.rows(piece))
        return TakenSums.of(influence, takers)

    def finish(self, total: TakenSums | None) -> None:
        # Only the run finds out, so the launcher cannot refuse it.
        if total is None or not total.counts.sum():
            raise UsageError("nothing was selected, so that there is nothing to weigh")
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(total)))

    @once_per_process
    def load(self) -> TakenSums:
        """Loads the sums, once per process."""
        found = archives.parse(files.read_bytes(self.artifact))
        return TakenSums(**(found | {"num_examples": int(found["num_examples"])}))

    def examples(
        self, split: Split, rows: aligned.Rows
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads influence and takers of the rows that could have been taken, and a mask of these rows."""
        taken = self.selection.taken(split, rows)
        at = taken.is_example
        return taken.influence[at], taken.takers[at], at
