"""Rankings packed into integers, and the priority at which a budget ends, found by sums."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import seeding
from beam_quad.additive import add_by_key
from beam_quad.distillation.checks import refuse_not_finite, refuse_other_lengths

Array = np.ndarray[Any, np.dtype[Any]]

_LEVEL_BITS = 16
NUM_LEVELS = 64 // _LEVEL_BITS
# A priority that no example has: a ranking that ends here gives nothing.
NOTHING = np.uint64(np.iinfo(np.uint64).max)


def priorities(influence: Array, draws: Array) -> Array:
    """Packs rankings into one integer for each example and target: higher is better, ties go by hash.

    Args:
      influence: Float32 or float64 [n, num_targets], finite; compared in single precision. Half precision is refused:
        with 8 bits of fraction, scores tie by the thousand, and no later cast restores the order.
      draws: A hash of each example, uint64 [n]; lower first.

    Returns:
      uint64 [n, num_targets]: the score's bits, ordered as integers, above the upper half of the inverted draw.
    """
    influence = np.asarray(influence)
    if influence.ndim != 2 or influence.dtype not in (np.float32, np.float64):
        raise ValueError(
            "influence must be float32 or float64 [n, num_targets], "
            f"got {influence.dtype} {influence.shape}"
        )
    refuse_other_lengths(len(influence), draws=draws)
    single = influence.astype(np.float32)
    refuse_not_finite(single, "influence")
    return seeding.pack(seeding.ordered_bits(single), np.asarray(draws, np.uint64)[:, None])


def cut_draws(seed: int, keys: Array) -> Array:
    """Draws the hashes that break ties and order the cut of a block, uint64 [n]; lowest first."""
    return seeding.mix(seed, "cut", keys)


def pack_ranks(ranks: Array, keys: Array, seed: int) -> Array:
    """Packs ranks, float [n], higher first, into priorities, uint64 [n]: ties go by hash; 0 if not finite."""
    finite = _are_finite(ranks)
    packed = priorities(np.where(finite, ranks, 0.0)[:, None], cut_draws(seed, keys))[:, 0]
    return np.where(finite, packed, np.uint64(0))


def rank_usable(
    ranks: Array, is_usable: Array, is_candidate: Array, keys: Array, seed: int
) -> tuple[Array, Array]:
    """Packs the ranking of some rows.

    Args:
      ranks: Float [n], higher first; a row without a finite rank cannot be selected.
      is_usable: Which rows were not rejected when they were read, bool [n].
      is_candidate: Which of these are short enough for the budget, bool [n].
      keys: Keys of the examples (`seeding.keys`), uint64 [n].
      seed: The run's seed.

    Returns:
      Priorities, uint64 [n], 0 for rows that cannot be selected; and which usable rows have no finite rank, bool [n].
    """
    packed = np.where(is_candidate, pack_ranks(ranks, keys, seed), np.uint64(0))
    return packed, is_usable & ~_are_finite(ranks)


def _are_finite(ranks: Array) -> Array:
    """Tells which ranks are finite in float32, the precision of comparison, bool [n]."""
    with np.errstate(over="ignore"):
        return np.isfinite(np.asarray(ranks, np.float32))


def is_reached(packed: Array, floor: Array | np.uint64) -> Array:
    """Tells which examples reach a floor, common or per example, bool [n]; priority 0 never does."""
    return np.asarray((packed >= floor) & (packed > 0))


def amounts_of(packed: Array, amounts: Array) -> Array:
    """Gives the cost of examples: 0 if the priority is 0 in every ranking.

    Args:
      packed: Priorities, uint64 [n, num_targets].
      amounts: Tokens of each row, or 1, int64 [n].

    Returns:
      int64 [n].
    """
    return np.where((packed > 0).any(axis=1), amounts, 0)


def ranks_from(influence: Array, tau: float | None) -> Array:
    """Ranks by influence, float [n], down to and including `tau`; lower values are nan, which is never taken."""
    return influence if tau is None else np.where(influence >= tau, influence, np.nan)


def random_ranks(seed: int, keys: Array) -> Array:
    """Ranks examples in a random order, float64 [n]."""
    # Ranks differ, rather than leave ties to the hash: only half a hash breaks ties, and a billion examples would have
    # equal halves.
    return seeding.uniform(seed, "random", keys)


def nearest_ranks(values: Array, center: float) -> Array:
    """Ranks values, float [n], by their distance from a center, the nearest highest."""
    return -np.abs(values - center)


def even_ranks(seed: int, keys: Array, clusters: Array, cluster_tokens: Array) -> Array:
    """Ranks examples so that a budget takes the same tokens from every cluster, as far as it has them.

    An example at u in [0, 1) of a cluster of n tokens is at about token u n of its cluster, so the examples with the
    smallest u n fill all clusters evenly.

    Args:
      seed: The run's seed.
      keys: Keys of the examples (`seeding.keys`), uint64 [n].
      clusters: Their clusters, integer [n]; -1 for none.
      cluster_tokens: Tokens of each cluster, int64 [num_clusters].

    Returns:
      Float64 [n], higher first; nan for an example without a cluster.
    """
    # A cluster of -1 reads the last entry, which the mask drops.
    place = seeding.uniform(seed, "cluster_uniform", keys) * cluster_tokens[clusters]
    return np.where(clusters >= 0, -place, np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class BucketAmounts:
    """The amount in each non-empty bucket of priorities. An additive statistic.

    Attributes:
      buckets: Target * 2**16 + bucket, ascending, int64 [m].
      amounts: Tokens or examples, int64 [m].
    """

    buckets: Array
    amounts: Array

    @classmethod
    def zero(cls) -> "BucketAmounts":
        """The amounts of nothing."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __add__(self, other: "BucketAmounts") -> "BucketAmounts":
        amounts = (self.amounts, other.amounts)
        return BucketAmounts(*add_by_key((self.buckets, other.buckets), amounts))


