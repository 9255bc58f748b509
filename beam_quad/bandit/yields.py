"""What pulled blocks are expected to give where, of a block, only what reaches a threshold is taken."""

import bisect
import dataclasses
import math
from typing import Any

import numpy as np

from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.rules import WATER_MARGIN, expected_share

Array = np.ndarray[Any, np.dtype[Any]]

# An arm's share of examples that reach a threshold is known from a handful of scores. As many again are supposed,
# which lie about the arm's mean as those of all arms do.
PRIOR_EXAMPLES = 4.0


@dataclasses.dataclass(frozen=True, eq=False)
class PulledBlocks:
    """What is known of the blocks that were pulled.

    Nothing but sums of integers, and one exact sum over arms, decides: the order of pulls does not matter.

    Attributes:
      cluster_id: Arm of each scored example, int64 [n].
      tokens: int64 [n].
      influence: Finite, float64 [n].
      pulled_tokens: Tokens of each arm's pulled blocks, the scored examples' included, int64 [num_clusters].
    """

    cluster_id: Array
    tokens: Array
    influence: Array
    pulled_tokens: Array

    @classmethod
    def none(cls, num_clusters: int) -> "PulledBlocks":
        """What is known before the first round."""
        no_example = np.zeros(0, dtype=np.int64)
        return cls(no_example, no_example, np.zeros(0), np.zeros(num_clusters, dtype=np.int64))

    def with_round(self, table: PullTable, block_tokens: Array) -> "PulledBlocks":
        """Adds the pulls of a round.

        Args:
          table: The pulls.
          block_tokens: Tokens of each pulled block, without the unscorable examples', int64 [pulls].
        """
        pulled = self.pulled_tokens.copy()
        np.add.at(pulled, table.cluster_id, block_tokens)
        return PulledBlocks(
            np.concatenate([self.cluster_id, table.cluster_id[table.pull]]),
            np.concatenate([self.tokens, table.tokens]),
            np.concatenate([self.influence, table.influence]),
            pulled,
        )

    def tokens_above(self, threshold: float) -> Array:
        """Sums the tokens of each arm's scored examples that reach a threshold, int64 [num_clusters]."""
        reaches = self.influence >= threshold
        return self._per_arm(self.cluster_id[reaches], self.tokens[reaches])

    def shares(self, threshold: float, means: Array, residuals: Array) -> Array:
        """Estimates which share of each arm's tokens reaches a threshold.

        The share among an arm's scored examples is drawn towards that of all arms' residuals about its mean, as by
        `PRIOR_EXAMPLES` examples of average size.

        Args:
          threshold: An influence.
          means: Mean influence of each arm, float64 [num_clusters]; nan where nothing of it is scored.
          residuals: How far scored examples lie from the mean of their arm, ascending, float64 [examples >= 1].

        Returns:
          In [0, 1], float64 [num_clusters]; 0 for an arm of which nothing is known.
        """
        scored = self._per_arm(self.cluster_id, self.tokens)
        prior_tokens = PRIOR_EXAMPLES * int(self.tokens.sum()) / max(self.tokens.size, 1)
        supposed = prior_tokens * expected_share(threshold, means, residuals)
        shares = (self.tokens_above(threshold) + supposed) / np.maximum(scored + prior_tokens, 1)
        return np.where(np.isnan(means), 0.0, shares)

    def yields(self, threshold: float, means: Array, residuals: Array) -> Array:
        """Estimates how many tokens of each arm's pulled blocks reach a threshold.

        A block is a random cut of its cluster: of what it holds beside its scored examples, which are known, the arm's
        share is expected, whichever block it is.

        Args:
          threshold: An influence.
          means: As in `shares`.
          residuals: As in `shares`.

        Returns:
          float64 [num_clusters].
        """
        unscored = self.pulled_tokens - self._per_arm(self.cluster_id, self.tokens)
        shares = self.shares(threshold, means, residuals)
        expected: Array = self.tokens_above(threshold) + unscored * shares
        return expected

    def missing(self, budget_tokens: int, threshold: float, means: Array, residuals: Array) -> int:
        """Counts the tokens of a budget that what reaches a threshold is not expected to fill.

        There is no margin: were less found than expected, the budget would end a little below the threshold. In
        `tests.benchmarks.bandit` this scores about as many examples as `block` acceptance does; to pull for 1.5 budgets
        scores 15 to 30 % more, for .01 to .03 more of the oracle's influence.
        """
        expected = _total(self.yields(threshold, means, residuals))
        return max(budget_tokens - math.floor(expected), 0)

    def water_level(
        self, budget_tokens: int, unpulled_tokens: Array, means: Array, residuals: Array
    ) -> float:
        """Finds the mean influence down to which the arms are expected to give what pulled blocks do not.

        Of an arm with that very mean about half is taken, and of the better ones more: a higher level would pull more
        and more blocks for less and less of each.

        Args:
          budget_tokens: What pulled and unpulled blocks together are to give.
          unpulled_tokens: Tokens of the blocks that each arm has left, int64 [num_clusters].
          means: As in `shares`.
          residuals: As in `shares`.

        Returns:
          The highest of the means at which the unpulled blocks of arms that reach it suffice; -inf where they never do.
        """
        known = np.flatnonzero(~np.isnan(means) & (unpulled_tokens > 0))
        known = known[np.argsort(-means[known], kind="stable")]

        def suffices(rank: int) -> bool:
            level, arms = float(means[known[rank]]), known[: rank + 1]
            given = _total(unpulled_tokens[arms] * self.shares(level, means, residuals)[arms])
            return given >= WATER_MARGIN * self.missing(budget_tokens, level, means, residuals)

        rank = bisect.bisect_left(range(known.size), True, key=suffices)
        return float(means[known[rank]]) if rank < known.size else -math.inf

    def _per_arm(self, cluster_id: Array, tokens: Array) -> Array:
        # bincount sums in float64, which is exact for integers below 2**53.
        sums = np.bincount(cluster_id, weights=tokens, minlength=self.pulled_tokens.size)
        return sums.astype(np.int64)


def _total(values: Array) -> float:
    """Sums exactly, in whatever order."""
    return math.fsum(values.tolist())
