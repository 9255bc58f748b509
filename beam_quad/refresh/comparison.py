"""Tests for a difference between the means of new and old documents when documents of a shard are correlated.

Documents of a shard share a crawl, a date and a source. A mean over N documents in shards of n_i documents has the variance

    σ²/N + τ² Σn_i²/N²,        σ² of a document, τ² between shards,

so ten thousand documents of one new shard say little more than a single shard. τ² is estimated by an analysis of variance within
the old and within the new shards, and the difference is tested by Student's t with two degrees of freedom fewer than shards.
With too few shards to estimate τ², a document is assumed to share 1/400 of its variance with its shard.

References:
  Donner & Klar, Design and Analysis of Cluster Randomization Trials in Health Research, 2000, chapter 6 (adjusted tests).
  Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, np.dtype[Any]]

# With 3 degrees of freedom the first of six tests needs t above 6, with 2 above 10: no drift would ever be found.
LEAST_FREEDOM = 4
# τ² / σ² with fewer degrees of freedom: shards differ by a twentieth of the standard deviation of documents.
ASSUMED_CORRELATION = 0.0025


@dataclasses.dataclass(frozen=True, eq=False)
class ShardMeans:
    """A mean split into the sums of its shards.

    Attributes:
      totals: Sum over each shard's documents, float64 [num_shards].
      documents: Documents of each shard, or tokens for a mean over tokens, at least 1, int64 [num_shards].
    """

    totals: Array
    documents: Array

    @property
    def number(self) -> int:
        """Total number of documents."""
        return int(self.documents.sum())

    @property
    def mean(self) -> float:
        """The mean over all documents; nan without documents."""
        return float(self.totals.sum() / self.number) if self.number else float("nan")

    @property
    def concentration(self) -> float:
        """Σn_i² / N²: 1 for one shard, 1 / m for m shards of equal size."""
        return float((self.documents.astype(float) ** 2).sum() / self.number**2)

    def spread(self) -> tuple[float, int, float]:
        """Computes Σ n_i (mean_i - mean)², its degrees of freedom, and the factor of τ² in its expectation."""
        n = self.documents.astype(float)
        squares = float((n * (self.totals / n - self.mean) ** 2).sum())
        return squares, len(n) - 1, self.number * (1 - self.concentration)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of means.

    Attributes:
      value: New mean less old mean.
      error: Standard error of the difference.
      freedom: Degrees of freedom; inf if the variance between shards is assumed.
    """

    value: float
    error: float
    freedom: float

    @property
    def is_by_shards(self) -> bool:
        """Whether the variance between shards is estimated rather than assumed."""
        return bool(np.isfinite(self.freedom))

    @property
    def p_above(self) -> float:
        """One-sided p-value: the probability of at least this value without a difference."""
        if self.error > 0:
            return float(stats.t.sf(self.value / self.error, self.freedom))
        # Without an error the difference is certain.
        return float(self.value <= 0)

    @property
    def p_value(self) -> float:
        """Two-sided p-value: the probability of at least this absolute value without a difference."""
        return min(1.0, 2 * dataclasses.replace(self, value=abs(self.value)).p_above)


def compare(
    old: ShardMeans, new: ShardMeans, variance: float, old_error: float | None = None
) -> Difference:
    """Computes the difference of two means and its error.

    Args:
      old: The old shards.
      new: The new shards.
      variance: Variance σ² of a document.
      old_error: Variance of the old mean due to documents; σ²/N by default.
    """
    before, after, freedom = mean_variances(
        old, new, variance, variance, ASSUMED_CORRELATION * variance
    )
    if old_error is not None:
        # Only the part due to documents is replaced; the variance between shards stays.
        before += old_error - variance / old.number
    return Difference(new.mean - old.mean, math.sqrt(before + after), freedom)


def mean_variances(
    old: ShardMeans, new: ShardMeans, old_variance: float, new_variance: float, assumed: float
) -> tuple[float, float, float]:
    """Estimates the variances of two means.

    Args:
      old: The old shards.
      new: The new shards.
      old_variance: σ² of an old document.
      new_variance: σ² of a new document.
      assumed: τ² if there are too few shards to estimate it.

    Returns:
      The variances of the old and the new mean, and the degrees of freedom, inf if τ² is assumed.
    """
    (before, m, old_scale), (after, n, new_scale) = old.spread(), new.spread()
    if m + n < LEAST_FREEDOM:
        between, freedom = assumed, math.inf
    else:
        # The spread of shard means beyond what documents alone would cause, pooled over old and new shards.
        excess = before + after - m * old_variance - n * new_variance
        between, freedom = max(0.0, excess / (old_scale + new_scale)), float(m + n)
    return (
        old_variance / old.number + between * old.concentration,
        new_variance / new.number + between * new.concentration,
        freedom,
    )


def compare_shares(old: ShardMeans, new: ShardMeans) -> tuple[Difference, float, float]:
    """Computes the difference of two shares, whose totals are counts.

    Returns:
      The difference, and the one-sided p-values for a larger and for a smaller new share. Each is the larger of Student's and
      Fisher's exact p-value, because small counts are far from normal.
    """
    total, drawn = int(old.totals.sum() + new.totals.sum()), int(new.totals.sum())
    share = total / (old.number + new.number)
    difference = compare(old, new, share * (1 - share))
    counts = stats.hypergeom(old.number + new.number, total, new.number)
    above = max(difference.p_above, float(counts.sf(drawn - 1)))
    return difference, above, max(1 - difference.p_above, float(counts.cdf(drawn)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values by Holm's method: the probability that any true hypothesis is below a level is at most that level."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate(
        np.asarray(p_values)[order] * np.arange(len(order), 0, -1, dtype=float)
    )
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1)
    return [float(p) for p in result]
