"""The influence of every landmark on every target, by passes through the proxy."""

import dataclasses

import numpy as np
import pyarrow as pa

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.stages.base import ModelTask
from beam_quad.stages.distillation.landmarks import (
    LANDMARK_COLUMNS,
    landmark_groups,
    read_landmarks,
)
from beam_quad.stages.influence.score import InfluenceScoring, Scorer
from beam_quad.stages.read.corpus import write_json


@dataclasses.dataclass
class ScoreLandmarks(ModelTask):
    """Scores the landmarks exactly on every target: a forward and a backward pass, and no gradient of a parameter formed.

    Takes group numbers, writes a file of scores each, and gives counts. A score is the product of the target's vector with the
    landmark's gradient over the norm of that gradient. A landmark that predicts no token, or whose score is not finite,
    has none. Those of group 0 are scored under the halves of each target's texts too.

    Args:
      scoring: The targets' vectors, on normalised gradients.
      halves: The same with the vectors of their halves.
      landmarks_dir: Folder of `GatherLandmarks`.
      folder: Where the scores by group and `scores.json` go.
    """

    scoring: InfluenceScoring
    halves: InfluenceScoring
    landmarks_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "ScoreLandmarks"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "scores.json")

    @property
    def model_key(self) -> str:
        return seeding.digest(self.scoring.key, self.halves.key)

    @property
    def device(self) -> str:
        return self.scoring.device

    def load(self) -> Scorer:
        return self.scoring.load()

    def pieces(self) -> list[int]:
        return landmark_groups(self.landmarks_dir)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (scores_path(self.folder, piece),)

    def read(self, piece: int) -> Tally:
        return count_scores(aligned.read_table(self.paths(piece)[0]))

    def do(self, piece: int, model: Scorer) -> Tally:
        landmarks = read_landmarks(self.landmarks_dir, piece, [*LANDMARK_COLUMNS, "text"])
        texts = model.prepare(landmarks.column("text").to_pylist())
        # Twice as many vectors, which one worker holds for one piece.
        under_halves = self.halves.load().score(texts) if piece == 0 else None
        table = score_table(landmarks, model.score(texts), under_halves)
        write_scores(self.folder, piece, table)
        return count_scores(table)

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, (total or Tally()).counts)


_SCORES = pa.list_(pa.float64())


def score_table(
    landmarks: pa.Table, scores: np.ndarray, under_halves: np.ndarray | None
) -> pa.Table:
    """Puts the scores of a group beside its landmarks, without those that have none.

    Args:
      landmarks: `LANDMARK_COLUMNS` of n landmarks.
      scores: Float64 [n, num_targets]; nan where there is none.
      under_halves: The same for the halves' vectors, or None.
    """
    finite = np.isfinite(scores).all(axis=1)
    table = landmarks.select(LANDMARK_COLUMNS)
    table = table.append_column("scores", pa.array(list(scores), _SCORES))
    halves = [None] * len(scores) if under_halves is None else list(under_halves)
    return table.append_column("halves", pa.array(halves, _SCORES)).filter(pa.array(finite))


def write_scores(folder: str, group: int, table: pa.Table) -> None:
    """Writes what `score_table` made."""
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    aligned.write_table(scores_path(folder, group), table.schema, columns)


def scores_path(folder: str, group: int) -> str:
    """Where the scores of a group of landmarks lie."""
    return files.join(folder, "groups", f"group-{group:05d}.parquet")


def count_scores(table: pa.Table) -> Tally:
    """Counts the landmarks of a group that have scores."""
    return Tally({"scored": table.num_rows})
