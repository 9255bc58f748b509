"""The influence of every landmark on every target, by sketches."""

import dataclasses

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts.cache import cached
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring.cosines import scaled_sketches, sketched_products
from beam_quad.scoring.halves import HALVES
from beam_quad.stages.base import ModelStage
from beam_quad.stages.distillation.landmark_scores import STORED_SCORE_BYTES, LandmarkScores
from beam_quad.stages.distillation.landmarks import LANDMARK_COLUMNS
from beam_quad.stages.distillation.sketch import Sketcher, SketchLandmarks
from beam_quad.stages.influence.query_vectors import FitQueryVectors, VectorFiles


@dataclasses.dataclass(frozen=True)
class CompareSketches(LandmarkScores, ModelStage):
    """Scores the landmarks on every target by a matrix product of their sketches.

    Takes group numbers and writes the same files as `ScoreLandmarks`. The error of a sketch is 1 / sqrt(its length).
    This is small compared with cosines of plain gradients. It is not small compared with cosines to a preconditioned
    vector, which is large in the entries with small gradients.

    Args:
      landmarks: The landmarks.
      sketches: Their sketches.
      vectors: The gradients of each target and of the halves of its texts.
    """

    kind = "sketched_scores"

    sketches: SketchLandmarks
    vectors: FitQueryVectors

    @property
    def model_key(self) -> str:
        return self.sketches.model_key

    @property
    def device(self) -> str:
        return self.sketches.device

    def load(self) -> Sketcher:
        return self.sketches.load()

    def work(self, sizes: Sizes) -> Work:
        number, num_targets = self.landmarks.drawn.expected(sizes), len(sizes.query)
        length = min(self.sketches.sketching.dim, self.sketches.kept_entries(sizes))
        # Of every target the vector, and those of its halves.
        num_vectors = (1 + len(HALVES)) * num_targets
        return Work(
            "landmarks",
            # These are the sketched landmarks once more.
            float32_flops=2.0 * number * length * num_vectors,
            memory_bytes=float(num_vectors * sizes.scoring.vector_bytes),
            bytes_stored=float(number * STORED_SCORE_BYTES * num_targets),
        )

    def do(self, piece: int, model: Sketcher) -> Tally:
        # Sketches lack the unscorable landmarks. Both files are in the order of the draw, so rows align.
        keys, sketches = self.sketches.read(piece)
        landmarks = self.landmarks.read(piece, LANDMARK_COLUMNS)
        landmarks = landmarks.filter(pa.array(np.isin(landmarks.column("key").to_numpy(), keys)))
        # Split-half reliability is estimated from the landmarks of one group.
        under_halves = None
        if piece == 0:
            under_halves = self._products(sketches, model, self.vectors.halves)
        scores = self._products(sketches, model, self.vectors.vectors)
        return self.write(piece, landmarks, scores, under_halves)

    def _products(self, sketches: np.ndarray, model: Sketcher, vectors: VectorFiles) -> np.ndarray:
        """Returns products of sketches with sketched vectors, times the vectors' norms: float64 [n, num_vectors]."""

        def sketch() -> np.ndarray:
            return scaled_sketches(
                [model.gradients.sketch_vector(vector) for vector in vectors.load().values()]
            )

        # Cached beside the model: sketching the vectors costs more than comparing a group with them.
        matrix = cached(("sketched vectors", self.model_key, vectors.paths[0]), sketch)
        return sketched_products(sketches, matrix)
