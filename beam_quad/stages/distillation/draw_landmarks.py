"""The draw of the landmarks."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from beam_quad.artifacts import files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.distillation import LandmarkDraw, LandmarkDraws, default_num_landmarks
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.selection.shares import Bound, asking, members_of
from beam_quad.stages.read.patterns import ReadPatterns
from beam_quad.stages.read.splits import SplitStage


@dataclasses.dataclass(frozen=True)
class DrawLandmarks(SplitStage):
    """Draws the landmarks, a uniform sample of the corpus: the reserve's usable examples of the lowest hashes.

    Takes splits and returns `LandmarkDraws`. If the sample holds too few documents for a share, the share gets
    landmarks of its own.

    Args:
      corpus: The corpus.
      num_landmarks: Number of landmarks, or None for the default for the corpus's size.
      patterns: The conditions of the shares each row meets; None without shares.
      bounds: The shares.
    """

    kind = "draws"
    artifact_name = "draw.npz"
    what: ClassVar[str] = "Landmarks"
    line: ClassVar[str] = "landmarks"

    num_landmarks: int | None
    patterns: ReadPatterns | None = None
    bounds: tuple[Bound, ...] = ()

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(
            super().work(sizes), line="landmarks", documents=self.expected(sizes)
        )

    def expected(self, sizes: Sizes) -> int:
        """Returns the expected number of landmarks."""
        documents = self.texts_of(sizes).documents
        return min(self.num_landmarks or default_num_landmarks(max(1, documents)), documents)

    def do(self, piece: Split, model: Any) -> LandmarkDraws:
        rows = self.corpus.rows(piece)
        number = self.num_landmarks or default_num_landmarks(max(1, self.corpus.num_usable()))
        # Only the reserve has its texts stored, and gradients of landmarks need the texts.
        at = np.flatnonzero(self.corpus.in_reserve(rows))
        asked = asking(self.bounds)
        parts = np.zeros((0, len(at)), bool)
        if self.patterns is not None:
            patterns = self.patterns.read(piece)[at]
            parts = members_of(asked, self.patterns.conditions, patterns)
        shares = [bound.share for bound in asked]
        return LandmarkDraws.of(rows.keys[at], self.corpus.seed, number, parts, shares)

    def finish(self, total: LandmarkDraws) -> None:
        files.write_once(self.artifact, total.together().to_bytes())

    @once_per_process
    def load(self) -> LandmarkDraw:
        """Loads the draw, once per process."""
        return LandmarkDraw.from_bytes(files.read_bytes(self.artifact))
