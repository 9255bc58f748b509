"""The refreshed selection of a bandit: the examples selected before, and the best of the new splits."""

import dataclasses

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.columns import find_sorted
from beam_quad.records import Split
from beam_quad.selection import (
    Kept,
    Standing,
    Unselected,
    is_reached,
    keep_again,
    known_influence,
    within_reach,
)
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.quad.select import BanditSelection
from beam_quad.stages.refresh.base import Base
from beam_quad.stages.write.budget import Cut
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.ranked import Preferred


@dataclasses.dataclass(frozen=True)
class SelectedWorth(Preference):
    """Ranks the examples selected before and those selected from new splits, each by the worth it was selected for.

    Args:
      base: The selection before.
      added: The selection from the new splits; None if there is none.
    """

    base: Base
    added: BanditSelection | None

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        worth = np.full(len(rows.keys), np.nan)
        if self.base.has(split):
            selected = self.base.selected(split)
            worth[selected["row"]] = selected["worth"]
        # A split of the base never gives new rows: its blocks were judged when it was new.
        elif self.added is not None:
            kept = self.added.keep(split, rows)
            worth[kept.rows] = kept.worth
        return worth


@dataclasses.dataclass(frozen=True)
class RefreshedSelection:
    """Rows selected before that still exist, and rows that a bandit selects from the new splits.

    Unselected rows of an old split stay out: their blocks were judged when the split was new.

    Args:
      ranking: Both kinds of rows, the earlier ones first.
      cut: Where the budget ends in the ranking.
      clusters: The clusters of the whole corpus.
      known: Scores of earlier runs; None if there are none.
    """

    ranking: Preferred[SelectedWorth]
    cut: Cut
    clusters: AssignClusters
    known: KnownEvidence | None

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = self.ranking.packed(split, rows)
        is_kept = is_reached(packed, self.cut.floors()[0])
        preference = self.ranking.preference
        if preference.added is not None and not preference.base.has(split):
            return within_reach(preference.added.keep(split, rows), is_kept)
        worth, (clusters, _) = preference.rank(split, rows), self.clusters.read(split)
        is_unscorable = rows.usable & (find_sorted(self._unscorable(), rows.keys) >= 0)
        return keep_again(is_kept, clusters, worth, is_unscorable)

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        found = self._standing(split, rows)
        packed, _ = self.ranking.packed(split, rows)
        here = self.ranking.cut_at(found, packed, self.cut.floors()[:1])
        # What the bandit did not select has no rank here, but one in the bandit's own ranking.
        is_ranked = packed > 0
        return dataclasses.replace(
            found,
            rank=np.where(is_ranked, here.rank, found.rank),
            cut=np.where(is_ranked, here.cut, found.cut),
        )

    def _standing(self, split: Split, rows: aligned.Rows) -> Standing:
        preference = self.ranking.preference
        if preference.added is not None and not preference.base.has(split):
            return preference.added.standing(split, rows)
        clusters, influence = self.clusters.read(split)[0], None
        if self.known is not None:
            known = self.known.load()
            scored = {"key": known.key, "influence": known.influence}
            influence, _ = known_influence(scored, rows.keys, rows.usable)
        return Standing.of(len(rows.keys), Unselected.LEFT_OUT_BEFORE, influence, clusters)

    @once_per_process
    def _unscorable(self) -> np.ndarray:
        """Keys of the examples without a finite score in any run, ascending, uint64 [m]."""
        return np.zeros(0, np.uint64) if self.known is None else self.known.load().unscorable
