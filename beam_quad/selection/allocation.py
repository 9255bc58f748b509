"""Shares one budget between targets: the target with the least moves next, and takes its best example still left.

A target has the sum of its examples, in tokens or documents, divided by its weight; ties move in a seeded random order.
If the unit is documents and weights are equal, this is round-robin with a new order in each round; if the unit is
tokens, no target falls behind because its examples are short. At any moment everything down to each target's last
example is taken, so a selection is one *cut* per target, and a worker needs only the cuts to find its selected rows.
Finding the cuts takes three sums over the corpus, and no worker holds more than its own rows and a bounded sample:

1. `BudgetSearch` bounds every target's cut from below: all examples above a cut are taken, so they fit the budget. Two
   passes of counts give a close bound. Examples below every bound cannot be taken; the others are the contenders.
2. `Contenders` keeps the contenders with the lowest draws, `limit` of them, with their scores. `Turns` plays all turns
   on them and records the step at which each target's cut reaches each priority. The step of any example is then the
   first at which a cut reaches it, found from the example's own scores alone.
3. `BudgetSearch` on the steps ends the budget within one example, to the token, over the whole corpus. Examples that
   are too long for the budget (`records.Budget.longest`) have no priority from the start.

If near-duplicates are left out, turns are taken twice. The first pass, over a few budgets per target, decides which
document of a family stays; the second shares the budget among the remaining documents. Otherwise a target with many
copies would lose its share.

With at most `limit` contenders, turns are exact to the example. Beyond the limit the sample stands for the corpus (50 B
tokens are 50 M examples or more: a shortlist per target would take gigabytes, and single turns as many passes): every
target's share is right to about 1 / sqrt(examples it took in the sample), at worst 3 % of it for ten targets and the
default limit. The order within each target and the budget stay exact, and the result stays independent of row order and
workers.

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
# In place of a target's number: -1 is an example that nothing takes.
NEAR_DUPLICATE = -2
# A budget larger than any corpus.
EVERYTHING = 1 << 62


def num_contenders(num_targets: int) -> int:
    """Decides how many contenders are kept: 131,072, or fewer if 8 bytes for each target would exceed 8 MB."""
    return max(1, min(NUM_CONTENDERS, _CONTENDER_BYTES // (8 * (num_targets + 1))))


@dataclasses.dataclass(frozen=True, eq=False)
class Contenders:
    """The contenders with the lowest draws. An additive statistic, bounded.

    Attributes:
      keys: Keys of the examples, in order of draw, uint64 [m], m <= limit.
      priorities: Their priorities, uint64 [m, num_targets].
      amounts: Cost of each: its tokens, or 1; int64 [m].
      num_seen: How many there were to draw from; at most `limit` means all of them are kept.
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
          amounts: Cost of each: its tokens, or 1; int64 [n].
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
        """Whether all contenders are kept, so that turns are exact to the example."""
        return self.num_seen == len(self.keys)

    def _cut(self) -> "Contenders":
        # The lowest draws of a union are among the lowest of its parts, so any order of addition keeps the same
        # examples.
        kept = np.argsort(seeding.mix(self.seed, "contender", self.keys))[: self.limit]
        return dataclasses.replace(
            self,
            keys=self.keys[kept],
            priorities=self.priorities[kept],
            amounts=self.amounts[kept],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Turns:
    """The finished turns: the step at which each target's cut reached each priority.

    Attributes:
      cuts: Priorities of the examples each target took, best first, one target after the other, uint64 [num_steps].
      steps: Steps at which these were taken, int64 [num_steps], ascending within a target.
      starts: Start of each target's part, and the end of the last, int64 [num_targets + 1].
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
          weights: Their weights, positive; only ratios matter.
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
        """Finds the step at which each target's cut reaches each example.

        Args:
          packed: Priorities, uint64 [n, num_targets].

        Returns:
          int64 [n, num_targets]: the target with the lowest step takes the example. The number of steps if a cut never
          reaches it.
        """
        refuse_other_lengths(len(self.starts) - 1, targets=packed.T)
        arrivals = np.empty(packed.shape, np.int64)
        for target, (start, end) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            # A cut reaches an example when its target first takes one that ranks no higher.
            upwards = self.cuts[start:end][::-1]
            higher = len(upwards) - np.searchsorted(upwards, packed[:, target], side="right")
            steps = np.append(self.steps[start:end], len(self.steps))
            arrivals[:, target] = steps[higher]
        return arrivals

    def ranking(self, packed: Array, keys: Array) -> Array:
        """Ranks examples independently of the budget: higher is taken first.

        Args:
          packed: Priorities, uint64 [n, num_targets].
          keys: Keys of the examples, uint64 [n].

        Returns:
          uint64 [n, 1], for a `BudgetSearch`: by step, then by hash. With a single target, the ranking is its own
          priority.
        """
        if packed.shape[1] == 1:
            return packed
        left = len(self.steps) - self.arrivals(packed).min(axis=1, initial=len(self.steps))
        return seeding.pack(left, seeding.mix(self.seed, "step", keys))[:, None]

    def takers(self, packed: Array, keys: Array) -> Array:
        """Finds the target that takes each example, if the budget lasts until then: int64 [n].

        If no cut reaches an example, the sample ended before the corpus did, and a hash decides.
        """
        arrivals = self.arrivals(packed)
        # 2**64 is far above any number of targets, so the modulo favours none.
        drawn = seeding.mix(self.seed, "taker", keys) % np.uint64(packed.shape[1])
        never = arrivals.min(axis=1) == len(self.steps)
        return np.where(never, drawn.astype(np.int64), arrivals.argmin(axis=1))

    def to_bytes(self) -> bytes:
        """Writes the turns as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Turns":
        """Reads the output of `to_bytes`."""
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
    """Allocates a budget over an in-memory corpus, with the same result as the distributed sums.

    Args:
      influence: Float32 or float64 [n, num_targets], finite.
      keys: Keys of the examples (`seeding.keys`), uint64 [n].
      amounts: Cost of each example: its tokens, or 1; int64 [n].
      budget: In the same unit. The example in which it ends is taken.
      targets: Names of the targets.
      weights: Their weights, positive: shares of the budget.
      seed: The run's seed.
      limit: How many contenders are kept.
      texts: The n texts, needed if near-duplicates are left out.
      near_duplicate_threshold: Similarity of near-duplicates, in (0, 1]; None keeps them.
      shares: The examples in groups, with bounds on the groups; None without shares.

    Returns:
      The target that takes each example, int64 [n]: -1 for none, `NEAR_DUPLICATE` for a near-duplicate the budget would
      have reached. And the report of `group_cuts.about_shares`; None without shares.
    """
    packed = priorities(influence, tie_draws(keys, seed))
    # A share may require any example, however low it ranks, so all are played and compared.
    played, compared = (
        (budget, COMPARED_BUDGETS * budget) if shares is None else (EVERYTHING, EVERYTHING)
    )

    def take_turns(is_left: Array, played: int) -> Turns:
        own = keys[is_left], packed[is_left], np.asarray(amounts)[is_left]
        bounds = search_budget(*own[1:], played, NUM_LEVELS // 2)
        return Turns.take(Contenders.of(*own, bounds.floors, seed, limit), targets, weights)

    def rank(turns: Turns) -> Array:
        return np.where(may_give, turns.ranking(packed, keys)[:, 0], np.uint64(0))

    # Examples excluded by a share of 0 take no turn of any target.
    may_give = np.ones(len(keys), bool) if shares is None else shares.may_give
    is_left = may_give
    if near_duplicate_threshold is not None:
        # The first turns decide which document of a family stays; each target's amount is known only afterwards.
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
    # These rows reach the floor in the ranking that still has near-duplicates, so only a better copy keeps them out.
    others = np.where(is_reached(order, floor), NEAR_DUPLICATE, -1)
    return np.where(is_reached(kept, floor), takers, others), about


def tie_draws(keys: Array, seed: int) -> Array:
    """Draws the hashes that break ties between equal scores, uint64 [n]."""
    return seeding.mix(seed, "tie", keys)


def move_draws(targets: Sequence[str], num_takes: int, seed: int) -> Array:
    """Draws the order of tied targets, lowest first, by number of takes: uint64 [num_takes + 1, num_targets]."""
    takes = np.arange(num_takes + 1, dtype=np.uint64)
    drawn = seeding.mix(seed, "round", takes)[:, None] ^ seeding.keys(targets)
    return seeding.mix(seed, "visit", drawn)


def _take(
    rankings: list[list[int]], amounts: list[int], weights: Sequence[float], draws: Array
) -> list[list[tuple[int, int]]]:
    """Takes rows in turn; returns (step, row) of each target's takes."""
    is_taken = bytearray(len(amounts))
    nexts, spent = [0] * len(rankings), [0] * len(rankings)
    takes: list[list[tuple[int, int]]] = [[] for _ in rankings]
    # A heap by what each target has spent for its weight; the draw decides between equals.
    turns = [(0.0, int(draw), target) for target, draw in enumerate(draws[0])]
    heapq.heapify(turns)
    for step in range(len(amounts)):
        target = turns[0][2]
        ranking, at = rankings[target], nexts[target]
        # Positions only advance, so all turns together cost one pass over each ranking.
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