@dataclasses.dataclass(frozen=True, eq=False)
class BudgetSearch:
    """Finds, target by target, the priority at which a budget ends, taking examples from the highest.

    Each pass over the corpus counts 65,536 buckets of the remaining range and decides 16 more bits; four passes decide
    all bits, and fewer give a lower bound. Nothing is sorted, and only counts are moved.

    Attributes:
      budget: In tokens or examples; 0 takes nothing.
      prefixes: The bits decided, uint64 [num_targets].
      above: Amount above these priorities, int64 [num_targets].
      level: How many times 16 bits are decided.
    """

    budget: int
    prefixes: Array
    above: Array
    level: int = 0

    @classmethod
    def start(cls, num_targets: int, budget: int) -> "BudgetSearch":
        """Starts a search with no bits decided."""
        return cls(budget, np.zeros(num_targets, np.uint64), np.zeros(num_targets, np.int64))

    @property
    def floors(self) -> Array:
        """The lowest priorities that may be needed to fill the budget, uint64 [num_targets].

        With all bits decided they are exact: the budget ends among the examples of that priority.
        """
        if self.budget == 0:
            return np.full_like(self.prefixes, NOTHING)
        undecided = 64 - _LEVEL_BITS * self.level
        return self.prefixes << np.uint64(undecided) if self.level else self.prefixes

    def missing(self, budget: int) -> int:
        """Gives the shortfall of a finished search of one ranking, in the unit of the budget."""
        # The search ends at the bottom only if everything fits; `above` is then the amount taken.
        return max(budget - int(self.above[0]), 0) if self.floors[0] == 0 else 0

    def count(self, packed: Array, amounts: Array) -> BucketAmounts:
        """Counts rows.

        Args:
          packed: Priorities, uint64 [n, num_targets].
          amounts: Cost of each example: its tokens, or 1; int64 [n].
        """
        if self.level == NUM_LEVELS:
            raise ValueError("all bits are decided: there is nothing left to count")
        shift = np.uint64(64 - _LEVEL_BITS * (self.level + 1))
        digits = packed >> shift
        # Rows outside the decided prefix are surely in or surely out, and need no count.
        in_range = (digits >> np.uint64(_LEVEL_BITS)) == self.prefixes
        rows, targets = np.nonzero(in_range)
        low = (digits[rows, targets] & np.uint64((1 << _LEVEL_BITS) - 1)).astype(np.int64)
        # bincount adds in float64, which is exact for integers below 2**53.
        counts = np.bincount((targets << _LEVEL_BITS) + low, weights=np.asarray(amounts)[rows])
        filled = np.flatnonzero(counts)
        return BucketAmounts(filled, counts[filled].astype(np.int64))

    def narrowed(self, counted: BucketAmounts) -> "BudgetSearch":
        """Decides 16 more bits, from the counts of the whole corpus."""
        found = [self._ends(target, counted) for target in range(len(self.prefixes))]
        digits = np.array([digit for digit, _ in found], np.uint64)
        prefixes = (self.prefixes << np.uint64(_LEVEL_BITS)) | digits
        above = np.array([amount for _, amount in found], np.int64)
        return BudgetSearch(self.budget, prefixes, above, self.level + 1)

    def _ends(self, target: int, counted: BucketAmounts) -> tuple[int, int]:
        mine = counted.buckets >> _LEVEL_BITS == target
        buckets, amounts = counted.buckets[mine][::-1], counted.amounts[mine][::-1]
        filled = self.above[target] + np.cumsum(amounts)
        # The bucket in which the budget is filled; `above` counts only what ranks above that bucket.
        at = int(np.searchsorted(filled, self.budget))
        if at < len(buckets):
            return int(buckets[at]) & ((1 << _LEVEL_BITS) - 1), int(filled[at] - amounts[at])
        # Everything fits: the search continues to the bottom.
        # The search goes on in bucket 0, so what that bucket holds is not above it.
        if len(buckets) and buckets[-1] & ((1 << _LEVEL_BITS) - 1) == 0:
            return 0, int(filled[-1] - amounts[-1])
        return 0, int(filled[-1]) if len(filled) else int(self.above[target])


def search_budget(
    packed: Array, amounts: Array, budget: int, num_levels: int = NUM_LEVELS
) -> BudgetSearch:
    """Searches a corpus held in memory.

    Args:
      packed: Priorities, uint64 [n, num_targets].
      amounts: Cost of each example: its tokens, or 1; int64 [n].
      budget: In the same unit, at least 1.
      num_levels: How many times 16 bits are decided; fewer than all give lower bounds of the cuts.

    Raises:
      ValueError: If the budget is not positive.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1, got {budget}")
    search = BudgetSearch.start(packed.shape[1], budget)
    for _ in range(num_levels):
        search = search.narrowed(search.count(packed, amounts))
    return search
