"""Predicted influence of every example, by its cluster's regression, and the selection that follows from it."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.bandit.scored import Scored, with_least
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
from beam_quad.stages.quad.pulled import Pulled
from beam_quad.stages.quad.regressions import FitWithinClusters
from beam_quad.stages.quad.select import BanditSelection
from beam_quad.stages.read.splits import RowAlignedStage
from beam_quad.stages.write.budget import SingleCut
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.ranked import Preferred

_PREDICTIONS = pa.schema([pa.field("predicted", pa.float32())])


@dataclasses.dataclass(frozen=True)
class PredictWithinClusters(RowAlignedStage):
    """Predicts the influence of all examples of clusters with a regression, and of pulled blocks in other clusters.

    Takes splits, writes one row-aligned file for each, and returns counts. A row holds the exact influence if the
    example was scored, otherwise the prediction of its cluster, or nan if there is none.

    Args:
      corpus: The embedded corpus.
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
        # A scored example keeps its exact influence. If that is not finite, it stays nan and is never selected.
        influence, is_exact = known_influence(pulled.scored(), rows.keys, places >= 0)
        predicted = np.where(is_exact, influence, predicted).astype(np.float32)
        self.write_rows(piece, _PREDICTIONS, {"predicted": predicted})
        return _count(predicted)

    def read(self, split: Split) -> np.ndarray:
        """Reads the known or predicted influence of a split's rows, float32 [n]; nan if there is neither."""
        return self.read_rows(split)["predicted"]


@dataclasses.dataclass(frozen=True)
class PredictedInfluence(Preference):
    """Ranks all examples by known or predicted influence.

    Args:
      predictions: The known and predicted influence.
      tau: Examples below this influence are never selected; None sets no threshold.
    """

    predictions: PredictWithinClusters
    tau: float | None

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return ranks_from(self.predictions.read(split), self.tau)


@dataclasses.dataclass(frozen=True)
class RankedByBandit(BanditSelection):
    """The examples that rank highest once the rounds are over.

    Args:
      ranking: The corpus, ranked by what the bandit learned.
      cut: Where the budget ends in the ranking.
    """

    ranking: Preferred[Preference]
    cut: SingleCut

    def filled_tokens(self) -> int:
        """As `BanditSelection`: the tokens in the final ranking, which the rounds could only estimate."""
        return self.cut.budget.exact() - self.cut.missing()

    def are_taken(self, packed: np.ndarray, floors: Any, keys: np.ndarray) -> np.ndarray:
        """Tells which scored examples are selected, by their priorities in the ranking, uint64 [n]: bool [n]."""
        is_taken = is_reached(packed, floors)
        # The ranking leaves near-duplicates out whatever their influence, so they are not selected here either.
        if self.ranking.near_duplicates is not None:
            is_taken &= ~self.ranking.near_duplicates.drops(keys)
        return is_taken


@dataclasses.dataclass(frozen=True)
class PropagatedSelection(RankedByBandit):
    """The examples of the highest known or predicted influence.

    Args:
      ranking: The corpus, ranked by known or predicted influence.
      cut: Where the budget ends in the ranking.
    """

    ranking: Preferred[PredictedInfluence]

    @property
    def pulled(self) -> Pulled:
        return self._predictions.fit.pulled

    @property
    def _predictions(self) -> PredictWithinClusters:
        return self.ranking.preference.predictions

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = self.ranking.packed(split, rows)
        floor = self.cut.floor(split)
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
        # A scored example was judged by its own score, not by a prediction.
        predicted = np.where(np.isfinite(found.influence), np.nan, predicted.astype(np.float64))
        found = dataclasses.replace(found, why=why, predicted=predicted)
        packed, _ = self.ranking.packed(split, rows)
        return self.ranking.cut_at(found, packed, self.cut.floor(split))

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`. An example without a prediction is worth the mean of its cluster."""
        predicted = self._predictions.read(split)
        clusters, _, _ = self.pulled.places(split, rows)
        # A row without a prediction weighs by the mean of its cluster.
        of_cluster = with_least(self.pulled.state().arms.mean_influence)[clusters]
        influence = or_estimate(predicted, of_cluster)
        kept = self.keep(split, rows)
        return Taken.by_one_target(influence, kept, self.ranking.corpus.is_candidate(rows))

    def is_selected(self, scored: Scored) -> np.ndarray:
        return self._is_reached(scored["key"], scored["influence"])

    def would_be_selected(self, scored: Scored) -> np.ndarray:
        """As `BanditSelection`.

        A scored example that is selected for its own score does not represent the unscored ones, which are selected by
        prediction. Scored examples are a random draw from the pulled blocks. They represent the others if each is
        predicted from the rest of its cluster, without its own score.
        """
        held_out = self._predictions.fit.held_out_of(scored["key"])
        return self._is_reached(scored["key"], held_out)

    def _is_reached(self, keys: np.ndarray, influence: np.ndarray) -> np.ndarray:
        """Returns which examples a given influence would get selected, bool [n]; False if it is nan."""
        ranks = ranks_from(influence, self.ranking.preference.tau)
        packed = pack_ranks(ranks, keys, self.pulled.bandit.policy.seed)
        return self.are_taken(packed, self.cut.lowest(), keys)


def _count(predicted: np.ndarray) -> Tally:
    return Tally({"predicted": int(np.isfinite(predicted).sum())})
