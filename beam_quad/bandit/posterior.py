"""Posterior means of clusters: means of the scored examples, shrunk towards the overall mean.

Ten scores say no more about a block of thousands of examples than about its cluster. If clusters differ little compared with
their examples (a low intra-cluster correlation), the mean of a few examples is mostly noise and the highest means are mostly
luck. Each mean is therefore shrunk by the share of its variance that is between clusters.

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
    """Variance of influence within and between clusters.

    Attributes:
      mean: Mean of the cluster means; nan without clusters.
      between: Variance of the clusters' true means, at least 0.
      within: Variance of influence within clusters.
    """

    mean: float
    between: float
    within: float

    @classmethod
    def of(cls, pilot: PullTable) -> "VarianceComponents":
        """Estimates the components by a one-way analysis of variance of the pilot, which pulls every cluster once.

        The variance of the pull means is the variance between clusters plus the mean error variance of a pull, which is the
        variance within clusters times Σw² / (Σw)² of the pull's token weights w.

        Args:
          pilot: The pulls; pulls without a scorable example do not count.
        """
        is_scored = pilot.tokens_per_pull > 0
        errors = relative_errors([pilot], int(pilot.cluster_id.max(initial=-1)) + 1)
        return cls.of_means(
            pilot.means[is_scored], errors[pilot.cluster_id[is_scored]], pilot.pooled_deviation()
        )

    @classmethod
    def of_means(cls, means: Array, errors: Array, deviation: float) -> "VarianceComponents":
        """Estimates the components from the mean of each cluster's scored examples.

        Args:
          means: Token-weighted mean influence of each cluster's scored examples, float64 [n].
          errors: `relative_errors` of the clusters, float64 [n].
          deviation: Standard deviation of influence within clusters.
        """
        within = deviation**2
        if not means.size:
            return cls(math.nan, 0.0, within)
        variance = float(means.var(ddof=1)) if means.size > 1 else 0.0
        error = float((within * errors).mean())
        # The difference of two estimates can be negative; a variance cannot.
        return cls(float(means.mean()), max(variance - error, 0.0), within)

    @property
    def intra_cluster_correlation(self) -> float:
        """Share of the variance of influence between clusters, in [0, 1]; nan if the variance is 0."""
        total = self.between + self.within
        return self.between / total if total > 0 else math.nan

    def posterior_means(self, means: Array, errors: Array) -> Array:
        """Shrinks means towards the overall mean.

        Args:
          means: Token-weighted mean influence of each cluster's scored examples, float64 [num_clusters]; nan without any.
          errors: `relative_errors`, float64 [num_clusters].

        Returns:
          mean + s (means - mean) with s = between / (between + within · errors), float64 [num_clusters]; the overall mean
          for a cluster without scored examples.
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
    """Computes the variance of each cluster's token-weighted mean relative to the variance of one example.

    Args:
      tables: The pulls of all rounds.
      num_clusters: Number of clusters.
      prior: Knowledge of the clusters before the first pull.

    Returns:
      Σw² / (Σw)² over the tokens w of each cluster's scored examples, float64 [num_clusters]; inf without scored examples.
    """
    totals, squares = np.zeros(num_clusters), np.zeros(num_clusters)
    if prior is not None:
        totals, squares = prior.tokens.copy(), prior.squares.copy()
    for table in tables:
        cluster_id = table.cluster_id[table.pull]
        # float64 adds integers below 2**53 exactly, in any order.
        totals += np.bincount(cluster_id, table.tokens, num_clusters)
        squares += np.bincount(cluster_id, table.tokens.astype(np.float64) ** 2, num_clusters)
    errors = np.full(num_clusters, np.inf)
    np.divide(squares, totals**2, out=errors, where=totals > 0)
    return errors
