"""A number for every row of the corpus, whatever it comes from."""

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

_DTYPE = np.dtype(np.float64)


@dataclasses.dataclass(frozen=True)
class ScoredRows(RowAlignedStage):
    """A stage that gives rows a score: it writes one row-aligned file a split, and sums up `ScoreSample`s.

    A row that is not to be scored, or cannot be, has nan. There may be several scores, one a query group, which are read as
    one.
    """

    artifact_name = "scores.json"

    @property
    def group_weights(self) -> tuple[float, ...]:
        """Weight of each score, over the spread of which it is divided if there are several."""
        return (1.0,)

    def wanted(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Says which rows of a split are to be scored, bool [n]."""
        return rows.usable

    def num_wanted(self) -> int:
        """How many rows are to be scored, about."""
        return self.corpus.num_usable()

    def statistic(self, piece: Split) -> ScoreSample:
        return self._sample(piece, self.corpus.rows(piece), self._read(piece))

    def write(self, split: Split, scores: np.ndarray, is_scored: np.ndarray) -> ScoreSample:
        """Writes the scores of a split and samples them.

        Args:
          split: The split.
          scores: Float64 [n] or [n, num_scores], nan where there is none.
          is_scored: Which rows it was tried to score, bool [n].
        """
        scores = scores.reshape(len(scores), len(self.group_weights))
        column = aligned.vector_column(scores, _DTYPE)
        fields = [pa.field("scores", column.type), pa.field("is_scored", pa.bool_())]
        self.write_rows(split, pa.schema(fields), {"scores": column, "is_scored": is_scored})
        return self.statistic(split)

    def finish(self, total: ScoreSample | None) -> None:
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
        """Reads the row-aligned scores of a split, several as one: float64 [n], nan where there is none."""
        return combine_scores(self._read(split), np.array(self.facts()["weights"]))

    @once_per_process
    def facts(self) -> dict[str, Any]:
        """Reads the `median` of the scores, their `weights`, and how many examples were `scored`, once per process."""
        return read_json(self.artifact)

    def _read(self, split: Split) -> np.ndarray:
        scores, _ = read_scores(self.rows_path(split))
        scores[self.corpus.rejected_since(split)] = np.nan
        return scores

    def _sample(self, split: Split, rows: aligned.Rows, scores: np.ndarray) -> ScoreSample:
        wanted, number = self.wanted(split, rows), max(1, self.num_wanted())
        return ScoreSample.of(scores, wanted, rows.keys, self.corpus.seed, number)


def read_scores(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of scores: float64 [n, num_scores], and which rows it was tried to score, bool [n]."""
    table = aligned.read_table(path)
    scores = aligned.unpack_vectors(table.column("scores"), _DTYPE).copy()
    return scores, table.column("is_scored").to_numpy()
