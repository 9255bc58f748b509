"""Landmarks: the few examples with exactly computed influence.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import archives, seeding

Array = np.ndarray[Any, np.dtype[Any]]

NUM_LANDMARKS = 4096
_LEAST_LANDMARKS = 512
_EXAMPLES_PER_LANDMARK = 8


def default_num_landmarks(num_examples: int) -> int:
    """Decides how many landmarks to draw: an eighth of the corpus, between 512 and the paper's 4,096."""
    return min(NUM_LANDMARKS, max(_LEAST_LANDMARKS, num_examples // _EXAMPLES_PER_LANDMARK))


@dataclasses.dataclass(frozen=True, eq=False)
class LandmarkDraw:
    """The examples with the lowest draws so far: a uniform sample. An additive statistic.

    An example among the lowest draws of the corpus is also among the lowest of its split, so each split proposes its lowest
    draws and the lowest of all proposals are the landmarks. A draw is a bijection of the 64-bit key: draws are equal only if
    keys are equal. Equal keys count once, so adding a statistic twice changes nothing.

    Attributes:
      keys: Keys of the examples, in order of draw, uint64 [at most num_landmarks].
      seed: The run's seed.
      num_landmarks: Number of examples kept.
    """

    keys: Array
    seed: int
    num_landmarks: int = NUM_LANDMARKS

    def __post_init__(self) -> None:
        if self.num_landmarks < 1:
            raise ValueError(f"num_landmarks must be at least 1, got {self.num_landmarks}")

    @classmethod
    def of(cls, keys: Array, seed: int, num_landmarks: int = NUM_LANDMARKS) -> "LandmarkDraw":
        """Draws from examples.

        Args:
          keys: Keys of the examples with a loss token (`seeding.keys`), uint64 [n]; only they can be landmarks.
          seed: The run's seed.
          num_landmarks: Number of examples to draw.

        Returns:
          The draw; all examples if there are no more than `num_landmarks`.
        """
        return cls(_lowest(np.asarray(keys, np.uint64), seed, num_landmarks), seed, num_landmarks)

    def __add__(self, other: "LandmarkDraw") -> "LandmarkDraw":
        mine, theirs = (self.seed, self.num_landmarks), (other.seed, other.num_landmarks)
        if mine != theirs:
            raise ValueError(
                f"cannot add draws of different (seed, num_landmarks), {mine} and {theirs}"
            )
        return LandmarkDraw.of(np.concatenate([self.keys, other.keys]), *mine)

    def contains(self, keys: Array) -> Array:
        """Tests which examples are landmarks, bool [n]."""
        return np.isin(np.asarray(keys, np.uint64), self.keys)

    def to_bytes(self) -> bytes:
        """Writes the draw as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "LandmarkDraw":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        return cls(found["keys"], int(found["seed"]), int(found["num_landmarks"]))


def _lowest(keys: Array, seed: int, count: int) -> Array:
    _, first = np.unique(seeding.mix(seed, "landmark", keys), return_index=True)
    return keys[first[:count]]
