"""Which examples are landmarks."""

import dataclasses
from typing import Any

from beam_quad.artifacts import files
from beam_quad.distillation import LandmarkDraw, default_num_landmarks
from beam_quad.records import Split
from beam_quad.stages.base import Task
from beam_quad.stages.read.corpus import Corpus


@dataclasses.dataclass
class DrawLandmarks(Task):
    """Draws the landmarks: the usable examples of the reserve with the lowest draws, a uniform sample of the corpus.

    Takes splits and gives a `LandmarkDraw`.

    Args:
      corpus: The corpus.
      folder: Where `draw.npz` goes.
      num_landmarks: How many, or None for the default of the corpus's size.
    """

    corpus: Corpus
    folder: str
    num_landmarks: int | None

    @property
    def name(self) -> str:
        return "DrawLandmarks"

    @property
    def artifact(self) -> str:
        return draw_path(self.folder)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> LandmarkDraw:
        rows = self.corpus.rows(piece)
        number = self.num_landmarks or default_num_landmarks(self.corpus.num_usable())
        return LandmarkDraw.of(rows.keys[self.corpus.in_reserve(rows)], self.corpus.seed, number)

    def finish(self, total: LandmarkDraw) -> None:
        files.write_once(self.artifact, total.to_bytes())


def draw_path(folder: str) -> str:
    """Where `DrawLandmarks` writes."""
    return files.join(folder, "draw.npz")
