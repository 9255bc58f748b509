"""Groups of documents cut into bands, from the best down: the summary of a ranking for a programme over sums."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import seeding
from beam_quad.columns import places_in_runs, run_starts

Array = np.ndarray[Any, np.dtype[Any]]

NUM_SAMPLED = 1 << 17
NUM_BANDS = 1 << 15
# Below these a group's curve of value would be too coarse, however many groups share the limits above.
_FEWEST_SAMPLED, _FEWEST_BANDS = 64, 16


@dataclasses.dataclass(frozen=True, eq=False)
class GroupSample:
    """The documents of each group with the lowest draws. An additive statistic, bounded.

    Attributes:
      group: Group of each, ascending, int64 [m].
      draw: A hash, ascending within a group, uint64 [m].
      packed: Priority, uint64 [m].
      amount: Cost of each in the unit of the budget, int64 [m].
      value: Ranking value of each, float64 [m]; infinite for documents taken before all others.
      influence: Influence of each, float64 [m]; nan if unknown.
      seen: How many documents each group has, int64 [num_groups].
    """

    group: Array
    draw: Array
    packed: Array
    amount: Array
    value: Array
    influence: Array
    seen: Array

    @classmethod
    def of(
        cls,
        num_groups: int,
        groups: Array,
        keys: Array,
        packed: Array,
        amounts: Array,
        values: Array,
        influence: Array | None,
        seed: int,
    ) -> "GroupSample":
        """Draws from rows.

        Args:
          num_groups: How many groups there are.
          groups: Group of each row, int [n].
          keys: uint64 [n].
          packed: Priorities, uint64 [n]; rows of priority 0 are never drawn.
          amounts: Cost of each row in the unit of the budget, int64 [n].
          values: float64 [n], not nan if the priority is not 0.
          influence: float64 [n], or None if unknown.
          seed: The run's seed.
        """
        at = np.flatnonzero(packed > 0)
        if influence is None:
            influence = np.full(len(packed), np.nan)
        own = groups[at].astype(np.int64)
        seen = np.bincount(own, minlength=num_groups).astype(np.int64)
        draws = seeding.mix(seed, "share", keys[at])
        columns = (packed[at], np.asarray(amounts)[at], values[at], influence[at])
        return cls(own, draws, *columns, seen)._cut()

    def __add__(self, other: "GroupSample") -> "GroupSample":
        mine, theirs = self._columns(), other._columns()
        both = {name: np.concatenate([mine[name], theirs[name]]) for name in mine}
        return GroupSample(**both, seen=self.seen + other.seen)._cut()

    def _columns(self) -> dict[str, Array]:
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name != "seen"}

    def _cut(self) -> "GroupSample":
        # `NUM_SAMPLED` bounds all groups together, unless there are so many that each keeps the minimum.
        limit = max(_FEWEST_SAMPLED, NUM_SAMPLED // max(1, len(self.seen)))
        # By draw within a group; the priority breaks ties of draws, so the order of addition does not matter.
        order = np.lexsort((self.packed, self.draw, self.group))
        order = order[places_in_runs(self.group[order]) < limit]
        kept = {name: column[order] for name, column in self._columns().items()}
        return GroupSample(**kept, seen=self.seen)

    def bands(self) -> "Bands":
        """Divides the groups into bands by their sampled documents."""
        most = max(_FEWEST_BANDS, NUM_BANDS // max(1, len(self.seen)))
        order = np.lexsort((~self.packed, self.group))
        value = _finite(self.value)
        groups: list[Array] = []
        floors: list[Array] = []
        values: list[Array] = []
        influences: list[Array] = []
        firsts = np.searchsorted(self.group[order], np.arange(len(self.seen) + 1))
        for group in range(len(self.seen)):
            own = order[firsts[group] : firsts[group + 1]]
            if not len(own):
                continue
            # Ends of bands, in documents from the top: the first bands hold one document, later ones ever more.
            ends = np.unique(np.geomspace(1, len(own), most).round().astype(np.int64))
            starts = np.append(0, ends[:-1])
            amounts = np.add.reduceat(self.amount[own], starts)
            edges = self.packed[own[ends - 1]]
            # Documents that were not drawn may rank below the whole sample, so the last band has no lower edge.
            edges[-1] = 1
            groups.append(np.full(len(ends), group))
            floors.append(edges)
            for into, column in ((values, value), (influences, self.influence)):
                into.append(np.add.reduceat(column[own] * self.amount[own], starts) / amounts)
        if not groups:
            return Bands.none(len(self.seen))
        is_whole = np.bincount(self.group, minlength=len(self.seen)) == self.seen
        return Bands(
            np.concatenate(groups),
            np.concatenate(floors),
            np.concatenate(values),
            np.concatenate(influences),
            is_whole,
        )


def _finite(values: Array) -> Array:
    """Replaces infinite values by a finite one above all others."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros(len(values))
    # An infinite value would make every mean of its band infinite, and the programme unsolvable.
    above = finite.max() + (np.ptp(finite) or 1.0)
    return np.where(np.isfinite(values), values, above)


@dataclasses.dataclass(frozen=True, eq=False)
class Bands:
    """Parts of groups, the best of each first.

    Attributes:
      group: Ascending, int64 [num_bands].
      floor: The lowest priority of each, descending within a group, uint64 [num_bands].
      value: Value of each per unit of the budget, float64 [num_bands].
      influence: Mean influence of each, float64 [num_bands]; nan if unknown.
      is_whole: True for groups whose every document was sampled, bool [num_groups].
    """

    group: Array
    floor: Array
    value: Array
    influence: Array
    is_whole: Array

    @classmethod
    def none(cls, num_groups: int) -> "Bands":
        """The bands of no document."""
        nothing = np.zeros(0)
        group, floor = nothing.astype(np.int64), nothing.astype(np.uint64)
        return cls(group, floor, nothing, nothing, np.ones(num_groups, bool))

    def of(self, groups: Array, packed: Array) -> Array:
        """Finds the band of each row, int64 [n]; -1 for priority 0. Arguments as for `GroupSample.of`."""
        found = np.full(len(packed), -1, np.int64)
        at = np.flatnonzero(packed > 0)
        at = at[np.argsort(groups[at], kind="stable")]
        starts = run_starts(groups[at])
        of_runs = groups[at][starts]
        firsts, lasts = (np.searchsorted(self.group, of_runs, side) for side in ("left", "right"))
        # With a cap on each of thousands of clusters there are as many groups.
        for own, first, last in zip(np.split(at, starts[1:]), firsts, lasts, strict=False):
            upwards = self.floor[first:last][::-1]
            found[own] = last - np.searchsorted(upwards, packed[own], side="right")
        return found

    def count(self, groups: Array, packed: Array, amounts: Array) -> Array:
        """Sums the amounts of the rows of each band, int64 [num_bands]."""
        found = self.of(groups, packed)
        at = np.flatnonzero(found >= 0)
        # bincount adds in float64, which is exact for integers below 2**53.
        sums = np.bincount(found[at], weights=np.asarray(amounts)[at], minlength=len(self.group))
        return sums.astype(np.int64)
