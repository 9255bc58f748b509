"""One vector for all query groups, so that the rounds after the pilot score once and not once a group."""

import dataclasses
from typing import Annotated

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.scoring.vectors import Vectors, combine_vectors, write_vectors
from beam_quad.stages.base import Stored
from beam_quad.stages.influence.query_vectors import VectorFiles, read_slice, read_slices
from beam_quad.stages.quad.bandit import Bandit


@dataclasses.dataclass(frozen=True)
class CombinedVectors(Stored):
    """The combined vector of all query groups, written at the end of the pilot; scores are linear in it.

    One slice of the layers is in memory at a time, with the vectors of all groups.

    Args:
      bandit: The bandit, with the vectors and the weights of the groups.
      vectors: The vectors of the groups.
    """

    kind = "combined"

    bandit: Annotated[
        Bandit, identity.CountedAs(Bandit.pilot, "the scores of a pilot know no budget")
    ]
    vectors: VectorFiles

    @property
    def root(self) -> str:
        return self.bandit.root

    def load(self) -> Vectors:
        """Reads the combined vector."""
        return read_slices([self._path(number) for number in range(len(self.vectors.paths))])

    def write(self, weights: np.ndarray) -> None:
        """Writes the sum of the groups' vectors times their weights, float64 [num_groups]."""
        for number, path in enumerate(self.vectors.paths):
            vectors = read_slice(path)
            combined = combine_vectors(vectors, dict(zip(vectors, weights.tolist(), strict=True)))
            with files.writing(self._path(number)) as file:
                write_vectors(file, {"combined": combined})

    def _path(self, number: int) -> str:
        return self.path(f"{number:03d}.safetensors")
