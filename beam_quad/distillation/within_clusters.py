"""A regression of its own for every cluster: what was scored of it says what the rest of it is worth."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from beam_quad.columns import run_bounds
from beam_quad.distillation.propagation import KernelRidge

Array = np.ndarray[Any, np.dtype[Any]]

# With fewer scored examples a regression in hundreds of dimensions says nothing that their mean does not.
MIN_LANDMARKS = 8
# Within a cluster what embeddings do not tell is at least as large as what they do, and landmarks are few: a smaller
# ridge follows the noise. In `tests.benchmarks.bandit`, with 1,000 skewed clusters and embeddings that tell nothing, 0.01
# finds .91 of the oracle's influence and 1 finds 1.02; where they tell 0.6 of the variance both find 1.05 to 1.06.
RIDGE = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterRegression:
    """Predicts the influence of a cluster's examples from those of it that were scored.

    Attributes:
      mean: Token-weighted mean influence of the scored examples.
      regression: Kernel ridge regression on their embeddings; None where there are too few of them.
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
        """Fits to at least one scored example; their order does not matter.

        Args:
          embeddings: Float [n, dim].
          influence: Finite, float64 [n].
          tokens: int64 [n].
          keys: uint64 [n], distinct.
          seed: Draws the landmarks that set the bandwidth.
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
        """Predicts influence, float64 [n]. The bits of a prediction depend on no other example."""
        if self.regression is None:
            return np.full(len(embeddings), self.mean)
        return self.regression.predict(embeddings)[:, 0]

    def held_out(self, influence: Array, tokens: Array) -> Array:
        """Predicts each scored example from the others: what would have been thought of it, had it not been scored.

        Args:
          influence: Of the scored examples by ascending key, float64 [n].
          tokens: Their tokens, int64 [n].

        Returns:
          Float64 [n]; nan for an only one.
        """
        if self.regression is not None:
            return self.regression.leave_one_out()[:, 0]
        others = int(tokens.sum()) - tokens
        rest = self.mean * int(tokens.sum()) - influence * tokens
        return np.where(others > 0, rest / np.maximum(others, 1), np.nan)


def fit_by_cluster(
    clusters: Array, embeddings: Array, influence: Array, tokens: Array, keys: Array, seed: int
) -> Iterator[tuple[int, Array, ClusterRegression]]:
    """Fits a regression to the scored examples of each cluster; their order does not matter.

    Args:
      clusters: Integer [n].
      embeddings: Float [n, dim].
      influence: Finite, float64 [n].
      tokens: int64 [n].
      keys: uint64 [n], distinct.
      seed: Draws the landmarks that set the bandwidth.

    Yields:
      Each cluster, ascending; the positions of its examples, by ascending key, int64; and its regression.
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
      regression_of: Finds the regression of a cluster; None if it has no scorable example, so that nothing is known of it.
      clusters: Cluster of each example, integer [n]; -1 for none.
      is_pulled: Whether its block was pulled, bool [n]. A cluster with too few scored examples for a regression says
        what its pulled blocks are worth, and nothing of the others.
      embeddings: Float [n, dim].

    Returns:
      Float64 [n]; nan where nothing is known.
    """
    predicted = np.full(len(clusters), np.nan)
    order = np.argsort(clusters, kind="stable")
    for a, b in run_bounds(clusters[order]):
        own = order[a:b]
        cluster = int(clusters[own[0]])
        fitted = regression_of(cluster) if cluster >= 0 else None
        if fitted is not None:
            if fitted.regression is None:
                own = own[is_pulled[own]]
            predicted[own] = fitted.predict(embeddings[own])
    return predicted
