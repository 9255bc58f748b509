"""Influence predicted within clusters, for every example, and the selection that follows from it."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.bandit import BanditState
from beam_quad.bandit.scored import Scored, with_least
from beam_quad.columns import look_up
from beam_quad.distillation.within_clusters import predict_by_cluster
from beam_quad.records import Split
from beam_quad.selection import (
    Kept,
    Standing,
    Taken,
    Unselected,
    is_reached,
    keep_predicted,
    known_influence,
    or_estimate,
    pack_ranks,
    ranks_from,
    reason_number,
)
from beam_quad.stages.quad.regressions import FitWithinClusters, Pulled
from beam_quad.stages.quad.select import BanditSelection
from beam_quad.stages.read.splits import RowAlignedStage
from beam_quad.stages.write.budget import Cut
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.ranked import Preferred

_PREDICTIONS = pa.schema([pa.field("predicted", pa.float32())])


@dataclasses.dataclass(frozen=True)
class PredictWithinClusters(RowAlignedStage):
    """Predicts the influence of every example of a cluster with a regression, and of every other pulled block.

    Takes splits; writes one row-aligned file each: the exact influence where it was scored, the prediction of its
    cluster elsewhere, nan where there is none. Gives counts.

    Args:
      corpus: The corpus, embedded.
      fit: The regressions.
    """

    kind = "predictions"
    version = 2
    artifact_name = "predictions.json"

    fit: FitWithinClusters

    def statistic(self, piece: Split) -> Tally:
        return _count(self.read(piece))

    def do(self, piece: Split, model: Any) -> Tally:
        rows = self.corpus.rows(piece)
        pulled = self.fit.pulled
        clusters, _, places = pulled.places(piece, rows)
        predicted = np.full(len(rows.keys), np.nan)
        if rows.usable.any():
            for first, vectors in self.corpus.embeddings(piece):
                run = slice(first, first + len(vectors))
                predicted[run] = predict_by_cluster(
                    self.fit.regression, clusters[run], places[run] >= 0, vectors
                )
        influence, is_exact = known_influence(pulled.scored(), rows.keys, places >= 0)
        predicted = np.where(is_exact, influence, predicted).astype(np.float32)
        self.write_rows(piece, _PREDICTIONS, {"predicted": predicted})
        return _count(predicted)

    def read(self, split: Split) -> np.ndarray:
        """Reads the row-aligned influence of a split, known or predicted, float32 [n]; nan where nothing is said."""
        return self.read_rows(split)["predicted"]


@dataclasses.dataclass(frozen=True)
class PredictedInfluence(Preference):
    """All examples by influence, known or predicted.

    Args:
      predictions: The influence.
      tau: Examples below this influence are never taken; None takes the best there are.
    """

    predictions: PredictWithinClusters
    tau: float | None

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return ranks_from(self.predictions.read(split), self.tau)


@dataclasses.dataclass(frozen=True)
class PropagatedSelection(BanditSelection):
    """The examples whose influence is known or predicted to be highest.

    Args:
      ranking: The corpus ranked by influence, known or predicted.
      cut: Where the budget ends in it.
    """

    ranking: Preferred[PredictedInfluence]
    cut: Cut

    @property
    def pulled(self) -> Pulled:
        return self._predictions.fit.pulled

    @property
    def _predictions(self) -> PredictWithinClusters:
        return self.ranking.preference.predictions

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = self.ranking.packed(split, rows)
        floor = self.cut.floors()[0]
        kept = keep_predicted(
            packed,
            floor,
            self._predictions.read(split),
            self.pulled.blocks(),
            self.pulled.scored(),
            *self.pulled.places(split, rows),
            rows.keys,
        )
        return dataclasses.replace(kept, twins=self.ranking.twins(split, rows, floor))

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        """As `BanditSelection`; what is predicted is ranked, in whichever block."""
        found, predicted = super().standing(split, rows), self._predictions.read(split)
        is_predicted = np.isfinite(predicted)
        why = np.where(is_predicted, reason_number(Unselected.BELOW_CUT), found.why)
        predicted = np.where(np.isfinite(found.influence), np.nan, predicted.astype(np.float64))
        return dataclasses.replace(found, why=why, predicted=predicted)

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`: where nothing is predicted, an example is worth the average of its cluster."""
        predicted = self._predictions.read(split)
        clusters, _, _ = self.pulled.places(split, rows)
        of_cluster = with_least(self.pulled.state().arms.mean_influence)[clusters]
        influence = or_estimate(predicted, of_cluster)
        kept = self.keep(split, rows)
        return Taken.by_one_target(influence, kept, self.ranking.corpus.is_candidate(rows))

    def is_selected(self, scored: Scored) -> np.ndarray:
        return self._is_reached(scored["key"], scored["influence"])

    def would_be_selected(self, scored: Scored) -> np.ndarray:
        """As `BanditSelection`.

        An example that was scored and then selected for its own score says nothing of the many that were not scored. The
        scored ones are drawn at random from the pulled blocks, so that they stand for the others if each is predicted
        from the rest of its cluster, as those are.
        """
        table = self._predictions.fit.held_out()
        held_out = look_up(table["key"], table["held_out"], scored["key"], np.nan)
        return self._is_reached(scored["key"], held_out)

    def accepted_tokens(self, state: BanditState) -> int:
        """As `BanditSelection`: what the ranking holds; during the rounds that was only expected."""
        budget_tokens = self.pulled.bandit.policy.budget_tokens
        return budget_tokens - self.cut.search().missing(budget_tokens)

    def _is_reached(self, keys: np.ndarray, influence: np.ndarray) -> np.ndarray:
        """Says which examples are selected if they have a given influence, bool [n]; nan never is."""
        ranks = ranks_from(influence, self.ranking.preference.tau)
        packed = pack_ranks(ranks, keys, self.pulled.bandit.policy.seed)
        is_taken = is_reached(packed, self.cut.floors()[0])
        if self.ranking.near_duplicates is not None:
            is_taken &= ~self.ranking.near_duplicates.drops(keys)
        return is_taken


def _count(predicted: np.ndarray) -> Tally:
    return Tally({"predicted": int(np.isfinite(predicted).sum())})
