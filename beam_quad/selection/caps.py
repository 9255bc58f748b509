"""The most that one cluster may give, in a ranking of examples.

Taking examples from the best on, and passing over those of a cluster that has given its cap, takes the best of what is left
once every cluster is cut at its cap by itself. A cluster that holds no more than the cap needs no cut: few others fit into a
shortlist, so that `BudgetSearch` cuts them side by side, each as a target of its own.
"""

from typing import Any

import numpy as np

from beam_quad.columns import find_sorted
from beam_quad.selection.ranking import search_budget

Array = np.ndarray[Any, np.dtype[Any]]


def heavy_clusters(cluster_tokens: Array, cap_tokens: int) -> Array:
    """Finds the clusters that hold more than the cap.

    Args:
      cluster_tokens: Tokens of each cluster's examples that can be taken, int64 [num_clusters].
      cap_tokens: The most that a cluster may give.

    Returns:
      Their ids, ascending, int64 [m].
    """
    return np.flatnonzero(cluster_tokens > cap_tokens)


def by_cluster(packed: Array, clusters: Array, heavy: Array) -> Array:
    """Spreads a ranking over the heavy clusters, for a `BudgetSearch` of the cap.

    Args:
      packed: Priorities, uint64 [n].
      clusters: Cluster of each example, integer [n].
      heavy: `heavy_clusters`, [m].

    Returns:
      uint64 [n, m]: the priority in the column of the example's own cluster, 0 in the others.
    """
    return np.where(clusters[:, None] == heavy, packed[:, None], np.uint64(0))


def within_caps(packed: Array, clusters: Array, heavy: Array, floors: Array) -> Array:
    """Gives priority 0 to what its cluster cannot give any more.

    Args:
      packed: Priorities, uint64 [n].
      clusters: Cluster of each example, integer [n].
      heavy: `heavy_clusters`, [m].
      floors: Where the cap ends in each, `BudgetSearch.floors`, uint64 [m].

    Returns:
      uint64 [n].
    """
    # A cluster that is not heavy has index -1, which reads the floor that is appended.
    floor = np.append(floors, np.uint64(0))[find_sorted(heavy, clusters)]
    return np.where(packed >= floor, packed, np.uint64(0))


def cap_clusters(packed: Array, clusters: Array, tokens: Array, cap_tokens: int) -> Array:
    """Caps the clusters of a corpus held in memory; the example in which a cap ends is kept.

    Args:
      packed: Priorities, uint64 [n]; 0 for what cannot be taken.
      clusters: Cluster of each example, integer [n].
      tokens: int64 [n].
      cap_tokens: The most that a cluster may give, at least 1.

    Returns:
      The priorities, 0 for what is beyond a cap: uint64 [n].
    """
    held = np.bincount(clusters, weights=np.where(packed > 0, tokens, 0)).astype(np.int64)
    heavy = heavy_clusters(held, cap_tokens)
    if not len(heavy):
        return packed
    search = search_budget(by_cluster(packed, clusters, heavy), tokens, cap_tokens)
    return within_caps(packed, clusters, heavy, search.floors)
