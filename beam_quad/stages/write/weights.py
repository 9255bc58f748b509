"""The best influence left out, and the weight of every row."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import archives
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.distillation import BestLeft, SelectionWeights
from beam_quad.records import Split
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.taken import SumTaken


@dataclasses.dataclass(frozen=True)
class FindBestLeft(SplitStage):
    """Finds the best influence left out for each target, and from it the weights.

    Takes splits, gives `BestLeft`, and writes the `SelectionWeights`, which weigh rows.

    Args:
      corpus: The corpus.
      taken: Sums over the selected rows.
    """

    kind = "weights"
    version = 2
    artifact_name = "weights.npz"

    taken: SumTaken

    def do(self, piece: Split, model: Any) -> BestLeft:
        influence, takers, _ = self.taken.examples(piece, self.corpus.rows(piece))
        return BestLeft.of(influence, takers, self.taken.load().lowest)

    def finish(self, total: BestLeft) -> None:
        weights = SelectionWeights.from_sums(self.taken.load(), total)
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(weights)))

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """As `RowWeights`."""
        weights = np.zeros(len(rows.keys))
        influence, takers, is_example = self.taken.examples(split, rows)
        weights[is_example] = self._load().of(influence, takers)
        return weights

    @once_per_process
    def _load(self) -> SelectionWeights:
        return SelectionWeights(**archives.parse(files.read_bytes(self.artifact)))
