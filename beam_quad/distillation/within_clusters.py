"""One regression per cluster: predicts the influence of a cluster's examples from its scored ones."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from beam_quad.columns import run_bounds
from beam_quad.distillation.propagation import KernelRidge

Array = np.ndarray[Any, np.dtype[Any]]

# With fewer scored examples, a regression in hundreds of dimensions is no better than their mean.
MIN_LANDMARKS = 8
# Within a cluster, embeddings explain at most half of the variance and landmarks are few, so a smaller ridge fits noise. In
# `tests.benchmarks.bandit`, with 1,000 skewed clusters and uninformative embeddings, a ridge of 0.01 finds .91 of the oracle's
# influence and 1 finds 1.02; if embeddings explain 0.6 of the variance, both find 1.05 to 1.06.
RIDGE = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterRegression:
    """Predicts the influence of a cluster's examples from its scored examples.

    Attributes:
      mean: Token-weighted mean influence of the scored examples.
      regression: Kernel ridge regression on their embeddings; None if there are too few.
    """

    mean: float
    regression: KernelRidge | None

    @classmethod
    def fit(
        cls,
        embeddings: Array,
        influence: Array,
        tokens: Array,
        keys: Array,
        seed: int,
    ) -> "ClusterRegression":
        """Fits to one or more scored examples. Their order does not matter.

        Args:
          embeddings: Float [n, dim].
          influence: Finite, float64 [n].
          tokens: int64 [n].
          keys: uint64 [n], distinct.
          seed: Draws the landmarks used to set the bandwidth.
        """
        order = np.argsort(keys)
        weighted = (influence * tokens)[order].tolist()
        regression = None
        if len(keys) >= MIN_LANDMARKS:
            regression = KernelRidge.fit(
                embeddings, influence[:, None], keys, seed=seed, ridge=RIDGE
            )
        return cls(math.fsum(weighted) / int(tokens.sum()), regression)

    def predict(self, embeddings: Array) -> Array:
        """Predicts influence, float64 [n], each bit for bit the same whatever the other examples."""
        if self.regression is None:
            return np.full(len(embeddings), self.mean)
        return self.regression.predict(embeddings)[:, 0]

    def held_out(self, influence: Array, tokens: Array) -> Array:
        """Predicts each scored example from the others (leave-one-out).

        Args:
          influence: Influence of the scored examples by ascending key, float64 [n].
          tokens: Tokens of the scored examples, int64 [n].

        Returns:
          Float64 [n]; nan if there is only one scored example.
        """
        if self.regression is not None:
            return self.regression.leave_one_out()[:, 0]
        others = int(tokens.sum()) - tokens
        # The mean of the others, from the total less the example's own part.
        rest = self.mean * int(tokens.sum()) - influence * tokens
        return np.where(others > 0, rest / np.maximum(others, 1), np.nan)


def fit_by_cluster(
    clusters: Array, embeddings: Array, influence: Array, tokens: Array, keys: Array, seed: int
) -> Iterator[tuple[int, Array, ClusterRegression]]:
    """Fits a regression to the scored examples of each cluster. The order of the examples does not matter.

    Args:
      clusters: Integer [n].
      embeddings: Float [n, dim].
      influence: Finite, float64 [n].
      tokens: int64 [n].
      keys: uint64 [n], distinct.
      seed: Draws the landmarks used to set the bandwidth.

    Yields:
      Each cluster in ascending order, the positions of its examples by ascending key, int64, and its regression.
    """
    order = np.lexsort((keys, clusters))
    for a, b in run_bounds(clusters[order]):
        own = order[a:b]
        fitted = ClusterRegression.fit(
            embeddings[own], influence[own], tokens[own], keys[own], seed
        )
        yield int(clusters[own[0]]), own, fitted


def predict_by_cluster(
    regression_of: Callable[[int], ClusterRegression | None],
    clusters: Array,
    is_pulled: Array,
    embeddings: Array,
) -> Array:
    """Predicts the influence of examples by the regressions of their clusters.

    Args:
      regression_of: Returns the regression of a cluster; None if the cluster has no scorable example.
      clusters: Cluster of each example, integer [n]; -1 for none.
      is_pulled: Whether each example's block was pulled, bool [n]. If a cluster has too few scored examples for a
        regression, its mean predicts the pulled blocks only.
      embeddings: Float [n, dim].

    Returns:
      Float64 [n]; nan if nothing is known.
    """
    predicted = np.full(len(clusters), np.nan)
    order = np.argsort(clusters, kind="stable")
    for a, b in run_bounds(clusters[order]):
        own = order[a:b]
        cluster = int(clusters[own[0]])
        fitted = regression_of(cluster) if cluster >= 0 else None
        if fitted is not None:
            # A mean says nothing of single examples, so it may not decide about blocks that nobody looked into.
            if fitted.regression is None:
                own = own[is_pulled[own]]
            predicted[own] = fitted.predict(embeddings[own])
    return predicted
