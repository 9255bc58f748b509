"""Meeting a token budget exactly: whole buckets first, then the one in which it ends, cut in order of a hash."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import seeding
from beam_quad.additive import add_by_bucket

Array = np.ndarray[Any, np.dtype[Any]]

MAX_DRAW = np.uint64(np.iinfo(np.uint64).max)
_BUCKET_BITS = 16


def priorities(ranks: Array, draws: Array) -> Array:
    """Packs a ranking into one integer an example: higher is taken first, ties go by hash.

    Args:
      ranks: Float [n]; higher first, nan never. Compared in single precision.
      draws: Hash of each example, uint64 [n]; lower first.

    Returns:
      uint64 [n]: the rank's bits in the upper half, ordered as integers, and the inverted hash in the lower; 0 for nan.
    """
    bits = np.asarray(ranks, dtype=np.float32)
    packed = seeding.pack(seeding.ordered_bits(bits), np.asarray(draws, np.uint64))
    return np.where(np.isnan(bits), np.uint64(0), packed)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenHistogram:
    """Tokens by bucket, for those buckets that hold any. An additive statistic.

    Attributes:
      buckets: Ascending, int64 [m].
      tokens: int64 [m].
    """

    buckets: Array
    tokens: Array

    @classmethod
    def of(cls, packed: Array, tokens: Array, level: int, prefix: int) -> "TokenHistogram":
        """Counts examples by the next 16 bits of their priority.

        Args:
          packed: `priorities`, uint64 [n]; 0 is never counted.
          tokens: int64 [n].
          level: How many times 16 bits are decided already.
          prefix: Those bits; examples with others are not counted.
        """
        kept = in_bucket(packed, level, prefix)
        shift = np.uint64(64 - _BUCKET_BITS * (level + 1))
        bucket = ((packed[kept] >> shift) & np.uint64(0xFFFF)).astype(np.int64)
        counts = np.bincount(bucket, weights=tokens[kept], minlength=1 << _BUCKET_BITS)
        filled = np.flatnonzero(counts)
        return cls(filled, counts[filled].astype(np.int64))

    def __add__(self, other: "TokenHistogram") -> "TokenHistogram":
        own, others = (self.buckets, self.tokens), (other.buckets, other.tokens)
        return TokenHistogram(*add_by_bucket(own, others))

    def cut(self, budget_tokens: int) -> tuple[int, int]:
        """Finds the bucket in which the budget ends, taking buckets from the highest.

        Returns:
          That bucket (-1 where all of them fit), and the tokens of the buckets above it.
        """
        order = np.argsort(-self.buckets)
        below = np.cumsum(self.tokens[order])
        at = int(np.searchsorted(below, budget_tokens))
        if at == len(order):
            return -1, int(below[-1]) if len(below) else 0
        return int(self.buckets[order[at]]), int(below[at] - self.tokens[order[at]])


def in_bucket(packed: Array, level: int, prefix: int) -> Array:
    """Which priorities begin with the given 16 * `level` bits, bool [n]; never 0, the priority of nan."""
    if level == 0:
        return np.asarray(packed > 0)
    shift = np.uint64(64 - _BUCKET_BITS * level)
    return np.asarray((packed >> shift == np.uint64(prefix)) & (packed > 0))


@dataclasses.dataclass(frozen=True, eq=False)
class CutExamples:
    """The examples of the buckets that are to be cut, without their text. An additive statistic.

    Attributes:
      bucket: Which of the buckets, int64 [n].
      draw: Order within the bucket, ascending, uint64 [n].
      tokens: int64 [n].
    """

    bucket: Array
    draw: Array
    tokens: Array

    def __add__(self, other: "CutExamples") -> "CutExamples":
        return CutExamples(
            np.concatenate([self.bucket, other.bucket]),
            np.concatenate([self.draw, other.draw]),
            np.concatenate([self.tokens, other.tokens]),
        )

    def threshold(self, bucket: int, budget_tokens: int) -> np.uint64:
        """Finds the highest draw that is still taken from a bucket.

        The example in which the budget ends is taken, so that a budget is met to within one example, from above.

        Returns:
          The draw, uint64; `MAX_DRAW` where the whole bucket fits.
        """
        inside = self.bucket == bucket
        order = np.argsort(self.draw[inside])
        filled = np.cumsum(self.tokens[inside][order])
        at = int(np.searchsorted(filled, budget_tokens))
        return MAX_DRAW if at >= len(order) else np.uint64(self.draw[inside][order][at])

    def tokens_up_to(self, bucket: int, draw: np.uint64) -> int:
        """Sums the tokens of a bucket's examples whose draw is at most `draw`."""
        return int(self.tokens[(self.bucket == bucket) & (self.draw <= draw)].sum())
