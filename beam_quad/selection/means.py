"""Mean influence per token of scored examples, and of the corpus they were drawn from by cluster."""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def weighted_mean(influence: Array, tokens: Array) -> float | None:
    """Averages influence, finite float64 [n], over tokens, int64 [n]; None if there are none."""
    # Summed exactly, so the order of the examples does not matter.
    total = int(tokens.sum())
    return math.fsum((influence * tokens).tolist()) / total if total else None


def cluster_means(influence: Array, tokens: Array, cluster_id: Array, num_clusters: int) -> Array:
    """Averages influence over the tokens of each cluster.

    Args:
      influence: Of the scored examples, finite, float64 [n].
      tokens: Their tokens, int64 [n].
      cluster_id: Their clusters, int64 [n].
      num_clusters: Number of clusters.

    Returns:
      The means, float64 [num_clusters]; NaN for a cluster without scored tokens.
    """
    of_cluster = np.bincount(cluster_id, weights=tokens, minlength=num_clusters)
    sums = np.bincount(cluster_id, weights=influence * tokens, minlength=num_clusters)
    return np.where(of_cluster > 0, sums / np.maximum(of_cluster, 1), np.nan)


def cluster_weighted_mean(
    influence: Array, tokens: Array, cluster_id: Array, cluster_tokens: Array
) -> float | None:
    """Estimates the mean influence per token of a random draw of the corpus.

    A pilot scores about equally many examples of every cluster, so each cluster's mean is weighted by its tokens in the
    corpus.

    Args:
      influence: Of the scored examples, finite, float64 [n].
      tokens: Their tokens, int64 [n].
      cluster_id: Their clusters, int64 [n].
      cluster_tokens: Tokens of each cluster in the corpus, int64 [num_clusters]; clusters without a scored example are
        ignored.

    Returns:
      The estimate; None if n is 0.
    """
    if not len(influence):
        return None
    means = cluster_means(influence, tokens, cluster_id, len(cluster_tokens))
    seen = np.isfinite(means)
    return float((means[seen] * cluster_tokens[seen]).sum() / cluster_tokens[seen].sum())
