"""Mean influence of a cluster's new documents, shrunk towards the mean of its old documents.

A cluster's new documents have the true mean ν and its old ones μ. Over clusters, ν - μ has mean 0 and variance τ², which is how
much a generation of documents differs from the one before. The token-weighted mean of a few scored documents estimates each
of them with the error variance σ² e, e = Σw² / (Σw)². The posterior mean of ν weights both estimates by their precision,

    ν = a new + (1 - a) old,      a = (τ² + σ² e_old) / (τ² + σ² e_old + σ² e_new),

so a cluster moves from its old mean to its new one as new scores arrive, and sooner if generations differ more. If τ² = 0, all
its documents are pooled; if τ² is large, the new ones alone decide; without new scores, the old ones decide.

`bandit.posterior` shrinks clusters to the mean of all clusters, with the variance between clusters. Here each cluster is shrunk
to a mean of its own, which is itself estimated from a sample.

References:
  DerSimonian & Laird, Meta-analysis in Clinical Trials, 1986 (the moment estimate of τ²).
  Efron & Morris, Stein's Estimation Rule and its Competitors, 1973 (shrinkage by empirical Bayes).
"""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.refresh.scores import ScoreSums

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class NewMeans:
    """Posterior of the mean influence of each cluster's new documents.

    Attributes:
      means: Posterior means, float64 [num_clusters]; nan if no document of the cluster is scored, old or new.
      own: Weight of the new documents' own mean, in [0, 1], float64 [num_clusters]; 0 without a new scored document.
      variances: Posterior variances, float64 [num_clusters]; inf if no document is scored.
    """

    means: Array
    own: Array
    variances: Array


@dataclasses.dataclass(frozen=True)
class GenerationVariance:
    """Variance between the new and old documents of a cluster, and within clusters.

    Attributes:
      between: τ², the variance of the difference of a cluster's true means, at least 0.
      within: σ², the variance of influence within clusters.
    """

    between: float
    within: float

    @classmethod
    def of(cls, old: ScoreSums, new: ScoreSums) -> "GenerationVariance":
        """Estimates both variances by the method of moments.

        σ² is pooled over clusters and generations. With d the difference of a cluster's means and v = σ² (e_old + e_new) its
        error variance, the expectation of Σ d² / v over clusters is their number plus τ² Σ 1 / v. A common shift of all
        clusters is part of τ².

        Args:
          old: Sums over the old scored documents.
          new: Sums over the new scored documents.
        """
        parts = (old, new)
        freedom = sum(np.maximum(part.documents - 1, 0).sum() for part in parts)
        deviations = sum(part.deviations.sum() for part in parts)
        if not freedom or not deviations:
            # σ² cannot be estimated without two documents in a cluster, and is 0 if influence does not vary within clusters.
            differences = (new.means - old.means)[_in_both(old, new)] if freedom else np.zeros(0)
            return cls(float((differences**2).mean()) if len(differences) else 0.0, 0.0)
        within = float(deviations / freedom)
        both = _in_both(old, new)
        errors = within * (old.relative_errors + new.relative_errors)[both]
        squares = (new.means - old.means)[both] ** 2
        precision = (1 / errors).sum()
        excess = float(((squares / errors).sum() - both.sum()) / precision) if both.any() else 0.0
        return cls(max(0.0, excess), within)

    def posterior(self, old: ScoreSums, new: ScoreSums) -> NewMeans:
        """Combines the means of each cluster's new and old documents.

        Args:
          old: Sums over the old scored documents.
          new: Sums over the new scored documents.
        """
        # A tiny variance within clusters gives the weights of the limit σ² = 0 without dividing by 0.
        within = max(self.within, 1e-200)
        own = 1 / (within * new.relative_errors)
        others = 1 / (self.between + within * old.relative_errors)
        precision = own + others
        known = precision > 0
        weights = np.divide(own, precision, out=np.zeros(len(own)), where=known)
        means = weights * np.nan_to_num(new.means) + (1 - weights) * np.nan_to_num(old.means)
        variances = np.divide(1, precision, out=np.full(len(own), np.inf), where=known)
        return NewMeans(np.where(known, means, np.nan), weights, variances)


def allocate_pilot(documents: Array, budget: int) -> Array:
    """Allocates the new documents to score to clusters, in proportion to the clusters' new documents.

    What rounding down leaves goes to the largest remainders, and to the lower cluster id if they tie (Hamilton's method).

    Args:
      documents: New documents of each cluster, int64 [num_clusters].
      budget: Number of documents to score, at least 0.

    Returns:
      int64 [num_clusters], at most `documents`. The sum is the budget, or the number of all documents if that is less.

    Raises:
      ValueError: If a number is negative.
    """
    if budget < 0 or (len(documents) and documents.min() < 0):
        raise ValueError(f"numbers of documents must be at least 0, got a budget of {budget}")
    number = int(documents.sum())
    if budget >= number:
        return documents.astype(np.int64)
    # Python integers, because the products exceed 2**63 at 10^12 documents.
    quotas = [divmod(int(n) * budget, number) for n in documents]
    floors = np.array([quota for quota, _ in quotas], np.int64)
    order = sorted(range(len(quotas)), key=lambda cluster: (-quotas[cluster][1], cluster))
    floors[order[: budget - int(floors.sum())]] += 1
    return floors


def _in_both(old: ScoreSums, new: ScoreSums) -> Array:
    both: Array = (old.documents > 0) & (new.documents > 0)
    return both
