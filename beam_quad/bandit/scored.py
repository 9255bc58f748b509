"""Scored examples as columns: the codes of their arms, and what they say of the blocks that were pulled.

The examples of all rounds are in columns of one length, by name: `cluster`, `block`, `round`, `tokens` and `influence`, in
the order of their keys (`key`, distinct). An influence of nan is that of an example which could not be scored.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from beam_quad.bandit.arms import PullScores, RoundScores
from beam_quad.bandit.state import BanditState
from beam_quad.columns import look_up, run_bounds

Array = np.ndarray[Any, np.dtype[Any]]
Scored = Mapping[str, Array]

_BLOCK_BITS = 32


def arm_code(cluster: Any, block: Any) -> Any:
    """Packs a cluster and a block into one integer that sorts like the pair: int64, of the inputs' shape."""
    return np.asarray(cluster, np.int64) * (1 << _BLOCK_BITS) + np.asarray(block, np.int64)


def arm_of(code: Any) -> tuple[Any, Any]:
    """Unpacks `arm_code` of a nonnegative block: cluster and block, int64, of the input's shape."""
    code = np.asarray(code, np.int64)
    return code >> _BLOCK_BITS, code & ((1 << _BLOCK_BITS) - 1)


def mean_by_block(scored: Scored) -> tuple[Array, Array]:
    """Averages the scored examples of each block over their tokens.

    Returns:
      Codes of the blocks with a finite influence, ascending, int64 [m], and their means, float64 [m].
    """
    finite = np.isfinite(scored["influence"])
    codes = arm_code(scored["cluster"], scored["block"])[finite]
    unique, at = np.unique(codes, return_inverse=True)
    tokens = scored["tokens"][finite]
    # Sums of (influence x tokens) of at most a few dozen examples, in the order of their keys.
    weighted = np.bincount(at, weights=scored["influence"][finite] * tokens)
    return unique, weighted / np.bincount(at, weights=tokens)


def block_means(scored: Scored) -> dict[tuple[int, int], float]:
    """Averages the scored examples of each block over their tokens: by (cluster, block), for blocks with a finite influence."""
    codes, means = mean_by_block(scored)
    clusters, blocks = arm_of(codes)
    arms = zip(clusters.tolist(), blocks.tolist(), strict=True)
    return dict(zip(arms, means.tolist(), strict=True))


def pulled_blocks(scored: Scored) -> dict[str, Array]:
    """Lists the blocks that were pulled.

    Returns:
      `code` (`arm_code`), ascending, int64 [m]; `round`, in which it was pulled, int64 [m]; and mean `influence`, nan
      where none is finite, float64 [m].
    """
    unique, at = np.unique(arm_code(scored["cluster"], scored["block"]), return_index=True)
    codes, means = mean_by_block(scored)
    influence = look_up(codes, means, unique, np.nan)
    return {"code": unique, "round": scored["round"][at], "influence": influence}


def accepted_blocks(state: BanditState, scored: Scored) -> list[tuple[int, int, int, float]]:
    """Lists the blocks of which something was accepted, whole or example by example.

    Returns:
      (cluster, block, round, mean influence of its scored examples), ascending.
    """
    blocks = {(b.cluster_id, b.block, b.round, b.influence) for b in state.accepted}
    examples = state.accepted_examples
    if examples.keys.size:
        means = block_means(scored)
        columns = (examples.cluster_id, examples.block, examples.round)
        arms = zip(*(column.tolist() for column in columns), strict=True)
        blocks |= {(c, b, r, means[c, b]) for c, b, r in arms}
    return sorted(blocks)


def with_least(means: Array) -> Array:
    """Takes an unknown mean to be the least of the known ones, or 0 if none is known: float [n] to float64 [n]."""
    known = np.isfinite(means)
    least = np.nanmin(means) if known.any() else 0.0
    return np.where(known, means, least)


def is_in_blocks(scored: Scored, arms: Collection[tuple[int, int]]) -> Array:
    """Says which scored examples are in one of the blocks (cluster, block), bool [n]."""
    wanted = np.array(list(arms), np.int64).reshape(-1, 2)
    codes = arm_code(scored["cluster"], scored["block"])
    return np.isin(codes, arm_code(wanted[:, 0], wanted[:, 1]))


def pulls_of(scored: Scored, counts: Array) -> RoundScores:
    """Cuts the columns of one round, in which the examples of a pull stand together, into its pulls.

    Args:
      scored: The columns.
      counts: Which examples count, bool [m]. A pull counts even if none of its examples does.
    """
    cluster, block = scored["cluster"], scored["block"]
    return tuple(
        PullScores(
            int(cluster[a]),
            int(block[a]),
            scored["key"][a:b][counts[a:b]],
            scored["tokens"][a:b][counts[a:b]],
            scored["influence"][a:b][counts[a:b]],
        )
        for a, b in run_bounds(cluster, block)
    )
