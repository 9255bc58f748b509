"""Several targets share one budget: the one that has the least moves next, and takes its best example that none has taken.

What a target has is the sum of its examples in the unit of the budget, tokens or documents, over its weight; equals move in a
seeded random order. Of documents and equal weights that is round-robin, each round in an order of its own; of tokens no target
falls behind because its examples are short. What has been taken at any moment is
therefore, for each target, everything down to the last example that it took: a selection is one *cut* for each target, and a worker
that knows the cuts knows which of its rows are in. Finding them takes three sums over the corpus, and no worker ever
holds more than its own rows and a bounded sample:

1. `BudgetSearch` bounds every target's cut from below: what is above a cut is all taken, so it holds no more than the budget.
   Two passes of counts bound it closely. Examples below every bound cannot be taken; the others are the contenders.
2. `Contenders` keeps the contenders with the lowest draws, `limit` of them, with their scores. `Turns` plays all turns on
   them and notes at which step each target's cut came to which priority. The step of any example is then the first step at which a
   target's cut comes to it, found from its own scores alone.
3. `BudgetSearch` on the steps ends the budget within one example, to the token, over the whole corpus. Examples that are
   too long for the budget (`records.Budget.longest`) have no priority from the start.

Where near-duplicates are left out, turns are taken twice: by the first, over a few budgets of each target, it is decided which of a
family stays; by the second the budget is shared, of what is left alone. Otherwise a target with many copies would lose its share.

Where there are at most `limit` contenders the targets take turns to the example. Beyond that (50 B tokens are 50 M examples
or more, of which a shortlist for each target would be gigabytes, and turns taken one by one are as many passes) the sample plays
for the corpus: every target's share is right to about 1 / sqrt(examples it took in the sample), at worst 3 % of it for ten
targets and the default limit. Still exact are the order within each target, the budget, and that nothing depends on order or workers.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025 (round-robin).
"""

import dataclasses
import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad import archives, seeding
from beam_quad.distillation.checks import refuse_other_lengths
from beam_quad.selection.near_duplicates import COMPARED_BUDGETS, without_near_duplicates
from beam_quad.selection.ranking import (
    NUM_LEVELS,
    amounts_of,
    is_reached,
    priorities,
    search_budget,
)
from beam_quad.selection.within_shares import SharedGroups

Array = np.ndarray[Any, np.dtype[Any]]

NUM_CONTENDERS = 1 << 17
_CONTENDER_BYTES = 8 << 20
NEAR_DUPLICATE = -2
# A budget above all that there is.
EVERYTHING = 1 << 62


