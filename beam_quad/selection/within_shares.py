"""Shares over an in-memory corpus."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad.bandit.group_shifts import draws_of_shares
from beam_quad.columns import find_sorted
from beam_quad.distillation.landmarks import LandmarkDraw
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.selection.group_cuts import about_shares, cut_shares
from beam_quad.selection.programme import System, refuse_unmet
from beam_quad.selection.shares import (
    Bound,
    asking,
    conditions_of,
    members_of,
    parse_bounds,
    pattern_codes,
    patterns_of,
)

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class GivenShares:
    """Shares as given to a function, and the columns of their conditions.

    Attributes:
      bounds: The bounds.
      columns: The values of these columns, one for every text.
    """

    bounds: tuple[Bound, ...]
    columns: Mapping[str, Sequence[Any]]

    @classmethod
    def of(
        cls, shares: Sequence[str], columns: Mapping[str, Sequence[Any]] | None, num_texts: int
    ) -> "GivenShares":
        """Reads shares.

        Raises:
          UsageError: If a share cannot be read, or its column is missing or of the wrong length: one line that names
            it.
        """
        bounds, columns = parse_bounds(shares, "shares"), columns or {}
        for bound in bounds:
            name = bound.condition.column
            if name not in columns:
                raise UsageError(
                    f"shares {bound.text!r}: there is no column {name!r}; pass columns={{{name!r}: a value for each text}}"
                )
            if len(columns[name]) != num_texts:
                raise UsageError(
                    f"columns: {name!r} has {len(columns[name])} values for {num_texts} texts; pass one for each"
                )
        return cls(bounds, columns)

    def over(
        self, positions: Array, amounts: Array, is_candidate: Array, budget: Budget
    ) -> "SharedGroups | None":
        """Groups examples by the conditions they meet, and refuses shares they cannot fill.

        Args:
          positions: Position of each example among the texts, int64 [n].
          amounts: Cost of each example in the unit of the budget, int64 [n].
          is_candidate: Which can be selected, bool [n].
          budget: The budget.

        Returns:
          The groups; None without shares.
        """
        if not self.bounds:
            return None
        conditions = conditions_of(self.bounds)
        names = {condition.column for condition in conditions}
        values = {name: _values(self.columns[name], positions) for name in names}
        patterns = patterns_of(conditions, values)
        _, first, codes = np.unique(
            pattern_codes(patterns[is_candidate]), return_index=True, return_inverse=True
        )
        # Examples that cannot be selected are in group 0; their priority of 0 keeps them out of every sum.
        groups = np.zeros(len(positions), np.int64)
        groups[is_candidate] = codes
        members = members_of(self.bounds, conditions, patterns[is_candidate][first])
        held = np.bincount(codes, weights=amounts[is_candidate]).astype(np.int64)
        absent = [name for name in sorted(names) if values[name].count(None) == len(positions)]
        refuse_unmet(self.bounds, members, held, budget, absent, "shares")
        system, meets = (
            System.of(self.bounds, members),
            members_of(self.bounds, conditions, patterns),
        )
        return SharedGroups(self.bounds, groups, system, meets)


@dataclasses.dataclass(frozen=True, eq=False)
class SharedGroups:
    """Examples grouped by the bounds they meet.

    Attributes:
      bounds: The bounds, without the caps of clusters.
      groups: Group of each example, int64 [n].
      system: The bounds over the groups.
      meets: Which examples meet each of the bounds, bool [num_bounds, n].
    """

    bounds: tuple[Bound, ...]
    groups: Array
    system: System
    meets: Array

    @classmethod
    def free(cls, num_examples: int) -> "SharedGroups":
        """Examples without a bound."""
        nothing = np.zeros((0, num_examples), bool)
        return cls((), np.zeros(num_examples, np.int64), System.free(1), nothing)

    @property
    def may_give(self) -> Array:
        """Examples that may be selected, bool [n]: False for a share of 0."""
        return np.asarray(~self.system.shut[self.groups])

    def where(self, is_kept: Array) -> "SharedGroups":
        """Keeps some of the examples, bool [n]."""
        return dataclasses.replace(self, groups=self.groups[is_kept], meets=self.meets[:, is_kept])

    def asked(self) -> tuple[Array, list[float]]:
        """The examples that meet each bound asking for documents, bool [m, n], and the share of each bound."""
        asked = asking(self.bounds)
        at = [self.bounds.index(bound) for bound in asked]
        return self.meets[at], [bound.share for bound in asked]

    def draw_asked(self, keys: Array, can_be_drawn: Array, num_pilot: int, seed: int) -> Array:
        """Draws examples of each bound that asks for documents, to be scored after a bandit's rounds.

        Args:
          keys: uint64 [n].
          can_be_drawn: Which examples can be drawn, bool [n].
          num_pilot: Number of examples that the pilot scored.
          seed: The run's seed.

        Returns:
          Positions, ascending by key, int64 [m].
        """
        meets, asked = self.asked()
        drawn = [
            LandmarkDraw.of(keys[own & can_be_drawn], seed, number).keys
            for own, number in zip(meets, draws_of_shares(asked, num_pilot), strict=True)
        ]
        at = np.flatnonzero(np.isin(keys, np.concatenate([keys[:0], *drawn])))
        return np.asarray(at[np.argsort(keys[at])])

    def capped(
        self, clusters: Array, packed: Array, tokens: Array, budget_tokens: int, share: float
    ) -> "SharedGroups":
        """Caps each cluster that holds more than a share of the budget.

        Args:
          clusters: Cluster of each example, int [n].
          packed: Priorities, uint64 [n]; 0 for examples that cannot be selected.
          tokens: int64 [n].
          budget_tokens: The budget.
          share: The largest share of the budget from one cluster, in (0, 1].
        """
        if share >= 1:
            return self
        held = np.bincount(clusters, weights=np.where(packed > 0, tokens, 0))
        # Other clusters need no bound: taken whole, they stay within the cap.
        heavy = np.flatnonzero(held > max(1, math.floor(share * budget_tokens)))
        groups = (find_sorted(heavy, clusters) + 1) * self.system.num_groups + self.groups
        system = self.system.by_cluster(len(heavy), share)
        return dataclasses.replace(self, groups=groups, system=system)

    def cut(
        self,
        packed: Array,
        values: Array,
        influence: Array | None,
        keys: Array,
        amounts: Array,
        budget: int,
        seed: int,
        unit: str,
    ) -> tuple[Array, dict[str, Any]]:
        """Fills a budget within the bounds. Arguments as for `group_cuts.cut_shares`; `unit` names the value.

        Returns:
          The lowest selected priority of each example's group, uint64 [n]; and the report of `about_shares`.
        """
        programme, cuts = cut_shares(
            self.system, self.groups, keys, packed, amounts, values, influence, budget, seed, len(self.bounds),
        )  # fmt: skip
        about = about_shares(self.bounds, self.system, programme, cuts, unit)
        return cuts.floors[self.groups], about


def _values(column: Sequence[Any], positions: Array) -> list[Any]:
    """Values of a column at some positions; an array gives Python values, as a file would."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return [values[i] for i in positions.tolist()]
