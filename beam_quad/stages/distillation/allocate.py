"""Several targets share one budget by taking turns over the corpus ranked by propagated influence."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.errors import IntegrityError
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Budget, BudgetUnit, Split, amounts_in
from beam_quad.selection import (
    Contenders,
    Kept,
    Standing,
    Taken,
    Turns,
    Twins,
    Unselected,
    held_first,
    is_reached,
    keep_for_targets,
    num_contenders,
    priorities,
    tie_draws,
)
from beam_quad.stages.distillation.fit_propagation import FitPropagation
from beam_quad.stages.distillation.propagate import Propagate
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.base import Held
from beam_quad.stages.write.budget import Cut, SingleCut
from beam_quad.stages.write.near_duplicates import FindNearDuplicates
from beam_quad.stages.write.shares import GroupKeys, Groups

# Two of four levels give a close bound of the targets' cuts; see `selection.allocation`.
BOUND_LEVELS = 2


@dataclasses.dataclass(frozen=True)
class Propagated:
    """The corpus ranked by propagated influence, once for each target.

    Args:
      corpus: The corpus, within the budget.
      influence: The influence.
      targets: Names of the targets.
      near_duplicates: Rows that cannot be taken because a near-duplicate ranks above them; None if these are not known
        yet, or stay.
      groups: The groups of shares, some of which may give nothing; None without shares.
    """

    corpus: Corpus
    influence: Propagate
    targets: tuple[str, ...]
    near_duplicates: FindNearDuplicates | None = None
    groups: Groups | None = None

    @property
    def num_rankings(self) -> int:
        return len(self.targets)

    def priorities(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        packed = self.of(self.influence.read(split), rows.keys)
        can_be = self.is_example(rows)
        if self.groups is not None:
            can_be &= self.groups.may_give(split)
        packed = np.where(can_be[:, None], packed, np.uint64(0))
        return (
            packed if self.near_duplicates is None else self.near_duplicates.without(packed, split)
        )

    def is_example(self, rows: aligned.Rows) -> np.ndarray:
        """Tells which rows can be taken: all candidates except unscorable landmarks, bool [n]."""
        return np.asarray(self.corpus.is_candidate(rows) & ~self.is_unscorable(rows))

    def is_unscorable(self, rows: aligned.Rows) -> np.ndarray:
        """Tells which usable rows are landmarks that could not be scored, bool [n]."""
        unscorable = self.influence.propagation.unscorable()
        return np.asarray(rows.usable & np.isin(rows.keys, unscorable))

    def of(self, influence: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Ranks examples by known or predicted influence, float [n, num_targets]: uint64 [n, num_targets]."""
        return priorities(influence, tie_draws(keys, self.corpus.seed))


@dataclasses.dataclass(frozen=True)
class TakeTurns(SplitStage):
    """Lets the targets take turns on the examples within reach of any of them.

    Takes splits, gives `Contenders`, and writes the `Turns`.

    Args:
      corpus: The corpus, within the budget.
      ranking: The corpus ranked for each target.
      bounds: Lower bounds of the targets' cuts.
      unit: Unit of the shared budget: tokens or examples.
      weights: The targets' weights, which are their shares of the budget.
      label: The stage's name in a chain, in CapWords.
    """

    kind = "turns"
    artifact_name = "turns.npz"

    ranking: Propagated
    bounds: Cut
    unit: BudgetUnit
    weights: tuple[float, ...]
    label: Annotated[str, identity.NotCounted("a name for people")] = "TakeTurns"

    @property
    def name(self) -> str:
        return self.label

    def work(self, sizes: Sizes) -> Work:
        return pass_over(self.texts_of(sizes), num_rankings=self.ranking.num_rankings)

    def do(self, piece: Split, model: Any) -> Contenders:
        rows = self.corpus.rows(piece)
        packed = self.ranking.priorities(piece, rows)
        is_example = packed.any(axis=1)
        floors = self.bounds.floors(BOUND_LEVELS)
        # Priority 0 means that no target may take the row, so it does not count as a contender.
        limit = num_contenders(self.ranking.num_rankings)
        keys, amounts = rows.keys, amounts_in(self.unit, rows.tokens)
        return Contenders.of(
            keys[is_example],
            packed[is_example],
            amounts[is_example],
            floors,
            self.corpus.seed,
            limit,
        )

    def finish(self, total: Contenders) -> None:
        turns = Turns.take(total, self.ranking.targets, self.weights)
        facts = {"contenders": total.num_seen, "is_exact": total.is_exact}
        write_json(self.path("turns.json"), facts)
        files.write_once(self.artifact, turns.to_bytes())

    @once_per_process
    def load(self) -> Turns:
        """Loads the turns, once per process."""
        return Turns.from_bytes(files.read_bytes(self.artifact))

    def is_exact(self) -> bool:
        """Whether the targets took turns on all contenders, and not on a sample of them."""
        return bool(read_json(self.path("turns.json"))["is_exact"])


