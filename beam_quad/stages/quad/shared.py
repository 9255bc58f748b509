"""The selection of a bandit within shares, from all examples: a group may need more than the accepted blocks hold."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit import BanditState
from beam_quad.bandit.scored import Scored, arm_code, mean_by_block, with_least
from beam_quad.columns import look_up
from beam_quad.records import Split
from beam_quad.selection import (
    Kept,
    Standing,
    Taken,
    is_reached,
    keep_predicted,
    known_influence,
    or_estimate,
    pack_ranks,
    ranks_from,
)
from beam_quad.stages.quad.regressions import Pulled
from beam_quad.stages.quad.select import BanditSelection
from beam_quad.stages.quad.within_clusters import PredictWithinClusters
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.ranked import Preferred, why_below
from beam_quad.stages.write.shares import CutGroups, GroupKeys


@dataclasses.dataclass(frozen=True)
class EstimatedInfluence(Preference):
    """Ranks all examples by their influence as estimated by a bandit.

    Args:
      pulled: The bandit's pulls.
      predictions: Influence by example, known or predicted, preferred to block means; None if the acceptance rule
        predicts nothing.
      by_block: Whether an example of a pulled block has the block's mean influence. Otherwise, and in all other blocks,
        it has the mean of its cluster.
      tau: Examples below this influence are never taken; None sets no limit.
    """

    unit: ClassVar[str] = "influence"

    pulled: Pulled
    predictions: PredictWithinClusters | None
    by_block: bool
    tau: float | None

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        clusters, _, places = self.pulled.places(split, rows)
        influence, has_score = known_influence(self.pulled.scored(), rows.keys, places >= 0)
        estimate = np.where(clusters >= 0, self.estimate(split, rows), np.nan)
        # An example whose own score is not finite cannot be selected, whatever its estimate.
        return ranks_from(np.where(has_score & np.isnan(influence), np.nan, estimate), self.tau)

    def estimate(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Estimates the influence of each row, float64 [n]; undefined for a row without a cluster."""
        clusters, blocks = self.pulled.arms(split, rows)
        known = self._of_arms(clusters, blocks)
        if self.predictions is None:
            return known
        return or_estimate(self.predictions.read(split), known)

    def of_scored(self, scored: Scored, influence: np.ndarray) -> np.ndarray:
        """Ranks scored examples, float64 [n]: by `influence` if the rule predicts, else by block or cluster."""
        if self.predictions is None:
            influence = self._of_arms(scored["cluster"], scored["block"])
        return ranks_from(influence, self.tau)

    def _of_arms(self, clusters: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        codes, means, of_cluster = self._means()
        own = of_cluster[clusters]
        if not self.by_block:
            return own
        return or_estimate(look_up(codes, means, arm_code(clusters, blocks), np.nan), own)

    @once_per_process
    def _means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean influence of every pulled block, by ascending arm code, and of every cluster.

        A cluster without a scored example has the lowest mean of any cluster.
        """
        codes, of_block = mean_by_block(self.pulled.scored())
        return codes, of_block, with_least(self.pulled.state().arms.mean_influence)


@dataclasses.dataclass(frozen=True)
class SharedSelection(BanditSelection):
    """The examples of the highest estimated influence, within shares.

    Args:
      ranking: The corpus ranked by estimated influence.
      cut: The ends of the groups in it.
      scored: The groups of the scored examples.
    """

    ranking: Preferred[EstimatedInfluence]
    cut: CutGroups
    scored: GroupKeys

    @property
    def pulled(self) -> Pulled:
        return self.ranking.preference.pulled

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = self.ranking.packed(split, rows)
        floor, estimate = self.cut.floor(split), self.ranking.preference.estimate(split, rows)
        kept = keep_predicted(
            packed,
            floor,
            estimate,
            self.pulled.blocks(),
            self.pulled.scored(),
            *self.pulled.places(split, rows),
            rows.keys,
        )
        twins = self.ranking.twins(split, rows, floor)
        return dataclasses.replace(kept, worth=estimate[kept.rows], twins=twins)

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `BanditSelection`; the reason follows from the estimated influence, not from the block."""
        packed, _ = self.ranking.packed(split, rows)
        found = super().standing(split, rows)
        return dataclasses.replace(found, why=why_below(packed, self.cut, split))

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`."""
        kept, corpus = self.keep(split, rows), self.ranking.corpus
        estimate = self.ranking.preference.estimate(split, rows)
        return Taken.by_one_target(estimate, kept, corpus.is_candidate(rows))

    def is_selected(self, scored: Scored) -> np.ndarray:
        return self._is_reached(scored, scored["influence"])

    def would_be_selected(self, scored: Scored) -> np.ndarray | None:
        """As `PropagatedSelection`, if examples are predicted."""
        predictions = self.ranking.preference.predictions
        if predictions is None:
            return None
        table = predictions.fit.held_out()
        held_out = look_up(table["key"], table["held_out"], scored["key"], np.nan)
        return self._is_reached(scored, held_out)

    def accepted_tokens(self, state: BanditState) -> int:
        """As `BanditSelection`: the amount of the groups, because the rounds of the bandit ignore shares."""
        return self.cut.budget.amount - self.cut.missing()

    def _is_reached(self, scored: Scored, influence: np.ndarray) -> Any:
        """Tells which scored examples are selected given their influence, bool [n]."""
        ranks = self.ranking.preference.of_scored(scored, influence)
        keys = scored["key"]
        # Packed like the ranking of the corpus, so that priorities and floors can be compared.
        packed = pack_ranks(ranks, keys, self.pulled.bandit.policy.seed)
        is_taken = is_reached(packed, self.scored.floors(keys))
        if self.ranking.near_duplicates is not None:
            is_taken &= ~self.ranking.near_duplicates.drops(keys)
        return is_taken
