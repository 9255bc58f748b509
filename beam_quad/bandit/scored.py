"""Scored examples as columns: codes of their blocks, and statistics of the pulled blocks.

The examples of all rounds are stored in columns of equal length, named `key`, `cluster`, `block`, `round`, `tokens` and
`influence`, and sorted by `key`, which is distinct. The influence of an unscorable example is nan.
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
    """Packs (cluster, block) into one integer with the same sort order: int64, in the inputs' shape."""
    return np.asarray(cluster, np.int64) * (1 << _BLOCK_BITS) + np.asarray(block, np.int64)


def arm_of(code: Any) -> tuple[Any, Any]:
    """Unpacks `arm_code` of a nonnegative block into cluster and block, int64, in the input's shape."""
    code = np.asarray(code, np.int64)
    return code >> _BLOCK_BITS, code & ((1 << _BLOCK_BITS) - 1)


def mean_by_block(scored: Scored) -> tuple[Array, Array]:
    """Averages the scored examples of each block over their tokens.

    Returns:
      Codes of blocks with a finite influence, ascending, int64 [m], and the mean of each block, float64 [m].
    """
    finite = np.isfinite(scored["influence"])
    codes = arm_code(scored["cluster"], scored["block"])[finite]
    unique, at = np.unique(codes, return_inverse=True)
    tokens = scored["tokens"][finite]
    # A block has at most a few dozen scored examples, summed in key order: the result is the same on every worker.
    weighted = np.bincount(at, weights=scored["influence"][finite] * tokens)
    return unique, weighted / np.bincount(at, weights=tokens)


def block_means(scored: Scored) -> dict[tuple[int, int], float]:
    """Averages the scored examples of each block over their tokens, by (cluster, block), if any influence is finite."""
    codes, means = mean_by_block(scored)
    clusters, blocks = arm_of(codes)
    arms = zip(clusters.tolist(), blocks.tolist(), strict=True)
    return dict(zip(arms, means.tolist(), strict=True))


def pulled_blocks(scored: Scored) -> dict[str, Array]:
    """Lists the pulled blocks.

    Returns:
      `code` (`arm_code`), ascending, int64 [m]; the `round` of the pull, int64 [m]; and mean `influence`, nan if none of the
      block is finite, float64 [m].
    """
    unique, at = np.unique(arm_code(scored["cluster"], scored["block"]), return_index=True)
    codes, means = mean_by_block(scored)
    influence = look_up(codes, means, unique, np.nan)
    return {"code": unique, "round": scored["round"][at], "influence": influence}


def accepted_blocks(state: BanditState, scored: Scored) -> list[tuple[int, int, int, float]]:
    """Lists the blocks accepted in whole or in part.

    Returns:
      (cluster, block, round, mean influence of the scored examples), ascending.
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
    """Replaces unknown means by the lowest known mean, or by 0 if none is known: float [n] to float64 [n]."""
    # What no score speaks for comes last, but is not ruled out.
    known = np.isfinite(means)
    least = np.nanmin(means) if known.any() else 0.0
    return np.where(known, means, least)


def is_in_blocks(scored: Scored, arms: Collection[tuple[int, int]]) -> Array:
    """Tests whether each scored example is in one of the blocks (cluster, block), bool [n]."""
    wanted = np.array(list(arms), np.int64).reshape(-1, 2)
    codes = arm_code(scored["cluster"], scored["block"])
    return np.isin(codes, arm_code(wanted[:, 0], wanted[:, 1]))


def pulls_of(scored: Scored, counts: Array) -> RoundScores:
    """Splits the columns of one round into its pulls.

    Args:
      scored: The columns, with the examples of each pull contiguous.
      counts: Which examples count, bool [m]. A pull is kept even if none of its examples counts.
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
