"""Fills what is left of a budget with blocks or examples, highest influence first."""

from typing import Any

import numpy as np

from beam_quad.bandit import rules
from beam_quad.columns import run_lengths, run_starts

Array = np.ndarray[Any, np.dtype[Any]]


def take_blocks(
    influence: Array,
    tokens: Array,
    room: Array,
    ties: Array,
    tau: float,
    left_tokens: int,
    cluster_id: Array,
) -> tuple[Array, Array]:
    """Takes the blocks that reach tau, highest influence first, until the budget is full.

    Args:
      influence: Mean influence of each block's scored examples, float64 [n]; nan is not accepted.
      tokens: Tokens of each block, int64 [n].
      room: Tokens that each block's cluster may still give, int64 [n].
      ties: Tie breaker of each block, uint64 [n].
      tau: Lowest influence accepted.
      left_tokens: Tokens left in the budget.
      cluster_id: Cluster of each block, int64 [n].

    Returns:
      Positions of the taken blocks in order, and the tokens taken from each, both int64 [taken]. The budget may cut the last
      block, and the room of its cluster may cut any block.
    """
    order = rules.ranking(influence, ties)
    order = order[influence[order] >= tau]
    # Better blocks of the same cluster use up its room first, and better blocks of any cluster the budget.
    of_cluster = _running_sum(tokens[order], cluster_id[order]) - tokens[order]
    offered = np.clip(room[order] - of_cluster, 0, tokens[order])
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
    """Takes the examples that reach tau, highest influence first, without cutting one.

    Args:
      influence: Influence of each example, float64 [n].
      tokens: Tokens of each example, int64 [n].
      cluster_id: Cluster of each example, int64 [n].
      keys: Key of each example, which breaks ties, uint64 [n].
      room: Tokens that each cluster may still give, int64 [num_clusters].
      tau: Lowest influence accepted.
      left_tokens: Tokens left in the budget.

    Returns:
      Positions of the taken examples in order, int64 [taken]; the clusters whose next example did not fit, int64; and
      whether the budget is full, exactly or because the next example did not fit.
    """
    order = rules.ranking(influence, keys)
    order = order[influence[order] >= tau]
    # The sum includes examples that do not fit: a smaller example is not taken ahead of a better one that was left out.
    fits = _running_sum(tokens[order], cluster_id[order]) <= room[cluster_id[order]]
    full_clusters = np.unique(cluster_id[order[~fits]])
    order = order[fits]
    count = int(np.searchsorted(np.cumsum(tokens[order]), left_tokens, side="right"))
    is_full = count < order.size or int(tokens[order].sum()) == left_tokens
    return order[:count], full_clusters, is_full


def _running_sum(values: Array, groups: Array) -> Array:
    """Computes the cumulative sum of values within each group."""
    order = np.argsort(groups, kind="stable")
    sums = np.cumsum(values[order])
    starts = run_starts(groups[order])
    before = np.concatenate([[0], sums])[starts]
    running = np.empty_like(sums)
    running[order] = sums - np.repeat(before, run_lengths(starts, values.size))
    return running