def num_contenders(num_targets: int) -> int:
    """Decides how many contenders are kept: 131,072, fewer where their 8 bytes for each target would be above 8 MB."""
    return max(1, min(NUM_CONTENDERS, _CONTENDER_BYTES // (8 * (num_targets + 1))))


@dataclasses.dataclass(frozen=True, eq=False)
class Contenders:
    """The contenders with the lowest draws. An additive statistic, bounded.

    Attributes:
      keys: Keys of the examples, in order of draw, uint64 [m], m <= limit.
      priorities: Their priorities, uint64 [m, num_targets].
      amounts: What each takes from the budget: its tokens, or 1; int64 [m].
      num_seen: How many there were to draw from; the draw is all of them where that is at most `limit`.
      seed: The run's seed.
      limit: How many are kept.
    """

    keys: Array
    priorities: Array
    amounts: Array
    num_seen: int
    seed: int
    limit: int = NUM_CONTENDERS

    @classmethod
    def of(
        cls,
        keys: Array,
        packed: Array,
        amounts: Array,
        floors: Array,
        seed: int,
        limit: int = NUM_CONTENDERS,
    ) -> "Contenders":
        """Draws from rows.

        Args:
          keys: Keys of the examples (`seeding.keys`), uint64 [n].
          packed: Their priorities, uint64 [n, num_targets].
          amounts: What each takes from the budget: its tokens, or 1; int64 [n].
          floors: `BudgetSearch.floors`, uint64 [num_targets].
          seed: The run's seed.
          limit: How many are kept.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        refuse_other_lengths(len(packed), keys=keys, amounts=amounts)
        contends = (packed >= floors).any(axis=1)
        own = keys[contends], packed[contends], np.asarray(amounts, np.int64)[contends]
        return cls(*own, int(contends.sum()), seed, limit)._cut()

    def __add__(self, other: "Contenders") -> "Contenders":
        mine, theirs = (self.seed, self.limit), (other.seed, other.limit)
        if mine != theirs:
            raise ValueError(
                f"cannot add contenders of different (seed, limit), {mine} and {theirs}"
            )
        keys = np.concatenate([self.keys, other.keys])
        packed = np.concatenate([self.priorities, other.priorities])
        amounts = np.concatenate([self.amounts, other.amounts])
        return Contenders(keys, packed, amounts, self.num_seen + other.num_seen, *mine)._cut()

    @property
    def is_exact(self) -> bool:
        """Whether all contenders are here, so that the targets take turns to the example."""
        return self.num_seen == len(self.keys)

    def _cut(self) -> "Contenders":
        kept = np.argsort(seeding.mix(self.seed, "contender", self.keys))[: self.limit]
        return dataclasses.replace(
            self,
            keys=self.keys[kept],
            priorities=self.priorities[kept],
            amounts=self.amounts[kept],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Turns:
    """Turns that were taken: the steps at which each target's cut came to which priority.

    Attributes:
      cuts: What each target took, best first, one target after the other, uint64 [num_steps].
      steps: The steps at which it took them, int64 [num_steps], ascending within a target.
      starts: Where each target's part begins, and the end, int64 [num_targets + 1].
      seed: The run's seed.
    """

    cuts: Array
    steps: Array
    starts: Array
    seed: int

    @classmethod
    def take(
        cls, contenders: Contenders, targets: Sequence[str], weights: Sequence[float]
    ) -> "Turns":
        """Takes turns until all contenders are taken.

        Args:
          contenders: Of the whole corpus.
          targets: Names of the targets, in the order of the columns. Who moves first among equals is drawn by name.
          weights: Their weights, positive, of which only the ratios count.
        """
        num_targets = contenders.priorities.shape[1]
        if len(targets) != num_targets or len(set(targets)) != num_targets:
            raise ValueError(f"{num_targets} targets need as many different names, got {targets}")
        if len(weights) != num_targets or not all(0 < weight < np.inf for weight in weights):
            raise ValueError(f"{num_targets} targets need as many positive weights, got {weights}")
        # Equal priorities, one in 2**32 of equal scores, go by key.
        rankings = [
            np.lexsort((contenders.keys, ~column)).tolist() for column in contenders.priorities.T
        ]
        draws = move_draws(targets, len(contenders.keys), contenders.seed)
        takes = _take(rankings, contenders.amounts.tolist(), weights, draws)
        cuts = [contenders.priorities[[row for _, row in own], j] for j, own in enumerate(takes)]
        steps = [np.array([step for step, _ in own], np.int64) for own in takes]
        starts = np.cumsum([0] + [len(own) for own in takes])
        return cls(np.concatenate(cuts), np.concatenate(steps), starts, contenders.seed)

    def arrivals(self, packed: Array) -> Array:
        """Finds the step at which each target's cut comes to each example.

        Args:
          packed: Priorities, uint64 [n, num_targets].

        Returns:
          int64 [n, num_targets]: of an example, the target with the least takes it. The number of steps where a cut never comes.
        """
        refuse_other_lengths(len(self.starts) - 1, targets=packed.T)
        arrivals = np.empty(packed.shape, np.int64)
        for target, (start, end) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            upwards = self.cuts[start:end][::-1]
            higher = len(upwards) - np.searchsorted(upwards, packed[:, target], side="right")
            steps = np.append(self.steps[start:end], len(self.steps))
            arrivals[:, target] = steps[higher]
        return arrivals

    def ranking(self, packed: Array, keys: Array) -> Array:
        """Ranks examples for the whole budget, whatever it is: higher is taken first.

        Args:
          packed: Priorities, uint64 [n, num_targets].
          keys: Keys of the examples, uint64 [n].

        Returns:
          uint64 [n, 1], for a `BudgetSearch`: by step, then by hash. A single target's is its own priority.
        """
        if packed.shape[1] == 1:
            return packed
        left = len(self.steps) - self.arrivals(packed).min(axis=1, initial=len(self.steps))
        return seeding.pack(left, seeding.mix(self.seed, "step", keys))[:, None]

    def takers(self, packed: Array, keys: Array) -> Array:
        """Finds the target that takes each example, if the budget lasts until then: int64 [n].

        Where no cut ever comes to an example, the sample ended before the corpus did, and a hash decides.
        """
        arrivals = self.arrivals(packed)
        drawn = seeding.mix(self.seed, "taker", keys) % np.uint64(packed.shape[1])
        never = arrivals.min(axis=1) == len(self.steps)
        return np.where(never, drawn.astype(np.int64), arrivals.argmin(axis=1))

    def to_bytes(self) -> bytes:
        """Writes the turns as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Turns":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        return cls(found["cuts"], found["steps"], found["starts"], int(found["seed"]))


def allocate(
    influence: Array,
    keys: Array,
    amounts: Array,
    budget: int,
    targets: Sequence[str],
    weights: Sequence[float],
    seed: int,
    limit: int = NUM_CONTENDERS,
    texts: Sequence[str] = (),
    near_duplicate_threshold: float | None = None,
    shares: SharedGroups | None = None,
) -> tuple[Array, dict[str, Any] | None]:
    """Allocates a budget over a corpus held in memory, as the distributed sums do.

    Args:
      influence: Float32 or float64 [n, num_targets], finite.
      keys: Keys of the examples (`seeding.keys`), uint64 [n].
      amounts: What each example takes from the budget: its tokens, or 1; int64 [n].
      budget: In the same unit. The example in which it ends is taken.
      targets: Names of the targets.
      weights: Their weights, positive: shares of the budget.
      seed: The run's seed.
      limit: How many contenders are kept.
      texts: The texts, n of them, where near-duplicates are left out.
      near_duplicate_threshold: Similarity of near-duplicates, in (0, 1]; None keeps them.
      shares: The examples in groups, and bounds on what these take; None without.

    Returns:
      The target that takes each example, -1 where none does, int64 [n]; `NEAR_DUPLICATE` of what the budget reaches and is
      left out. And how the shares were met, as `group_cuts.about_shares` says it; None without shares.
    """
    packed = priorities(influence, tie_draws(keys, seed))
    # A share may ask for any example.
    played, compared = (
        (budget, COMPARED_BUDGETS * budget) if shares is None else (EVERYTHING, EVERYTHING)
    )

    def take_turns(is_left: Array, played: int) -> Turns:
        own = keys[is_left], packed[is_left], np.asarray(amounts)[is_left]
        bounds = search_budget(*own[1:], played, NUM_LEVELS // 2)
        return Turns.take(Contenders.of(*own, bounds.floors, seed, limit), targets, weights)

    def rank(turns: Turns) -> Array:
        return np.where(may_give, turns.ranking(packed, keys)[:, 0], np.uint64(0))

    # What a share of 0 leaves out counts for no target that would have liked it.
    may_give = np.ones(len(keys), bool) if shares is None else shares.may_give
    is_left = may_give
    if near_duplicate_threshold is not None:
        # The first turns decide which of a family stays. Only after that is it known what each target has.
        order = rank(take_turns(is_left, compared))
        distinct = without_near_duplicates(
            order,
            texts,
            amounts,
            budget,
            near_duplicate_threshold,
            compares_all=shares is not None,
            num_targets=len(targets),
        )
        is_left = may_give & ((distinct > 0) | (order == 0))
    turns = take_turns(is_left, played)
    order, takers = rank(turns), turns.takers(packed, keys)
    kept = np.where(is_left, order, np.uint64(0))
    about: dict[str, Any] | None = None
    if shares is None:
        column = kept[:, None]
        floor = search_budget(column, amounts_of(column, amounts), budget).floors[0]
    else:
        values = influence[np.arange(len(keys)), takers].astype(np.float64)
        floor, about = shares.cut(kept, values, None, keys, amounts, budget, seed, "influence")
    others = np.where(is_reached(order, floor), NEAR_DUPLICATE, -1)
    return np.where(is_reached(kept, floor), takers, others), about


def tie_draws(keys: Array, seed: int) -> Array:
    """Draws the hashes that decide between equal scores, uint64 [n]."""
    return seeding.mix(seed, "tie", keys)


def move_draws(targets: Sequence[str], num_takes: int, seed: int) -> Array:
    """Draws who moves first of targets that have the same, the lowest, by what each has taken: uint64 [num_takes + 1, num_targets]."""
    takes = np.arange(num_takes + 1, dtype=np.uint64)
    drawn = seeding.mix(seed, "round", takes)[:, None] ^ seeding.keys(targets)
    return seeding.mix(seed, "visit", drawn)


def _take(
    rankings: list[list[int]], amounts: list[int], weights: Sequence[float], draws: Array
) -> list[list[tuple[int, int]]]:
    """Takes rows in turn; gives (step, row) of each target's takes."""
    is_taken = bytearray(len(amounts))
    nexts, spent = [0] * len(rankings), [0] * len(rankings)
    takes: list[list[tuple[int, int]]] = [[] for _ in rankings]
    turns = [(0.0, int(draw), target) for target, draw in enumerate(draws[0])]
    heapq.heapify(turns)
    for step in range(len(amounts)):
        target = turns[0][2]
        ranking, at = rankings[target], nexts[target]
        while is_taken[ranking[at]]:
            at += 1
        row = ranking[at]
        is_taken[row] = True
        nexts[target] = at + 1
        takes[target].append((step, row))
        spent[target] += amounts[row]
        draw = int(draws[len(takes[target]), target])
        heapq.heapreplace(turns, (spent[target] / weights[target], draw, target))
    return takes
