"""What the new documents of a cluster are worth: their own mean, as far as it is known, else that of the cluster's old ones.

A cluster's new documents have a true mean ν, its old ones μ, and ν - μ has the mean 0 and the variance τ² over clusters: how
much a generation of documents differs from the one before. Of both, token-weighted means of a few scored documents are known, with
the errors σ² e, e = Σw² / (Σw)². The posterior of ν is the mean of two estimates weighted by their precisions,

    ν = a new + (1 - a) old,      a = (τ² + σ² e_old) / (τ² + σ² e_old + σ² e_new),

so a cluster goes over from its old mean to its new one as new scores come in, the sooner the more generations differ, without a
switch. At τ² = 0 all its documents are pooled; where τ² is large its new ones speak alone; without a score of theirs its old
ones do.

`bandit.posterior` shrinks clusters to the mean of all, whose variance is that between clusters; here each has a mean of its own to be
shrunk to, which is itself known from a sample.

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
    """What the new documents of each cluster are worth.

    Attributes:
      means: Posterior means of their influence, float64 [num_clusters]; nan where no document is scored, old or new.
      own: Weight of the new documents' own mean, in [0, 1], float64 [num_clusters]; 0 without a new scored document.
      variances: Posterior variances, float64 [num_clusters]; inf where no document is scored.
    """

    means: Array
    own: Array
    variances: Array


@dataclasses.dataclass(frozen=True)
class GenerationVariance:
    """How much the new documents of a cluster differ from its old ones, over all clusters.

    Attributes:
      between: τ², the variance of the difference of a cluster's true means, at least 0.
      within: σ², the variance of influence within clusters.
    """

    between: float
    within: float

    @classmethod
    def of(cls, old: ScoreSums, new: ScoreSums) -> "GenerationVariance":
        """Estimates both by the method of moments.

        σ² is pooled over clusters and generations. The expectation of Σ d² / v over the clusters' differences d of means, whose
        errors are v = σ² (e_old + e_new), is their number plus τ² Σ 1 / v. A shift of all clusters alike is part of τ².

        Args:
          old: Sums over the old scored documents.
          new: Sums over the new ones.
        """
        parts = (old, new)
        freedom = sum(np.maximum(part.documents - 1, 0).sum() for part in parts)
        deviations = sum(part.deviations.sum() for part in parts)
        if not freedom or not deviations:
            # Nothing tells generations from documents, or nothing varies within clusters.
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
        """Weighs the means of each cluster's new and old documents.

        Args:
          old: Sums over the old scored documents.
          new: Sums over the new ones.
        """
        # Without variance within clusters the weights are those of its limit at 0.
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
    """Says how many new documents of each cluster to score: in proportion to how many there are.

    The largest remainders get what rounding leaves, the lower cluster id where they tie (Hamilton's method).

    Args:
      documents: New documents of each cluster, int64 [num_clusters].
      budget: Documents to score in all, at least 0.

    Returns:
      int64 [num_clusters], at most `documents`, in all the budget or all documents if they are fewer.

    Raises:
      ValueError: If a number is negative.
    """
    if budget < 0 or (len(documents) and documents.min() < 0):
        raise ValueError(f"numbers of documents must be at least 0, got a budget of {budget}")
    number = int(documents.sum())
    if budget >= number:
        return documents.astype(np.int64)
    # Python's integers: the products pass 2**63 at 10^12 documents.
    quotas = [divmod(int(n) * budget, number) for n in documents]
    floors = np.array([quota for quota, _ in quotas], np.int64)
    order = sorted(range(len(quotas)), key=lambda cluster: (-quotas[cluster][1], cluster))
    floors[order[: budget - int(floors.sum())]] += 1
    return floors


def _in_both(old: ScoreSums, new: ScoreSums) -> Array:
    both: Array = (old.documents > 0) & (new.documents > 0)
    return both
