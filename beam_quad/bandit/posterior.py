"""What clusters are worth after the rounds: means of their scored examples, shrunk towards the mean of all.

A pull of ten examples says of a block of thousands no more than of its cluster. Where clusters differ little beside
their examples, as the intra-cluster correlation says, the mean of a few examples is mostly noise, and the highest means are
mostly luck: each is shrunk by the share of its variance that lies between clusters.

References:
  Efron & Morris, Stein's Estimation Rule and its Competitors, 1973 (shrinkage by empirical Bayes).
  Donner, A Review of Inference Procedures for the Intraclass Correlation Coefficient in the One-Way Random Effects Model,
  1986 (variance components).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.bandit.arms import ArmPrior, PullTable

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class VarianceComponents:
    """How far examples lie from the mean of their cluster, and clusters from the mean of all.

    Attributes:
      mean: Mean of the clusters' means; nan without any.
      between: Variance of the clusters' true means, at least 0.
      within: Variance of influence within clusters.
    """

    mean: float
    between: float
    within: float

    @classmethod
    def of(cls, pilot: PullTable) -> "VarianceComponents":
        """Estimates them by a one-way analysis of variance of the pilot, which pulls every cluster once.

        The variance of the pulls' means is that of the clusters' means and, on average, that of a pull's error, the variance within
        clusters times Σw² / (Σw)² of its token weights w.

        Args:
          pilot: The pulls; those without a scorable example do not count.
        """
        is_scored = pilot.tokens_per_pull > 0
        errors = relative_errors([pilot], int(pilot.cluster_id.max(initial=-1)) + 1)
        return cls.of_means(
            pilot.means[is_scored], errors[pilot.cluster_id[is_scored]], pilot.pooled_deviation()
        )

    @classmethod
    def of_means(cls, means: Array, errors: Array, deviation: float) -> "VarianceComponents":
        """Estimates them from what was scored of each cluster.

        Args:
          means: Token-weighted mean influence of each cluster's scored examples, float64 [n].
          errors: `relative_errors` of these clusters, float64 [n].
          deviation: Standard deviation of influence within clusters.
        """
        within = deviation**2
        if not means.size:
            return cls(math.nan, 0.0, within)
        variance = float(means.var(ddof=1)) if means.size > 1 else 0.0
        error = float((within * errors).mean())
        return cls(float(means.mean()), max(variance - error, 0.0), within)

    @property
    def intra_cluster_correlation(self) -> float:
        """Share of the variance of influence that lies between clusters, in [0, 1]; nan where nothing varies."""
        total = self.between + self.within
        return self.between / total if total > 0 else math.nan

    def posterior_means(self, means: Array, errors: Array) -> Array:
        """Shrinks means towards the mean of all.

        Args:
          means: Token-weighted mean influence of each cluster's scored examples, float64 [num_clusters]; nan without any.
          errors: `relative_errors`, float64 [num_clusters].

        Returns:
          Float64 [num_clusters]: mean + s (means - mean), s = between / (between + within · errors); the mean of all where
          nothing is known.
        """
        known = ~np.isnan(means)
        variance = self.between + self.within * errors[known]
        shrinkage = np.divide(
            self.between, variance, out=np.zeros(len(variance)), where=variance > 0
        )
        posterior = np.full(len(means), self.mean)
        posterior[known] += shrinkage * (means[known] - self.mean)
        return posterior


def relative_errors(
    tables: Sequence[PullTable], num_clusters: int, prior: ArmPrior | None = None
) -> Array:
    """Computes the variance of each cluster's token-weighted mean, over the variance of one example.

    Args:
      tables: The pulls of all rounds.
      num_clusters: Number of clusters.
      prior: What was known of them before.

    Returns:
      Σw² / (Σw)² of the tokens w of its scored examples, float64 [num_clusters]; inf without any.
    """
    totals, squares = np.zeros(num_clusters), np.zeros(num_clusters)
    if prior is not None:
        totals, squares = prior.tokens.copy(), prior.squares.copy()
    for table in tables:
        cluster_id = table.cluster_id[table.pull]
        # Integers below 2**53, which float64 adds exactly in any order.
        totals += np.bincount(cluster_id, table.tokens, num_clusters)
        squares += np.bincount(cluster_id, table.tokens.astype(np.float64) ** 2, num_clusters)
    errors = np.full(num_clusters, np.inf)
    np.divide(squares, totals**2, out=errors, where=totals > 0)
    return errors
