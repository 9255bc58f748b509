"""The selection of a bandit from all examples, by its estimates.

Within shares, a group may need more than the accepted blocks hold. Without near-duplicates, accepted blocks are short of
what they lose, and the best of the other examples fill the budget up.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.bandit import meets_budget
from beam_quad.bandit.scored import Scored, arm_code
from beam_quad.columns import find_sorted, look_up
from beam_quad.records import Split
from beam_quad.selection import (
    Kept,
    Standing,
    Taken,
    Unselected,
    accepted_first,
    keep_predicted,
    known_influence,
    or_estimate,
    pack_ranks,
    ranks_from,
    reason_number,
)
from beam_quad.stages.quad.pulled import Pulled
from beam_quad.stages.quad.select import BlockSelection
from beam_quad.stages.quad.share_draws import ShiftGroups
from beam_quad.stages.quad.within_clusters import PredictWithinClusters, RankedByBandit
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.ranked import Preferred, why_below
from beam_quad.stages.write.shares import GroupKeys

MeanOf = Literal["example", "block", "cluster"]


@dataclasses.dataclass(frozen=True)
class EstimatedInfluence(Preference):
    """Ranks all examples by their influence as estimated by a bandit.

    Args:
      pulled: The bandit's pulls.
      predictions: Influence by example, known or predicted, preferred to means; None if the acceptance rule predicts
        nothing.
      mean_of: Whose mean influence an example has: with "cluster" its cluster's, with "block" its block's if that was
        pulled, and with "example" its own alone, so that it has a rank only if it was scored.
      tau: Examples below this influence are never taken; None sets no limit.
      shifts: What is added to the estimates of examples in groups that shares ask for; None if no share asks for any.
    """

    unit: ClassVar[str] = "influence"

    pulled: Pulled
    predictions: PredictWithinClusters | None
    mean_of: MeanOf
    tau: float | None
    shifts: ShiftGroups | None = None

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        clusters, _ = self.pulled.arms(split, rows)
        influence, has_score = known_influence(self.known_scores(), rows.keys, clusters >= 0)
        if self.mean_of == "example":
            return ranks_from(influence, self.tau)
        estimate = np.where(clusters >= 0, self.estimate(split, rows), np.nan)
        # An example whose own score is not finite cannot be selected, whatever its estimate.
        return ranks_from(np.where(has_score & np.isnan(influence), np.nan, estimate), self.tau)

    def estimate(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Estimates the influence of each row, float64 [n]; undefined for a row without a cluster."""
        clusters, blocks = self.pulled.arms(split, rows)
        estimate = self._of_arms(clusters, blocks)
        if self.shifts is not None:
            estimate = estimate + self.shifts.of(split, clusters)
        if self.predictions is None:
            return estimate
        predicted = self.predictions.read(split).astype(np.float64)
        if self.shifts is not None:
            # A scored example keeps its own influence.
            own, is_scored = known_influence(self.known_scores(), rows.keys, clusters >= 0)
            predicted = np.where(is_scored, own, predicted + self.shifts.of(split, clusters))
        return or_estimate(predicted, estimate)

    @once_per_process
    def known_scores(self) -> Scored:
        """Reads the scored examples, in pulls or for shares, once per process: ascending `key`, and `influence`."""
        scored = self.pulled.scored()
        if self.shifts is None:
            return scored
        both = (scored, self.shifts.scores.scored())
        # A document is drawn for a share only if no pull scored it.
        key, influence = (np.concatenate([own[n] for own in both]) for n in ("key", "influence"))
        order = np.argsort(key)
        return {"key": key[order], "influence": influence[order]}

    def of_scored(
        self, scored: Scored, influence: np.ndarray, patterns: np.ndarray | None
    ) -> np.ndarray:
        """Ranks scored examples.

        Args:
          scored: The examples.
          influence: What they are ranked by if the rule predicts or takes single examples, float64 [n].
          patterns: Numbers of the patterns of the shares that they meet, int64 [n]; None without shares.

        Returns:
          float64 [n].
        """
        if self.predictions is None and self.mean_of != "example":
            influence = self._of_arms(scored["cluster"], scored["block"])
            if self.shifts is not None and patterns is not None:
                influence = influence + self.shifts.load().at(scored["cluster"], patterns)
        return ranks_from(influence, self.tau)

    def _of_arms(self, clusters: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        codes, means, of_cluster = self.pulled.means()
        own = of_cluster[clusters]
        if self.mean_of == "cluster":
            return own
        return or_estimate(look_up(codes, means, arm_code(clusters, blocks), np.nan), own)


@dataclasses.dataclass(frozen=True)
class AcceptedFirst:
    """The rows that a bandit accepted, which come before all others.

    If these are less than the budget, the others were refused by the rule of acceptance and are not selected either.

    Args:
      selection: The accepted rows, near-duplicates among them.
    """

    selection: BlockSelection

    def of(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """As `Foremost`."""
        is_accepted = np.zeros(len(rows.keys), bool)
        is_accepted[self.selection.keep(split, rows).rows] = True
        return is_accepted

    def first(self, packed: np.ndarray, split: Split, rows: aligned.Rows) -> np.ndarray:
        """As `Foremost`."""
        return accepted_first(packed, self.of(split, rows), self._fills_up())

    def first_of_scored(self, packed: np.ndarray, scored: Scored) -> np.ndarray:
        """Returns the priorities of scored examples with the accepted ones first, uint64 [n]."""
        return accepted_first(packed, self.selection.is_selected(scored), self._fills_up())

    def _fills_up(self) -> bool:
        pulled = self.selection.pulled
        return meets_budget(pulled.bandit.sized_policy(), pulled.state())


@dataclasses.dataclass(frozen=True)
class EstimatedSelection(RankedByBandit):
    """The examples of the highest estimated influence, within shares or without near-duplicates of each other.

    Args:
      ranking: The corpus ranked by estimated influence.
      cut: The cut of the budget in it.
      scored: The groups of the scored examples; None if there are no groups.
      accepted: What the bandit accepted, which comes first; None within shares, which ask for other examples.
    """

    ranking: Preferred[EstimatedInfluence]
    scored: GroupKeys | None
    accepted: AcceptedFirst | None = None

    @property
    def pulled(self) -> Pulled:
        return self.ranking.preference.pulled

    @property
    def is_census(self) -> bool:
        return self.ranking.preference.mean_of == "example"

    def known_scores(self) -> Scored:
        """As `BanditSelection`, with the examples scored for shares."""
        return self.ranking.preference.known_scores()

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = self.ranking.packed(split, rows)
        floor, estimate = self.cut.floor(split), self.ranking.preference.estimate(split, rows)
        kept = keep_predicted(
            packed,
            floor,
            estimate,
            self.pulled.blocks(),
            self.known_scores(),
            *self.pulled.places(split, rows),
            rows.keys,
        )
        twins = self.ranking.twins(split, rows, floor)
        # What was taken for its own score is worth that, and not the mean of its block.
        worth = kept.influence if self.is_census else estimate[kept.rows]
        kept = dataclasses.replace(kept, worth=worth, twins=twins)
        if self.accepted is None:
            return kept
        accepted = self.accepted.selection.keep(split, rows)
        at = find_sorted(accepted.rows, kept.rows)
        why = {
            name: np.where(at >= 0, getattr(accepted, name)[at], getattr(kept, name))
            for name in ("round", "block_influence")
        }
        # Without an accepted row there is no column to look up in.
        return dataclasses.replace(kept, is_accepted=at >= 0, **(why if len(accepted.rows) else {}))

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `BanditSelection`; within shares the reason follows from the estimated influence, not from the block."""
        packed, _ = self.ranking.packed(split, rows)
        why = why_below(packed, self.cut, split)
        found = super().standing(split, rows)
        if self.accepted is not None:
            found = self.accepted.selection.standing(split, rows)
            # Of what is below the cut, the bandit knows why: the block was refused, or not pulled at all.
            is_below = why == reason_number(Unselected.BELOW_CUT)
            why = np.where(is_below, found.why, why)
        found = dataclasses.replace(found, why=why)
        return self.ranking.cut_at(found, packed, self.cut.floor(split))

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`."""
        kept, corpus = self.keep(split, rows), self.ranking.corpus
        estimate = self.ranking.preference.estimate(split, rows)
        estimate[kept.rows] = kept.worth
        return Taken.by_one_target(estimate, kept, corpus.is_candidate(rows))

    def is_selected(self, scored: Scored) -> np.ndarray:
        return self._is_reached(scored, scored["influence"])

    def would_be_selected(self, scored: Scored) -> np.ndarray | None:
        """As `PropagatedSelection`, if examples are predicted."""
        predictions = self.ranking.preference.predictions
        if predictions is None:
            return None
        return self._is_reached(scored, predictions.fit.held_out_of(scored["key"]))

    def _is_reached(self, scored: Scored, influence: np.ndarray) -> Any:
        """Tells which scored examples are selected given their influence, bool [n]."""
        keys = scored["key"]
        patterns = None if self.scored is None else self.scored.patterns(keys)
        ranks = self.ranking.preference.of_scored(scored, influence, patterns)
        # Packed like the ranking of the corpus, so that priorities and floors can be compared.
        packed = pack_ranks(ranks, keys, self.pulled.bandit.policy.seed)
        if self.accepted is not None:
            packed = self.accepted.first_of_scored(packed, scored)
        floors = self.cut.lowest() if self.scored is None else self.scored.floors(keys)
        return self.are_taken(packed, floors, keys)
