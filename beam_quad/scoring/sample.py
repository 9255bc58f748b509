"""A sample of scores, for statistics relative to the corpus."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from beam_quad import seeding
from beam_quad.scoring.groups import standardised_weights

# The standard error of the median of 20,000 values is below 1 % of their spread.
SAMPLED_SCORES = 20_000


@dataclasses.dataclass(frozen=True)
class ScoreSample:
    """Scores of a sample of examples drawn by hash. An additive statistic.

    Attributes:
      values: Float64 [n, num_scores], in any order.
      scored: Number of examples with a score, sampled or not.
      unscorable: Number of examples that could not be scored.
      known: Number of examples, scored or unscorable, known from an earlier run.
    """

    values: np.ndarray
    scored: int
    unscorable: int
    known: int = 0

    def __add__(self, other: "ScoreSample") -> "ScoreSample":
        return ScoreSample(
            np.concatenate([self.values, other.values]),
            self.scored + other.scored,
            self.unscorable + other.unscorable,
            self.known + other.known,
        )

    @classmethod
    def of(
        cls,
        scores: np.ndarray,
        is_wanted: np.ndarray,
        keys: np.ndarray,
        seed: int,
        num_examples: int,
    ) -> "ScoreSample":
        """Draws from rows.

        Args:
          scores: Float64 [n, num_scores]; nan or infinite if a row could not be scored.
          is_wanted: Whether each row was to be scored, bool [n].
          keys: Keys of the examples (`seeding.keys`), uint64 [n].
          seed: The run's seed.
          num_examples: Usable examples of the corpus, of which about `SAMPLED_SCORES` are drawn.
        """
        # By hash, so the sample does not depend on the order in which splits are scored.
        drawn = seeding.is_drawn(seed, "scores", keys, SAMPLED_SCORES / num_examples)
        finite = is_wanted & np.isfinite(scores).all(axis=1)
        unscorable = int(np.count_nonzero(is_wanted & ~finite))
        return cls(scores[finite & drawn], int(finite.sum()), unscorable)

    def weights(self, group_weights: Sequence[float]) -> np.ndarray:
        """Standardises the weights of several scores with different spreads, float64 [num_scores]; see `scoring.groups`."""
        if len(group_weights) == 1:
            return np.ones(1)
        # Sorted, because the last bits of a standard deviation depend on the order of the values.
        return standardised_weights(group_weights, self.values[np.lexsort(self.values.T)])

    def median(self, weights: np.ndarray) -> float:
        """Computes the sample median of the weighted sum of scores, with `weights` float64 [num_scores]; 0 without a sample."""
        return float(np.median(self.values @ weights)) if len(self.values) else 0.0
