"""Scores of examples that an earlier run computed, by the same scoring."""

import dataclasses
from typing import Annotated

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.records import Split
from beam_quad.stages.influence.scored_rows import read_scores
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.refresh.base import Base


@dataclasses.dataclass(frozen=True)
class KnownScores:
    """The scores of the run that this one goes on from, its own and those that it knew.

    Args:
      base: That run.
      root: The folder of all artifacts.
      folder: Where the scores of its splits are stored, relative to the root.
    """

    base: Base
    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    folder: Annotated[str, identity.NotCounted("it follows from the base")]

    def read(self, split: Split) -> tuple[np.ndarray, np.ndarray] | None:
        """Reads the scores of a split.

        Returns:
          Float64 [n, num_scores], and which rows were scored, with or without a finite score, bool [n]; None of a split that
          the base did not have.
        """
        if not self.base.has(split):
            return None
        return read_scores(piece_path(files.join(self.root, *self.folder.split("/")), split))

    def is_scored(self, split: Split) -> np.ndarray | None:
        """Says which rows of a split were scored, bool [n]; None of a split that the base did not have."""
        found = self.read(split)
        return None if found is None else found[1]
