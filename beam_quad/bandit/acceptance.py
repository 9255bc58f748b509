"""What a round's pulls give: at least tau, best first, within the budget and every cluster's share of it."""

from typing import Any

import numpy as np

from beam_quad.bandit.rules import ranking

Array = np.ndarray[Any, np.dtype[Any]]


def take_blocks(
    influence: Array, tokens: Array, room: Array, ties: Array, tau: float, left_tokens: int
) -> tuple[Array, Array]:
    """Takes blocks, at most one of each cluster.

    Args:
      influence: Mean influence of each block's scored examples, float64 [n]; nan is not accepted.
      tokens: Tokens of each block, int64 [n].
      room: What each block's cluster may still give, int64 [n].
      ties: Decides between equals, uint64 [n].
      tau: The least influence that is accepted.
      left_tokens: What is left of the budget.

    Returns:
      Positions of the blocks taken, in that order, and how many tokens of each are taken, both int64 [taken]. The last
      may be cut by the budget, any by its cluster's room.
    """
    order = ranking(influence, ties)
    order = order[influence[order] >= tau]
    offered = np.minimum(tokens, room)[order]
    before = np.cumsum(offered) - offered
    taken = np.clip(left_tokens - before, 0, offered)
    return order[taken > 0], taken[taken > 0]


def take_examples(
    influence: Array,
    tokens: Array,
    cluster_id: Array,
    keys: Array,
    room: Array,
    tau: float,
    left_tokens: int,
) -> tuple[Array, Array, bool]:
    """Takes examples, whole.

    Args:
      influence: Influence of each example, float64 [n].
      tokens: Its tokens, int64 [n].
      cluster_id: Its cluster, int64 [n].
      keys: Its key, which decides between equals, uint64 [n].
      room: What each cluster may still give, int64 [num_clusters].
      tau: The least influence that is accepted.
      left_tokens: What is left of the budget.

    Returns:
      Positions of the examples taken, in that order, int64 [taken]; the clusters that are full, because their next
      example no longer fits, int64; and whether the budget is full in the same sense.
    """
    order = ranking(influence, keys)
    order = order[influence[order] >= tau]
    fits = _running_sum(tokens[order], cluster_id[order]) <= room[cluster_id[order]]
    full_clusters = np.unique(cluster_id[order[~fits]])
    order = order[fits]
    count = int(np.searchsorted(np.cumsum(tokens[order]), left_tokens, side="right"))
    is_full = count < order.size or int(tokens[order].sum()) == left_tokens
    return order[:count], full_clusters, is_full


def _running_sum(values: Array, groups: Array) -> Array:
    """Sums values up to and including each position, within its group."""
    order = np.argsort(groups, kind="stable")
    sums = np.cumsum(values[order])
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    before = np.concatenate([[0], sums])[starts]
    sizes = np.diff(np.append(starts, values.size))
    running = np.empty_like(sums)
    running[order] = sums - np.repeat(before, sizes)
    return running
