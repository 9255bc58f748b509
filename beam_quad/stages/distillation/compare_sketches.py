"""The influence of every landmark on every target, by sketches."""

import dataclasses

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.scoring.cosines import scaled_sketches, sketched_products
from beam_quad.scoring.vectors import load_vectors
from beam_quad.stages.distillation.landmarks import (
    LANDMARK_COLUMNS,
    landmark_groups,
    read_landmarks,
)
from beam_quad.stages.distillation.score_landmarks import (
    count_scores,
    score_table,
    scores_path,
    write_scores,
)
from beam_quad.stages.distillation.sketch import Sketcher, Sketching, SketchingTask, read_sketches
from beam_quad.stages.read.corpus import write_json


@dataclasses.dataclass
class CompareSketches(SketchingTask):
    """Scores the landmarks on every target by their sketches: a product of matrices.

    Takes group numbers and writes what `ScoreLandmarks` writes. The error of a sketch, 1 / sqrt(its length), is small beside the
    cosines of plain gradients; beside those with a preconditioned vector, which lies where gradients are small, it is not.

    Args:
      sketching: How the landmarks were sketched.
      vectors_path: Artifact of `FitQueryVectors`: a gradient for each target.
      halves_path: Those of the halves of each target's texts.
      landmarks_dir: Folder of `GatherLandmarks`.
      sketches_dir: Folder of `SketchLandmarks`.
      folder: Where the scores by group and `scores.json` go.
    """

    sketching: Sketching
    vectors_path: str
    halves_path: str
    landmarks_dir: str
    sketches_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "CompareSketches"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "scores.json")

    def pieces(self) -> list[int]:
        return landmark_groups(self.landmarks_dir)

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (scores_path(self.folder, piece),)

    def read(self, piece: int) -> Tally:
        return count_scores(aligned.read_table(self.paths(piece)[0]))

    def do(self, piece: int, model: Sketcher) -> Tally:
        keys, sketches = read_sketches(self.sketches_dir, piece)
        landmarks = read_landmarks(self.landmarks_dir, piece, LANDMARK_COLUMNS)
        landmarks = landmarks.filter(pa.array(np.isin(landmarks.column("key").to_numpy(), keys)))
        under_halves = None
        if piece == 0:
            under_halves = self._products(sketches, model, self.halves_path)
        table = score_table(
            landmarks, self._products(sketches, model, self.vectors_path), under_halves
        )
        write_scores(self.folder, piece, table)
        return count_scores(table)

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, (total or Tally()).counts)

    def _products(self, sketches: np.ndarray, model: Sketcher, path: str) -> np.ndarray:
        """Multiplies sketches by those of vectors, times the vectors' norms: float64 [n, num_vectors]."""

        def sketch() -> np.ndarray:
            vectors = load_vectors(files.read_bytes(path)).values()
            return scaled_sketches([model.gradients.sketch_vector(vector) for vector in vectors])

        matrix = cached(("sketched vectors", self.sketching.key, path), sketch)
        return sketched_products(sketches, matrix)
