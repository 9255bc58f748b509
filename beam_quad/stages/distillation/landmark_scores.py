"""The scores of the landmarks, by passes or by sketches."""

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.stages.distillation.landmarks import LANDMARK_COLUMNS, LandmarkStage

_SCORES = pa.list_(pa.float64())
# Id, tokens and score of a landmark on a target.
STORED_SCORE_BYTES = 64


class LandmarkScores(LandmarkStage):
    """A stage that writes the scores of each group of landmarks: `LANDMARK_COLUMNS`, `scores` and `halves`.

    `scores` has a number for each target. A landmark without a loss token or without a finite score has no row. Landmarks
    of group 0 also have scores under the halves of each target's texts.
    """

    artifact_name = "scores.json"

    def statistic(self, piece: int) -> Tally:
        return Tally({"scored": self.read(piece).num_rows})

    def progress(self, total: Tally | None) -> dict[str, int]:
        return {"scored": total["scored"] if total else 0}

    def read(self, group: int) -> pa.Table:
        """Reads the scores of a group."""
        return aligned.read_table(self.group_path(group))

    def write(
        self, group: int, landmarks: pa.Table, scores: np.ndarray, halves: np.ndarray | None
    ) -> Tally:
        """Writes the scores of a group and drops the landmarks without a finite score.

        Args:
          group: Number of the group.
          landmarks: `LANDMARK_COLUMNS` of n landmarks.
          scores: Float64 [n, num_targets]; nan for landmarks without a score.
          halves: Scores under the halves' vectors, float64 [n, num_halves], or None.
        """
        finite = np.isfinite(scores).all(axis=1)
        table = landmarks.select(LANDMARK_COLUMNS)
        table = table.append_column("scores", pa.array(list(scores), _SCORES))
        under_halves = [None] * len(scores) if halves is None else list(halves)
        table = table.append_column("halves", pa.array(under_halves, _SCORES))
        table = table.filter(pa.array(finite))
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        aligned.write_table(self.group_path(group), table.schema, columns)
        return Tally({"scored": table.num_rows})
