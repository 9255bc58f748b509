"""Scores of every row of the corpus, from any source."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.records import Split
from beam_quad.scoring.groups import combine_scores
from beam_quad.scoring.sample import ScoreSample
from beam_quad.stages.read.splits import RowAlignedStage

SCORE_DTYPE = np.dtype(np.float64)


@dataclasses.dataclass(frozen=True)
class ScoredRows(RowAlignedStage):
    """A stage that scores rows: it writes one row-aligned file per split and sums `ScoreSample`s.

    A row that is not or cannot be scored has nan. A row may have several scores, one per query group; readers get them
    combined.
    """

    artifact_name = "scores.json"

    @property
    def group_weights(self) -> tuple[float, ...]:
        """Weight of each score. If there are several scores, each is divided by its spread."""
        return (1.0,)

    def wanted(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns which rows of a split are to be scored, bool [n]."""
        return rows.usable

    def num_wanted(self) -> int:
        """Approximate number of rows to be scored."""
        return self.corpus.num_usable()

    def statistic(self, piece: Split) -> ScoreSample:
        return self._sample(piece, self.corpus.rows(piece), self._read(piece))

    def write(self, split: Split, scores: np.ndarray, is_scored: np.ndarray) -> ScoreSample:
        """Writes the scores of a split and samples them.

        Args:
          split: The split.
          scores: Float64 [n] or [n, num_scores], nan for rows without a score.
          is_scored: Which rows the stage tried to score, bool [n].
        """
        scores = scores.reshape(len(scores), len(self.group_weights))
        column = aligned.vector_column(scores, SCORE_DTYPE)
        fields = [pa.field("scores", column.type), pa.field("is_scored", pa.bool_())]
        self.write_rows(split, pa.schema(fields), {"scores": column, "is_scored": is_scored})
        return self.statistic(split)

    def finish(self, total: ScoreSample | None) -> None:
        # Weights come from the spread of a sample over the whole corpus, so rows store the scores of each group
        # unweighted.
        sample = total or ScoreSample(np.zeros((0, len(self.group_weights))), 0, 0)
        weights = sample.weights(self.group_weights)
        facts = {
            "scored": sample.scored,
            "unscorable": sample.unscorable,
            "known": sample.known,
            "median": sample.median(weights),
            "weights": weights.tolist(),
        }
        write_json(self.artifact, facts)

    def progress(self, total: ScoreSample | None) -> dict[str, int]:
        return {"scored": total.scored if total else 0}

    def read(self, split: Split) -> np.ndarray:
        """Reads the scores of a split's rows, combined over query groups: float64 [n], nan for rows without a score."""
        return combine_scores(self._read(split), np.array(self.facts()["weights"]))

    @once_per_process
    def facts(self) -> dict[str, Any]:
        """Reads the `median` of the scores, their `weights`, and the number of `scored` examples, once per process."""
        return read_json(self.artifact)

    def _read(self, split: Split) -> np.ndarray:
        scores, _ = read_scores(self.rows_path(split))
        # The file keeps scores of rows that were rejected after it was written.
        scores[self.corpus.rejected_since(split)] = np.nan
        return scores

    def _sample(self, split: Split, rows: aligned.Rows, scores: np.ndarray) -> ScoreSample:
        wanted, number = self.wanted(split, rows), max(1, self.num_wanted())
        return ScoreSample.of(scores, wanted, rows.keys, self.corpus.seed, number)


def read_scores(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of scores: float64 [n, num_scores], and which rows the stage tried to score, bool [n]."""
    table = aligned.read_table(path)
    scores = aligned.unpack_vectors(table.column("scores"), SCORE_DTYPE).copy()
    return scores, table.column("is_scored").to_numpy()
