"""The protocol of a selection, and the selection of a baseline: one ranking of the corpus."""

import dataclasses
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.records import Split
from beam_quad.selection import (
    Kept,
    Standing,
    Taken,
    Twins,
    Unselected,
    is_reached,
    keep_ranked,
    rank_usable,
    ranks_and_cuts,
    why_of,
)
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.write.budget import SingleCut
from beam_quad.stages.write.near_duplicates import FindNearDuplicates
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.shares import Foremost, Groups


class Selection(Protocol):
    """Decides which rows of a split are selected; reads all it needs by path."""

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        """Selects rows of one split."""

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """Describes all rows of a split, selected or not."""


@runtime_checkable
class Weighable(Selection, Protocol):
    """A selection that knows, or estimates, the influence of every example."""

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """Finds the takers and the influence of all rows of a split."""


P = TypeVar("P", bound=Preference, covariant=True)


@dataclasses.dataclass(frozen=True)
class Preferred(Generic[P]):
    """The corpus ranked by a preference, for `Cut`.

    Args:
      corpus: The corpus, within the budget.
      preference: The ranking.
      held: Rows that come first: those selected before, or those that a bandit accepted; None if there are none.
      near_duplicates: Rows left out for a higher-ranked near-duplicate; None if near-duplicates stay.
      groups: The groups of shares, some of which may give nothing; None without shares.
    """

    corpus: Corpus
    preference: P
    held: Foremost | None = None
    near_duplicates: FindNearDuplicates | None = None
    groups: Groups | None = None

    @property
    def num_rankings(self) -> int:
        return 1

    def priorities(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return self.packed(split, rows)[0][:, None]

    def packed(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray]:
        """Packs the ranking of a split.

        Returns:
          Priorities, uint64 [n], 0 for rows that cannot be selected; and which usable rows have no finite rank, bool [n].
        """
        packed, unscorable = self._pack(split, rows)
        if self.near_duplicates is not None:
            packed = self.near_duplicates.without(packed, split)
        return packed, unscorable

    def values(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """As `ValuedRanking`."""
        # Shares are priced by values, and no price may drop a row that comes first.
        ranks = self.preference.rank(split, rows)
        return ranks if self.held is None else np.where(self.held.of(split, rows), np.inf, ranks)

    def influence(self, split: Split) -> np.ndarray | None:
        """As `ValuedRanking`."""
        return self.preference.influence(split)

    @property
    def unit(self) -> str:
        """As `ValuedRanking`."""
        return self.preference.unit

    def twins(self, split: Split, rows: aligned.Rows, floor: np.ndarray) -> Twins | None:
        """Finds the rows left out for a near-duplicate though they reach a floor, uint64 [1] or [n]."""
        if self.near_duplicates is None:
            return None
        return self.near_duplicates.above(self._pack(split, rows)[0], split, floor)

    def cut_at(self, standing: Standing, packed: np.ndarray, floor: np.ndarray) -> Standing:
        """Adds to the standing of rows their ranks, and the ranks at which the budget ends.

        Args:
          standing: The standing of n rows.
          packed: Their priorities by `packed`, uint64 [n].
          floor: The lowest selected priority, uint64 [1] or [n].
        """
        rank, cut = ranks_and_cuts(packed, floor, self.held is not None)
        return dataclasses.replace(standing, rank=rank, cut=cut)

    def _pack(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray]:
        ranks = self.preference.rank(split, rows)
        is_candidate = self.corpus.is_candidate(rows)
        if self.groups is not None:
            # A share of 0 rules a document out, however high it ranks.
            is_candidate &= self.groups.may_give(split)
        packed, unscorable = rank_usable(
            ranks, rows.usable, is_candidate, rows.keys, self.corpus.seed
        )
        if self.held is None:
            return packed, unscorable
        packed = self.held.first(packed, split, rows)
        # A held row stays selected, so it is not rejected for a missing rank.
        return packed, unscorable & ~self.held.of(split, rows)


def why_below(packed: np.ndarray, cut: SingleCut, split: Split) -> np.ndarray:
    """Tells why ranked rows are left out, a full share or a low rank: `reason_number`, int64 [n]."""
    is_full = is_reached(packed, cut.lowest()) & ~is_reached(packed, cut.floor(split))
    return why_of((is_full, Unselected.SHARE_FULL), otherwise=Unselected.BELOW_CUT)


@dataclasses.dataclass(frozen=True)
class RankedSelection:
    """The examples a baseline ranks highest.

    Args:
      ranking: The ranking.
      cut: The cut of the budget in it.
      clusters: The clusters, or None if nothing was clustered.
    """

    ranking: Preferred[Preference]
    cut: SingleCut
    clusters: AssignClusters | None

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, unscorable = self.ranking.packed(split, rows)
        clusters = None
        if self.clusters is not None:
            clusters, _ = self.clusters.read(split)
        influence = self.ranking.preference.influence(split)
        floor = self.cut.floor(split)
        kept = keep_ranked(packed, floor, unscorable, clusters, influence)
        return dataclasses.replace(kept, twins=self.ranking.twins(split, rows, floor))

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        clusters = None if self.clusters is None else self.clusters.read(split)[0]
        influence = self.ranking.preference.influence(split)
        packed, _ = self.ranking.packed(split, rows)
        why = why_below(packed, self.cut, split)
        found = Standing.of(len(rows.keys), why, influence, clusters)
        return self.ranking.cut_at(found, packed, self.cut.floor(split))

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`, if the ranking is by influence."""
        influence = self.ranking.preference.influence(split)
        if influence is None:
            raise ValueError(f"{self.ranking.preference} knows no influence to weigh by")
        kept = self.keep(split, rows)
        return Taken.by_one_target(influence, kept, self.ranking.corpus.is_candidate(rows))
