"""Meets a token budget exactly: the bucket in which it ends is cut in hash order."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

MAX_DRAW = np.uint64(np.iinfo(np.uint64).max)


@dataclasses.dataclass(frozen=True, eq=False)
class CutExamples:
    """The examples of the buckets to be cut, without their text. An additive statistic.

    Attributes:
      bucket: Which of the buckets, int64 [n].
      draw: Order within the bucket, ascending, uint64 [n].
      tokens: int64 [n].
    """

    bucket: Array
    draw: Array
    tokens: Array

    @classmethod
    def none(cls) -> "CutExamples":
        """Makes the statistic of no examples."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing.astype(np.uint64), nothing)

    def __add__(self, other: "CutExamples") -> "CutExamples":
        return CutExamples(
            np.concatenate([self.bucket, other.bucket]),
            np.concatenate([self.draw, other.draw]),
            np.concatenate([self.tokens, other.tokens]),
        )

    def threshold(self, bucket: int, budget_tokens: int) -> np.uint64:
        """Finds the highest draw still taken from a bucket.

        The example in which the budget ends is taken, so the budget is exceeded by less than one example. No example is
        longer than `records.Budget.longest`.

        Returns:
          The draw, uint64; `MAX_DRAW` if the whole bucket fits.
        """
        inside = self.bucket == bucket
        order = np.argsort(self.draw[inside])
        filled = np.cumsum(self.tokens[inside][order])
        # The first example with which the budget is full. A budget that is met exactly takes no further one.
        at = int(np.searchsorted(filled, budget_tokens))
        return MAX_DRAW if at >= len(order) else np.uint64(self.draw[inside][order][at])

    def tokens_up_to(self, bucket: int, draw: np.uint64) -> int:
        """Sums the tokens of a bucket's examples whose draw is at most `draw`."""
        return int(self.tokens[(self.bucket == bucket) & (self.draw <= draw)].sum())


def cut_blocks(
    take_tokens: Mapping[tuple[int, int], int], examples: CutExamples | None
) -> dict[tuple[int, int], np.uint64 | None]:
    """Cuts block after block; the surplus of one, less than an example, is taken off the next.

    Args:
      take_tokens: Tokens to take from each block, by (cluster, block), in the order in which they were accepted.
      examples: The examples of those blocks, whose `bucket` is the place of the block in their sorted order; None if
        there are none.

    Returns:
      The highest draw taken from each block; None if nothing is taken.
    """
    if examples is None:
        return {}
    # In sorted order, as `examples.bucket` counts them; the blocks are cut in the order of acceptance.
    bucket = {arm: number for number, arm in enumerate(sorted(take_tokens))}
    draws: dict[tuple[int, int], np.uint64 | None] = {}
    surplus = 0
    for arm, tokens in take_tokens.items():
        wanted = tokens - surplus
        if wanted <= 0:
            draws[arm], surplus = None, -wanted
            continue
        draw = examples.threshold(bucket[arm], wanted)
        draws[arm], surplus = draw, examples.tokens_up_to(bucket[arm], draw) - wanted
    return draws
