"""Scores of examples from an earlier run with the same scoring."""

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
    """Scores stored by the run that this one refreshes, including scores it took from earlier runs.

    Args:
      base: The run to refresh.
      root: The folder of all artifacts.
      folder: Folder of the scores of its splits, relative to the root.
    """

    base: Base
    root: Annotated[str, identity.NotCounted("where artifacts are stored")]
    folder: Annotated[str, identity.NotCounted("it follows from the base")]

    def read(self, split: Split) -> tuple[np.ndarray, np.ndarray] | None:
        """Reads the scores of a split.

        Returns:
          The scores, float64 [n, num_scores], and which rows were scored, even if the score is not finite, bool [n]. None
          if the base did not have the split.
        """
        if not self.base.has(split):
            return None
        # The folder is relative, because the artifacts may have moved since.
        return read_scores(piece_path(files.join(self.root, *self.folder.split("/")), split))

    def is_scored(self, split: Split) -> np.ndarray | None:
        """Returns which rows of a split were scored, bool [n]; None if the base did not have the split."""
        found = self.read(split)
        return None if found is None else found[1]