@dataclasses.dataclass(frozen=True)
class Allocated:
    """The corpus ranked once for all targets, by the step at which the first of them reaches an example.

    Args:
      ranking: The corpus ranked for each target.
      turns: The turns; None with a single target, whose own ranking is used.
      held: Rows selected before, which come first; None without a base.
      near_duplicates: Rows left out for a higher-ranked near-duplicate; None if near-duplicates stay.
    """

    unit: ClassVar[str] = "influence"

    ranking: Propagated
    turns: TakeTurns | None
    held: Held | None = None
    near_duplicates: FindNearDuplicates | None = None

    @property
    def num_rankings(self) -> int:
        return 1

    def priorities(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        packed = self._all(split, rows)
        return (
            packed if self.near_duplicates is None else self.near_duplicates.without(packed, split)
        )

    def values(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """As `ValuedRanking`: the influence on the target that takes each row if the budget lasts."""
        influence = self.ranking.influence.read(split)
        takers = self.takers(self.ranking.of(influence, rows.keys), rows.keys)
        values = influence[np.arange(len(takers)), takers].astype(np.float64)
        # Held rows are taken before all others, whatever their influence.
        return values if self.held is None else np.where(self.held.of(split, rows), np.inf, values)

    def influence(self, split: Split) -> np.ndarray | None:
        """As `ValuedRanking`; None, because the values are the influence."""
        return None

    def twins(self, split: Split, rows: aligned.Rows, floor: np.ndarray) -> Twins | None:
        """Finds the rows left out for a near-duplicate though they reach a floor, uint64 [1] or [n]."""
        if self.near_duplicates is None:
            return None
        return self.near_duplicates.above(self._all(split, rows)[:, 0], split, floor)

    def _all(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        packed = self.ranking.priorities(split, rows)
        # The turns rank any row, even one that no target may take.
        packed = np.where(
            packed.any(axis=1, keepdims=True), self.of(packed, rows.keys), np.uint64(0)
        )
        if self.held is None:
            return packed
        return self.held.first(packed[:, 0], split, rows)[:, None]

    def is_exact(self) -> bool:
        """Whether the targets took turns on all contenders, and not on a sample of them."""
        return self.turns is None or self.turns.is_exact()

    def of(self, packed: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Ranks examples for all targets by their rankings for each: uint64 [n, num_targets] to [n, 1]."""
        if self.turns is None:
            return packed
        return self.turns.load().ranking(packed, keys)

    def takers(self, packed: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Finds the target that takes each example if the budget lasts: int64 [n]. Arguments as for `of`."""
        if self.turns is None:
            return np.zeros(len(keys), np.int64)
        return self.turns.load().takers(packed, keys)


@dataclasses.dataclass(frozen=True)
class DistilledSelection:
    """The rows the targets take until the budget is met.

    Args:
      allocated: The corpus ranked once for all targets.
      cut: The cut of the budget in this ranking.
      landmarks: The groups of the landmarks, if there are shares.
    """

    allocated: Allocated
    cut: SingleCut
    landmarks: GroupKeys | None = None

    @property
    def ranking(self) -> Propagated:
        """The corpus ranked for each target."""
        return self.allocated.ranking

    @property
    def propagation(self) -> FitPropagation:
        """The propagation of influence from the landmarks."""
        return self.ranking.influence.propagation

    @property
    def budget(self) -> Budget:
        """The budget."""
        return self.cut.budget

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        taken = self.taken(split, rows)
        kept = self.kept(rows, taken.influence, taken.takers)
        return dataclasses.replace(kept, twins=self.twins(split, rows))

    def twins(self, split: Split, rows: aligned.Rows) -> Twins | None:
        """Finds the rows left out for a near-duplicate though the budget reaches them."""
        return self.allocated.twins(split, rows, self.cut.floor(split))

    def kept(self, rows: aligned.Rows, influence: np.ndarray, takers: np.ndarray) -> Kept:
        """Keeps the rows the targets take, by influence known for landmarks and predicted for other rows.

        Args:
          rows: The rows, n of them.
          influence: Influence on each target, float32 [n, num_targets].
          takers: The target that takes each row, -1 for none, int64 [n].
        """
        landmarks = self.propagation.load().keys
        # A row that stays selected from before is not rejected, even if it can no longer be scored.
        unscorable = self.ranking.is_unscorable(rows) & (takers < 0)
        return keep_for_targets(
            influence, takers, rows.keys, landmarks, unscorable, self.ranking.targets
        )

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `Selection`, by the highest influence of a row on any target."""
        best = self.ranking.influence.read(split).max(axis=1).astype(np.float64)
        is_exact = np.isin(rows.keys, self.propagation.load().keys)
        return Standing.of(
            len(rows.keys),
            Unselected.BELOW_CUT,
            np.where(is_exact, best, np.nan),
            predicted=np.where(is_exact, np.nan, best),
        )

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        influence = self.ranking.influence.read(split)
        order = self.allocated.priorities(split, rows)[:, 0]
        takers = self.allocated.takers(self.ranking.of(influence, rows.keys), rows.keys)
        is_taken = is_reached(order, self.cut.floor(split))
        is_example = self.ranking.is_example(rows)
        if (twins := self.twins(split, rows)) is not None:
            is_example[twins.rows] = False
        return Taken(influence, np.where(is_taken, takers, -1), is_example)

    def floor(self) -> np.uint64:
        """The lowest selected priority, which is the same for all rows without shares."""
        if not isinstance(self.cut, Cut):
            raise IntegrityError("a selection within shares has no single lowest priority")
        lowest: np.uint64 = self.cut.floors()[0]
        return lowest

    def would_take(self, influence: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Finds the taker of landmarks of a given influence, float [n, num_targets]: int64 [n], -1 for none."""
        packed = self.ranking.of(influence, keys)
        order = self.allocated.of(packed, keys)[:, 0]
        if self.allocated.held is not None:
            # Landmarks are ranked like new examples, because held rows are selected regardless of influence.
            nobody = np.zeros(len(keys), bool)
            order = held_first(order, nobody, order > 0, self.allocated.held.keeps_all)
        if self.landmarks is None:
            is_taken = order >= self.floor()
        else:
            is_taken = is_reached(order, self.landmarks.floors(keys))
        if self.allocated.near_duplicates is not None:
            is_taken &= ~self.allocated.near_duplicates.drops(keys)
        return np.where(is_taken, self.allocated.takers(packed, keys), -1)
