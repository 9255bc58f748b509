"""The arithmetic of a round: the water level, the upper bound of each arm, and the order of pulls."""

import math
from typing import Any

import numpy as np

from beam_quad import seeding

Array = np.ndarray[Any, np.dtype[Any]]

# The water level is set for 1.1 times the remaining budget, and a round pulls twice its share of it. Both margins allow for
# pulled blocks that fall short. In `tests.benchmarks.bandit` a round margin of 1.2 finds .96-1.00 of the oracle's influence
# but only .91-1.00 of the budget, because blocks pulled in the last rounds are not all accepted; 2.0 finds the same influence
# and .994-1.00 of the budget, and scores 3 to 16 % more examples with 1,000 clusters or more.
WATER_MARGIN = 1.1
ROUND_MARGIN = 2.0
MIN_ARMS_PER_ROUND = 8

# Residuals for rules that accept whole blocks: an arm gives all its tokens if its mean reaches the threshold, else none.
WHOLE_BLOCKS = np.zeros(1)


def expected_share(threshold: float, means: Array, residuals: Array) -> Array:
    """Estimates the share of each arm's examples that reach a threshold.

    Args:
      threshold: An influence; every example reaches -inf.
      means: Mean influence of each arm, float64 [arms]; nan if unknown, with a share of 0.
      residuals: Deviations of scored examples from the mean of their arm, ascending, float64 [examples >= 1]. All arms are
        assumed to have the same spread.

    Returns:
      In [0, 1], float64 [arms].
    """
    below = np.searchsorted(residuals, threshold - means, side="left")
    return 1.0 - below / residuals.size


def water_level(
    means: Array, supply: Array, wanted_tokens: float, residuals: Array = WHOLE_BLOCKS
) -> float:
    """Finds the mean influence down to which the arms together are expected to give the wanted tokens.

    Args:
      means: Mean influence of each arm, float64 [arms]; arms with nan are left out.
      supply: Tokens that each arm can still give, int64 [arms].
      wanted_tokens: Number of tokens to find.
      residuals: As in `expected_share`; the default, a single 0, is for rules that accept whole blocks.

    Returns:
      The highest mean at which the arms at or above it are expected to give `wanted_tokens`; -inf if no level does.
    """
    known = np.flatnonzero(~np.isnan(means) & (supply > 0))
    known = known[np.argsort(-means[known], kind="stable")]
    ranked, tokens = means[known], supply[known]

    def given(rank: int) -> float:
        share = expected_share(float(ranked[rank]), ranked[: rank + 1], residuals)
        return math.fsum((tokens[: rank + 1] * share).tolist())

    # `given` grows with the rank, so bisection finds the first rank that gives enough.
    low, high = 0, ranked.size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if given(middle) >= wanted_tokens else (middle + 1, high)
    return float(ranked[low]) if low < ranked.size else -math.inf


def upper_bounds(means: Array, pulls: Array, exploration: float) -> Array:
    """Bounds each arm's mean from above: mean + exploration · sqrt(2 ln(Σ_j T_j) / T_i).

    Args:
      means: Ibar, float64 [arms].
      pulls: T, [arms]; fractional if a prior counts as part of a pull.
      exploration: Weight of the confidence term, in units of influence.

    Returns:
      float64 [arms]; inf for an arm without scores, so that it is pulled before all others, as usual for UCB.

    References:
      Auer, Cesa-Bianchi & Fischer, Finite-time Analysis of the Multiarmed Bandit Problem, 2002.
    """
    logarithm = math.log(max(float(pulls.sum()), 1.0))
    width = exploration * np.sqrt(2.0 * logarithm / np.maximum(pulls, 1))
    return np.where(pulls > 0, means + width, np.inf)


def tie_breakers(seed: int, num_clusters: int) -> Array:
    """Draws a tie breaker for each cluster, the seeded hash of its id, uint64 [num_clusters]."""
    return seeding.mix(seed, "bandit ties", np.arange(num_clusters, dtype=np.uint64))


def ranking(values: Array, ties: Array) -> Array:
    """Orders positions by value, highest first, then by tie breaker, with nan last; int64."""
    return np.lexsort((ties, -values))


def blocks_in_order(
    first: Array, end: Array, worth: Array, share: Array, room: Array, wanted_tokens: float
) -> tuple[Array, Array]:
    """Lists blocks in pull order: the next block of every arm, then the second next of every arm, and so on.

    Args:
      first: Place of each arm's next block, arms in order of score, int64 [arms].
      end: End of each arm's blocks, int64 [arms].
      worth: Tokens that the block at each place could give, int64 [places].
      share: Share of its blocks' worth that each arm is expected to give, float64 [arms].
      room: Tokens that each arm may still give, int64 [arms].
      wanted_tokens: Expected tokens after which no arm is listed again.

    Returns:
      Places, int64 [n], and the tokens expected from each, float64 [n].
    """
    places, gives = [], []
    while first.size:
        places.append(first)
        gives.append(np.minimum(worth[first] * share, room))
        wanted_tokens -= float(gives[-1].sum())
        room = room - gives[-1]
        goes_on = (first + 1 < end) & (room > 0) & (wanted_tokens > 0)
        first, end, share, room = first[goes_on] + 1, end[goes_on], share[goes_on], room[goes_on]
    return np.concatenate(places), np.concatenate(gives)


def first_until(tokens: Array, wanted_tokens: float, at_least: int) -> int:
    """Counts how many of the first items together hold the wanted tokens, but no fewer than `at_least`."""
    reached = int(np.searchsorted(np.cumsum(tokens), wanted_tokens, side="left")) + 1
    return min(max(reached, at_least), int(tokens.size))
