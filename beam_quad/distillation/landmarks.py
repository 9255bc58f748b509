"""Landmarks: the few examples with exactly computed influence.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

import dataclasses
import math
from collections.abc import Sequence
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
      keys: Keys of the examples, in order of draw, uint64 [at most num_landmarks]; more in the result of
        `LandmarkDraws.together`.
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

    @property
    def uniform(self) -> Array:
        """Keys of the landmarks that are a uniform sample, uint64 [at most num_landmarks]."""
        return self.keys[: self.num_landmarks]

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


@dataclasses.dataclass(frozen=True, eq=False)
class LandmarkDraws:
    """The draw from all examples, and one from each of some parts that must have landmarks. An additive statistic.

    Attributes:
      draws: The draw from all examples, then the draws from the parts.
    """

    draws: tuple[LandmarkDraw, ...]

    @classmethod
    def of(
        cls, keys: Array, seed: int, num_landmarks: int, parts: Array, shares: Sequence[float]
    ) -> "LandmarkDraws":
        """Draws from examples.

        Args:
          keys: As for `LandmarkDraw.of`, uint64 [n].
          seed: The run's seed.
          num_landmarks: Number of examples to draw from all.
          parts: Which examples belong to each part, bool [num_parts, n].
          shares: Share of a selection that each part makes up, in (0, 1]. The part gets at least half that share of
            `num_landmarks`.
        """
        # Half: the draw from all examples has some of each part already, and more would leave the common parts too few.
        least = [math.ceil(share * num_landmarks / 2) for share in shares]
        of_parts = (
            LandmarkDraw.of(keys[own], seed, number)
            for own, number in zip(parts, least, strict=True)
        )
        return cls((LandmarkDraw.of(keys, seed, num_landmarks), *of_parts))

    def __add__(self, other: "LandmarkDraws") -> "LandmarkDraws":
        return LandmarkDraws(tuple(a + b for a, b in zip(self.draws, other.draws, strict=True)))

    def together(self) -> LandmarkDraw:
        """All landmarks, in order of draw: the first ones are those from all, a uniform sample."""
        uniform = self.draws[0]
        keys = np.concatenate([draw.keys for draw in self.draws])
        return dataclasses.replace(uniform, keys=_lowest(keys, uniform.seed, len(keys)))


def _lowest(keys: Array, seed: int, count: int) -> Array:
    # `unique` sorts by draw, and counts equal keys once.
    _, first = np.unique(seeding.mix(seed, "landmark", keys), return_index=True)
    return keys[first[:count]]
