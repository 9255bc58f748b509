"""Whether a mean over new documents differs from that over old ones, where documents of a shard are alike.

A shard's documents share a crawl, a date, a source. A mean over N documents in shards of n_i has the variance

    σ²/N + τ² Σn_i²/N²,        σ² of a document, τ² between shards,

so that ten thousand documents of one new shard say little more than one shard does. τ² is estimated by the analysis of
variance within the old and within the new shards, and the difference is told by Student's t with as many degrees of freedom as
shards, less two. With too few shards to know τ² it is assumed: a document shares 1/400 of its variance with its shard.

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

# With 3 degrees of freedom t has to be above 6 for the first of six questions, with 2 above 10: no drift would be found.
LEAST_FREEDOM = 4
# τ² over σ² with fewer: shards differ by a twentieth of the standard deviation of documents.
ASSUMED_CORRELATION = 0.0025


@dataclasses.dataclass(frozen=True, eq=False)
class ShardMeans:
    """What a mean is made of, shard by shard.

    Attributes:
      totals: Sum over each shard's documents, float64 [num_shards].
      documents: How many there are, at least 1, int64 [num_shards]; of a mean over tokens, the tokens.
    """

    totals: Array
    documents: Array

    @property
    def number(self) -> int:
        """Documents in all."""
        return int(self.documents.sum())

    @property
    def mean(self) -> float:
        """The mean over all documents; nan without any."""
        return float(self.totals.sum() / self.number) if self.number else float("nan")

    @property
    def concentration(self) -> float:
        """Σn_i² / N²: 1 for one shard, 1 / m for m of one size."""
        return float((self.documents.astype(float) ** 2).sum() / self.number**2)

    def spread(self) -> tuple[float, int, float]:
        """Σ n_i (mean_i - mean)², its degrees of freedom, and the factor of τ² in its expectation."""
        n = self.documents.astype(float)
        squares = float((n * (self.totals / n - self.mean) ** 2).sum())
        return squares, len(n) - 1, self.number * (1 - self.concentration)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of means.

    Attributes:
      value: New less old.
      error: Its standard error.
      freedom: Degrees of freedom; inf where how much shards differ is assumed.
    """

    value: float
    error: float
    freedom: float

    @property
    def is_by_shards(self) -> bool:
        """Whether the shards say how much they differ."""
        return bool(np.isfinite(self.freedom))

    @property
    def p_above(self) -> float:
        """The probability of as large a value, or larger, without a difference."""
        if self.error > 0:
            return float(stats.t.sf(self.value / self.error, self.freedom))
        return float(self.value <= 0)

    @property
    def p_value(self) -> float:
        """The probability of as large a value, or larger, of either sign, without a difference."""
        return min(1.0, 2 * dataclasses.replace(self, value=abs(self.value)).p_above)


def compare(
    old: ShardMeans, new: ShardMeans, variance: float, old_error: float | None = None
) -> Difference:
    """Takes the difference of two means, and its error.

    Args:
      old: The old shards.
      new: The new shards.
      variance: σ², of a document.
      old_error: The variance that documents give the old mean; σ²/N by default.
    """
    before, after, freedom = mean_variances(
        old, new, variance, variance, ASSUMED_CORRELATION * variance
    )
    if old_error is not None:
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
      new_variance: σ² of a new one.
      assumed: τ², where there are too few shards to know it.

    Returns:
      Of the old mean and of the new one, and the degrees of freedom, inf where τ² is assumed.
    """
    (before, m, old_scale), (after, n, new_scale) = old.spread(), new.spread()
    if m + n < LEAST_FREEDOM:
        between, freedom = assumed, math.inf
    else:
        excess = before + after - m * old_variance - n * new_variance
        between, freedom = max(0.0, excess / (old_scale + new_scale)), float(m + n)
    return (
        old_variance / old.number + between * old.concentration,
        new_variance / new.number + between * new.concentration,
        freedom,
    )


def compare_shares(old: ShardMeans, new: ShardMeans) -> tuple[Difference, float, float]:
    """Takes the difference of two shares, whose totals are counts.

    Returns:
      The difference, and the probabilities of as large a new share, or larger, and of as small a one, or smaller, without
      one: each the larger of Student's and, as few counts are far from normal, Fisher's exact one.
    """
    total, drawn = int(old.totals.sum() + new.totals.sum()), int(new.totals.sum())
    share = total / (old.number + new.number)
    difference = compare(old, new, share * (1 - share))
    counts = stats.hypergeom(old.number + new.number, total, new.number)
    above = max(difference.p_above, float(counts.sf(drawn - 1)))
    return difference, above, max(1 - difference.p_above, float(counts.cdf(drawn)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values, so that of true hypotheses none is below a level with a probability above it (Holm)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate(
        np.asarray(p_values)[order] * np.arange(len(order), 0, -1, dtype=float)
    )
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1)
    return [float(p) for p in result]
