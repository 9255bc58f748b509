"""What pulled blocks are expected to give where, of a block, only what reaches a threshold is taken."""

import bisect
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.bandit.arms import PullTable
from beam_quad.bandit.rules import expected_share

Array = np.ndarray[Any, np.dtype[Any]]

# An arm's share of examples that reach a threshold is known from a handful of scores. As many again are supposed,
# which lie about the arm's mean as those of all arms do.
PRIOR_EXAMPLES = 4.0


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredExamples:
    """All examples scored so far, for what depends on more than the means of arms.

    Attributes:
      cluster_id: Arm of each example, int64 [n].
      tokens: int64 [n].
      influence: Finite, float64 [n].
      means: Mean influence of each arm, float64 [num_clusters]; nan where nothing of it is scored.
      residuals: How far scored examples lie from the mean of their arm, ascending, float64 [examples >= 1].
    """

    cluster_id: Array
    tokens: Array
    influence: Array
    means: Array
    residuals: Array

    @classmethod
    def of(cls, rounds: Sequence[PullTable], means: Array, residuals: Array) -> "ScoredExamples":
        """Puts the pulls of all rounds together."""
        none = np.zeros(0, dtype=np.int64)
        return cls(
            np.concatenate([none, *(table.cluster_id[table.pull] for table in rounds)]),
            np.concatenate([none, *(table.tokens for table in rounds)]),
            np.concatenate([none.astype(np.float64), *(table.influence for table in rounds)]),
            means,
            residuals,
        )

    def tokens_above(self, threshold: float) -> Array:
        """Sums the tokens of each arm's scored examples that reach a threshold, int64 [num_clusters]."""
        reaches = self.influence >= threshold
        return self._per_arm(self.cluster_id[reaches], self.tokens[reaches])

    def shares(self, threshold: float) -> Array:
        """Estimates which share of each arm's tokens reaches a threshold.

        The share among an arm's scored examples is drawn towards that of all arms' residuals about its mean, as by
        `PRIOR_EXAMPLES` examples of average size.

        Returns:
          In [0, 1], float64 [num_clusters]; 0 for an arm of which nothing is scored.
        """
        scored = self._per_arm(self.cluster_id, self.tokens)
        prior_tokens = PRIOR_EXAMPLES * int(self.tokens.sum()) / max(self.tokens.size, 1)
        supposed = prior_tokens * expected_share(threshold, self.means, self.residuals)
        shares = (self.tokens_above(threshold) + supposed) / np.maximum(scored + prior_tokens, 1)
        return np.where(scored > 0, shares, 0.0)

    def yields(self, threshold: float, pulled_tokens: Array) -> Array:
        """Estimates how many tokens of each arm's pulled blocks reach a threshold.

        A block is a random cut of its cluster: of what it holds beside its scored examples, which are known, the arm's
        share is expected, whichever block it is.

        Args:
          threshold: An influence.
          pulled_tokens: Tokens of the blocks that were pulled, the scored examples' included, int64 [num_clusters].

        Returns:
          float64 [num_clusters].
        """
        unscored = pulled_tokens - self._per_arm(self.cluster_id, self.tokens)
        expected: Array = self.tokens_above(threshold) + unscored * self.shares(threshold)
        return expected

    def water_level(
        self, unpulled_tokens: Array, pulled_tokens: Array, budget_tokens: float, margin: float
    ) -> float:
        """Finds the mean influence down to which the arms are expected to give what pulled blocks do not.

        Of an arm with that very mean about half is taken, and of the better ones more: a lower level would pull no more
        than it needs, a higher one more and more blocks for less and less of each.

        Args:
          unpulled_tokens: Tokens of the blocks that each arm has left, int64 [num_clusters].
          pulled_tokens: As in `yields`.
          budget_tokens: What pulled and unpulled blocks together are to give.
          margin: Unpulled blocks are to give so many times what is missing.

        Returns:
          The highest of the means at which the unpulled blocks of arms that reach it suffice; -inf where they never do.
        """
        known = np.flatnonzero(~np.isnan(self.means) & (unpulled_tokens > 0))
        known = known[np.argsort(-self.means[known], kind="stable")]

        def suffices(rank: int) -> bool:
            level = float(self.means[known[rank]])
            arms = known[: rank + 1]
            left = budget_tokens - total(self.yields(level, pulled_tokens))
            return total(unpulled_tokens[arms] * self.shares(level)[arms]) >= margin * left

        rank = bisect.bisect_left(range(known.size), True, key=suffices)
        return float(self.means[known[rank]]) if rank < known.size else -math.inf

    def _per_arm(self, cluster_id: Array, tokens: Array) -> Array:
        # bincount sums in float64, which is exact for integers below 2**53.
        sums = np.bincount(cluster_id, weights=tokens, minlength=self.means.size)
        return sums.astype(np.int64)


def total(values: Array) -> float:
    """Sums exactly, in whatever order."""
    return math.fsum(values.tolist())
