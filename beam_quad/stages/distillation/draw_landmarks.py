"""The draw of the landmarks."""

import dataclasses
from typing import Any

from beam_quad.artifacts import files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.distillation import LandmarkDraw, default_num_landmarks
from beam_quad.records import Split
from beam_quad.stages.read.splits import SplitStage


@dataclasses.dataclass(frozen=True)
class DrawLandmarks(SplitStage):
    """Draws the landmarks: the usable examples of the reserve with the lowest hashes, a uniform sample of the corpus.

    Takes splits and returns a `LandmarkDraw`.

    Args:
      corpus: The corpus.
      num_landmarks: Number of landmarks, or None for the default for the corpus's size.
    """

    kind = "draws"
    artifact_name = "draw.npz"

    num_landmarks: int | None

    def do(self, piece: Split, model: Any) -> LandmarkDraw:
        rows = self.corpus.rows(piece)
        number = self.num_landmarks or default_num_landmarks(max(1, self.corpus.num_usable()))
        return LandmarkDraw.of(rows.keys[self.corpus.in_reserve(rows)], self.corpus.seed, number)

    def finish(self, total: LandmarkDraw) -> None:
        files.write_once(self.artifact, total.to_bytes())

    @once_per_process
    def load(self) -> LandmarkDraw:
        """Loads the draw, once per process."""
        return LandmarkDraw.from_bytes(files.read_bytes(self.artifact))

    @once_per_process
    def ranks(self) -> dict[int, int]:
        """Loads the rank of each landmark in the draw, by key, once per process."""
        return {int(key): rank for rank, key in enumerate(self.load().keys)}
