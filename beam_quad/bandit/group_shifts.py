"""How far documents of a group that a share asks for lie from what a bandit expects of them.

A pull scores documents of a cluster whatever group they are in, so a rare group may have no score at all. After the
rounds each group that a share asks for gets scores of its own: its unscored documents with the lowest hashes, which are
a uniform sample of it in every cluster. The mean difference between these scores and the bandit's estimates is added to
the estimates. Bounds divide the documents into groups by those that they meet, and many groups have few draws, so means
are shrunk: a group's part of a cluster towards the group, and the group towards all draws.

References:
  DerSimonian & Laird, Meta-analysis in Clinical Trials, 1986 (variance between parts of unequal sizes).
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad import archives
from beam_quad.bandit.posterior import VarianceComponents
from beam_quad.bandit.scored import arm_code, arm_of
from beam_quad.columns import look_up

Array = np.ndarray[Any, np.dtype[Any]]

_LEAST_DRAWS = 64


def draws_of_shares(shares: Sequence[float], num_pilot: int) -> list[int]:
    """Decides how many documents of each group are scored: half of its share of what the pilot scores, at least 64.

    Args:
      shares: The share of the budget that each group is asked for.
      num_pilot: Number of documents that the pilot scores.
    """
    return [max(_LEAST_DRAWS, math.ceil(share * num_pilot / 2)) for share in shares]


@dataclasses.dataclass(frozen=True, eq=False)
class GroupShifts:
    """Mean difference between the influence of a group's documents and their estimates.

    Attributes:
      codes: `arm_code` of clusters and groups with draws, ascending, int64 [m].
      shifts: The difference in each, float64 [m].
      of_group: The difference in the other clusters, float64 [num_groups]: that of all draws for groups that a share asks
        for and that have none, and 0 for groups that no share asks for.
    """

    codes: Array
    shifts: Array
    of_group: Array

    @classmethod
    def of(
        cls,
        differences: Array,
        tokens: Array,
        clusters: Array,
        groups: Array,
        is_asked: Array,
        deviation: float,
    ) -> "GroupShifts":
        """Averages the differences of drawn documents over their tokens.

        Args:
          differences: Influence of each less its estimate, float64 [n]; those not finite do not count.
          tokens: int64 [n].
          clusters: int64 [n].
          groups: int64 [n].
          is_asked: Groups that a share asks for, bool [num_groups].
          deviation: Standard deviation of influence within clusters.
        """
        kept = np.isfinite(differences)
        if not kept.any():
            return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(len(is_asked)))
        weights = tokens[kept].astype(np.float64)
        # The group comes first in these codes, so the clusters of a group are contiguous.
        codes, at = np.unique(arm_code(groups[kept], clusters[kept]), return_inverse=True)
        totals = np.bincount(at, weights)
        means = np.bincount(at, weights * differences[kept]) / totals
        errors = np.bincount(at, weights**2) / totals**2
        cell_groups, cell_clusters = arm_of(codes)
        drawn, first = np.unique(cell_groups, return_index=True)
        parts = [slice(*ends) for ends in itertools.pairwise([*first.tolist(), len(codes)])]
        pooled = [_pooled(means[own], errors[own], totals[own], deviation) for own in parts]
        group_errors = np.array([error for _, error in pooled])
        group_means = np.array([components.mean for components, _ in pooled])
        whole, _ = _pooled(group_means, group_errors, np.add.reduceat(totals, first), deviation)
        of_group = np.where(is_asked, whole.mean, 0.0)
        of_group[drawn] = whole.posterior_means(group_means, group_errors)
        shifts = np.empty(len(codes))
        for group, own, (components, _) in zip(drawn.tolist(), parts, pooled, strict=True):
            # Towards the group's shrunk mean: its own may rest on a few draws.
            towards = dataclasses.replace(components, mean=of_group[group])
            shifts[own] = towards.posterior_means(means[own], errors[own])
        # Looked up by the cluster first, as all arm codes are.
        by_cluster = arm_code(cell_clusters, cell_groups)
        order = np.argsort(by_cluster)
        return cls(by_cluster[order], shifts[order], of_group)

    def at(self, clusters: Array, groups: Array) -> Array:
        """The difference to expect of documents, float64 [n], by their clusters and groups, int64 [n] each."""
        own = look_up(self.codes, self.shifts, arm_code(clusters, groups), np.nan)
        return np.where(np.isnan(own), self.of_group[groups], own)

    def to_bytes(self) -> bytes:
        """Writes the shifts as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "GroupShifts":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(data))


def _pooled(
    means: Array, errors: Array, totals: Array, deviation: float
) -> tuple[VarianceComponents, float]:
    """Pools the means of parts.

    Args:
      means: float64 [m], at least one.
      errors: Variance of each, relative to that of one document, float64 [m].
      totals: Tokens of each, float64 [m].
      deviation: Standard deviation of one document.

    Returns:
      Their mean, by tokens, with the variance between the parts; and the relative variance of that mean.
    """
    between = _variance_between(means, errors, deviation)
    components = VarianceComponents(float(np.average(means, weights=totals)), between, deviation**2)
    # A mean of parts that differ is as uncertain as which parts were drawn, even if each is known exactly.
    of_parts = between / deviation**2 if deviation > 0 else 0.0
    return components, float((totals**2 * (errors + of_parts)).sum() / totals.sum() ** 2)


def _variance_between(means: Array, errors: Array, deviation: float) -> float:
    """Estimates the variance of true means from measured ones, float64 [m], with few or many draws each.

    With weights w = 1 / (deviation² · errors), Q = Σw (means - mean)² has the expectation
    m - 1 + (Σw - Σw² / Σw) · variance.
    """
    if len(means) < 2 or not deviation > 0:
        return 0.0
    weights = 1 / (deviation**2 * errors)
    mean = np.average(means, weights=weights)
    excess = float((weights * (means - mean) ** 2).sum()) - (len(means) - 1)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    return max(excess / scale, 0.0)
