"""The influence of every landmark on every target, by passes through the proxy."""

import dataclasses

from beam_quad import identity
from beam_quad.additive import Tally
from beam_quad.artifacts import traffic
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring.halves import HALVES
from beam_quad.stages.base import ModelStage
from beam_quad.stages.distillation.landmark_scores import STORED_SCORE_BYTES, LandmarkScores
from beam_quad.stages.distillation.landmarks import LANDMARK_COLUMNS, LANDMARKS_PER_GROUP
from beam_quad.stages.influence.score import InfluenceScoring, Scorer


@dataclasses.dataclass(frozen=True)
class ScoreLandmarks(LandmarkScores, ModelStage):
    """Scores the landmarks exactly on every target, by one forward and one backward pass without parameter gradients.

    Takes group numbers, writes a file of scores for each, and returns counts. A score is the product of the target's
    vector with the landmark's gradient, divided by the norm of the gradient.

    Args:
      landmarks: The landmarks.
      scoring: Scoring under the targets' vectors, with normalised gradients.
      halves: The same scoring under the vectors of the targets' halves.
    """

    kind = "landmark_scores"
    version = 2

    scoring: InfluenceScoring
    halves: InfluenceScoring

    @property
    def model_key(self) -> str:
        return identity.digest(self.scoring, self.halves)

    @property
    def device(self) -> str:
        return self.scoring.device

    def load(self) -> Scorer:
        return self.scoring.load()

    def work(self, sizes: Sizes) -> Work:
        number, num_targets = self.landmarks.drawn.expected(sizes), len(sizes.query)
        scored = self.scoring.work(sizes, number, num_targets)
        # One group of landmarks is scored under the halves of the targets' texts, too.
        num_halves = len(HALVES) * num_targets
        halves = self.halves.work(sizes, min(number, LANDMARKS_PER_GROUP), num_halves)
        return dataclasses.replace(
            scored,
            line="landmarks",
            flops=scored.flops + halves.flops,
            memory_bytes=scored.memory_bytes + halves.memory_bytes,
            bytes_stored=float(number * STORED_SCORE_BYTES * num_targets),
        )

    def do(self, piece: int, model: Scorer) -> Tally:
        landmarks = self.landmarks.read(piece, [*LANDMARK_COLUMNS, "text"])
        traffic.count("documents_scored", landmarks.num_rows)
        texts = model.prepare(landmarks.column("text").to_pylist())
        # The halves have twice as many vectors. They score one group, so only one worker holds them, for one piece.
        under_halves = self.halves.load().score(texts) if piece == 0 else None
        return self.write(piece, landmarks, model.score(texts), under_halves)
