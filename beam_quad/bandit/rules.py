"""The rules of a round: where the water stands, how high an arm may reach, which arms are pulled."""

import math
from typing import Any

import numpy as np

from beam_quad import seeding

Array = np.ndarray[Any, np.dtype[Any]]

# The water level looks for a tenth more than is left of the budget, and a round pulls twice its share of it: both
# allow for blocks that are pulled and then fall short. In `tests.benchmarks.bandit` a round margin of 1.2 finds .96-1.00
# of the oracle's influence but .91-1.00 of the budget, since what the last rounds pull is not all accepted; 2.0 finds
# the same influence and .994-1.00 of the budget, for 3 to 16 % more examples scored with 1,000 clusters or more.
WATER_MARGIN = 1.1
ROUND_MARGIN = 2.0
MIN_ARMS_PER_ROUND = 8

# Where blocks are taken whole, an arm gives all it has if its mean reaches the threshold, and nothing if not.
WHOLE_BLOCKS = np.zeros(1)


def expected_share(threshold: float, means: Array, residuals: Array) -> Array:
    """Estimates the share of each arm's examples that reach a threshold.

    Args:
      threshold: An influence; -inf is reached by all.
      means: Mean influence of each arm, float64 [arms]; nan where unknown, which counts as out of reach.
      residuals: How far scored examples lie from the mean of their arm, ascending, float64 [examples >= 1]. The arms
        are taken to spread alike.

    Returns:
      In [0, 1], float64 [arms].
    """
    below = np.searchsorted(residuals, threshold - means, side="left")
    return 1.0 - below / residuals.size


def water_level(
    means: Array, supply: Array, wanted_tokens: float, residuals: Array = WHOLE_BLOCKS
) -> float:
    """Finds the mean influence down to which the arms together hold the tokens that are wanted.

    Args:
      means: Mean influence of each arm, float64 [arms]; nan where unknown: such an arm is left out.
      supply: Tokens that each arm can still give, int64 [arms].
      wanted_tokens: How many are wanted.
      residuals: As in `expected_share`; the default, a single 0, is for blocks that are taken whole.

    Returns:
      The highest of the means at which the arms that reach it are expected to give `wanted_tokens`; -inf where they
      never do.
    """
    known = np.flatnonzero(~np.isnan(means) & (supply > 0))
    known = known[np.argsort(-means[known], kind="stable")]
    ranked, tokens = means[known], supply[known]

    def given(rank: int) -> float:
        share = expected_share(float(ranked[rank]), ranked[: rank + 1], residuals)
        return math.fsum((tokens[: rank + 1] * share).tolist())

    low, high = (
        0,
        ranked.size,
    )  # `given` grows with the rank, so the first that reaches is found by bisection.
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if given(middle) >= wanted_tokens else (middle + 1, high)
    return float(ranked[low]) if low < ranked.size else -math.inf


def upper_bounds(means: Array, pulls: Array, exploration: float) -> Array:
    """Bounds each arm's mean from above: mean + exploration · sqrt(2 ln(Σ_j T_j) / T_i).

    Args:
      means: Ibar, float64 [arms].
      pulls: T, [arms]; what was known before may count as a part of one.
      exploration: Weight of the confidence term, in units of influence.

    Returns:
      float64 [arms]; inf for an arm that was never scored, as is usual: it is tried before all others.

    References:
      Auer, Cesa-Bianchi & Fischer, Finite-time Analysis of the Multiarmed Bandit Problem, 2002.
    """
    logarithm = math.log(max(float(pulls.sum()), 1.0))
    width = exploration * np.sqrt(2.0 * logarithm / np.maximum(pulls, 1))
    return np.where(pulls > 0, means + width, np.inf)


def tie_breakers(seed: int, num_clusters: int) -> Array:
    """Draws the hash of each cluster id that decides between equals, uint64 [num_clusters]."""
    return seeding.mix(seed, "bandit ties", np.arange(num_clusters, dtype=np.uint64))


def ranking(values: Array, ties: Array) -> Array:
    """Orders positions by value, highest first, equals by their tie breaker; int64, nan last."""
    return np.lexsort((ties, -values))


def blocks_in_order(
    first: Array, end: Array, worth: Array, share: Array, room: Array, wanted_tokens: float
) -> tuple[Array, Array]:
    """Lists blocks in the order in which arms pull them: the next of every arm, then the second next of every arm, ...

    Args:
      first: Where each arm's next block is, the arms in order of score; int64 [arms].
      end: Where its blocks end, int64 [arms].
      worth: Tokens that the block at each place could give, int64 [places].
      share: Which share of them each arm is expected to give, float64 [arms].
      room: What each arm may still give, int64 [arms].
      wanted_tokens: No further block of an arm is listed once the blocks before are expected to give so many.

    Returns:
      Places, int64 [n], and the tokens each is expected to give, float64 [n].
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
    """Counts how many items, in order, it takes to hold the tokens wanted and be `at_least` so many."""
    reached = int(np.searchsorted(np.cumsum(tokens), wanted_tokens, side="left")) + 1
    return min(max(reached, at_least), int(tokens.size))
