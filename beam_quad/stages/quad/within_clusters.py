"""Influence predicted within clusters, for every example, and the selection that follows from it."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.bandit import BanditState
from beam_quad.bandit.scored import Scored, with_least
from beam_quad.columns import look_up
from beam_quad.distillation import KernelRidge
from beam_quad.distillation.within_clusters import (
    ClusterRegression,
    predict_by_cluster,
)
from beam_quad.records import Budget, Split
from beam_quad.selection import (
    NUM_LEVELS,
    BudgetSearch,
    Kept,
    Taken,
    is_reached,
    keep_predicted,
    known_influence,
    or_estimate,
    pack_ranks,
    ranks_from,
)
from beam_quad.stages.base import Task
from beam_quad.stages.quad.candidates import group_of
from beam_quad.stages.quad.regressions import Pulled, regressions_path
from beam_quad.stages.quad.select import BanditSelection, ranking
from beam_quad.stages.read.corpus import Corpus, piece_path, write_json
from beam_quad.stages.write.budget import load_search

_PREDICTIONS = pa.schema([pa.field("predicted", pa.float32())])


@dataclasses.dataclass
class PredictWithinClusters(Task):
    """Predicts the influence of every example of a cluster with a regression, and of every other pulled block.

    Takes splits; writes one row-aligned file each: the exact influence where it was scored, the prediction of its
    cluster elsewhere, nan where there is none. Gives counts.

    Args:
      corpus: The corpus, embedded.
      pulled: The bandit's pulls.
      fit_dir: Folder of `FitWithinClusters`.
      folder: Where the predictions go.
    """

    corpus: Corpus
    pulled: Pulled
    fit_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "PredictWithinClusters"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "predictions.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "rows"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (piece_path(self.prefixes()[0], piece),)

    def read(self, piece: Split) -> Tally:
        return _count(read_predictions(self.folder, piece))

    def do(self, piece: Split, model: Any) -> Tally:
        rows = self.corpus.rows(piece)
        clusters, _, places = self.pulled.places(self.corpus, piece, rows)
        predicted = np.full(len(rows.keys), np.nan)
        if rows.usable.any():
            path = piece_path(self.corpus.embeddings_dir or "", piece)
            for first, vectors in aligned.read_embeddings(path):
                run = slice(first, first + len(vectors))
                predicted[run] = predict_by_cluster(
                    self._regression, clusters[run], places[run] >= 0, vectors
                )
        influence, is_exact = known_influence(self.pulled.scored(), rows.keys, places >= 0)
        predicted = np.where(is_exact, influence, predicted).astype(np.float32)
        aligned.write_table(self.paths(piece)[0], _PREDICTIONS, {"predicted": predicted})
        return _count(predicted)

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, total.counts if total else {})

    def _regression(self, cluster: int) -> ClusterRegression | None:
        group = group_of(self.pulled.bandit.blocks_dir, cluster)
        return _load_regressions(self.fit_dir, group).get(cluster)


def read_predictions(folder: str, split: Split) -> np.ndarray:
    """Reads the row-aligned influence of a split, known or predicted, float32 [n]; nan where nothing is said."""
    path = piece_path(files.join(folder, "rows"), split)
    return np.asarray(aligned.read_columns(path)["predicted"])


@dataclasses.dataclass(frozen=True)
class PredictedInfluence:
    """All examples by influence, known or predicted.

    Args:
      folder: Folder of `PredictWithinClusters`.
      tau: Examples below this influence are never taken; None takes the best there are.
    """

    folder: str
    tau: float | None

    def rank(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        return ranks_from(read_predictions(self.folder, split), self.tau)

    def influence(self, split: Split) -> np.ndarray | None:
        return None


@dataclasses.dataclass(frozen=True)
class PropagatedSelection(BanditSelection):
    """The examples whose influence is known or predicted to be highest.

    Args:
      pulled: The bandit's pulls.
      preference: The ranking.
      budget: How much is taken.
      cut_dir: Folder of the `CutBudget` stages.
      fit_dir: Folder of `FitWithinClusters`.
    """

    pulled: Pulled
    preference: PredictedInfluence
    budget: Budget
    cut_dir: str
    fit_dir: str

    def keep(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = ranking(self.preference, corpus, split, rows)
        return keep_predicted(
            packed,
            self._cut().floors[0],
            read_predictions(self.preference.folder, split),
            self.pulled.blocks(),
            self.pulled.scored(),
            *self.pulled.places(corpus, split, rows),
            rows.keys,
        )

    def taken(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`: where nothing is predicted, an example is worth the average of its cluster."""
        predicted = read_predictions(self.preference.folder, split)
        clusters, _, _ = self.pulled.places(corpus, split, rows)
        means = self.pulled.bandit.state(self.pulled.num_rounds).arms.mean_influence
        of_cluster = with_least(means)[clusters]
        influence = or_estimate(predicted, of_cluster)
        kept = self.keep(corpus, split, rows)
        return Taken.by_one_target(influence, kept, corpus.is_candidate(rows))

    def is_selected(self, scored: Scored) -> np.ndarray:
        return self._is_reached(scored["key"], scored["influence"])

    def would_be_selected(self, scored: Scored) -> np.ndarray:
        """As `BanditSelection`.

        An example that was scored and then selected for its own score says nothing of the many that were not scored. The
        scored ones are drawn at random from the pulled blocks, so that they stand for the others if each is predicted
        from the rest of its cluster, as those are.
        """
        table = _read_held_out(self.fit_dir)
        held_out = look_up(table["key"], table["held_out"], scored["key"], np.nan)
        return self._is_reached(scored["key"], held_out)

    def accepted_tokens(self, state: BanditState) -> int:
        """As `BanditSelection`: what the ranking holds; during the rounds that was only expected."""
        budget_tokens = self.pulled.bandit.policy.budget_tokens
        return budget_tokens - self._cut().missing(budget_tokens)

    def _is_reached(self, keys: np.ndarray, influence: np.ndarray) -> np.ndarray:
        """Says which examples are selected if they have a given influence, bool [n]; nan never is."""
        ranks = ranks_from(influence, self.preference.tau)
        packed = pack_ranks(ranks, keys, self.pulled.bandit.policy.seed)
        return is_reached(packed, self._cut().floors[0])

    def _cut(self) -> BudgetSearch:
        return load_search(self.cut_dir, NUM_LEVELS - 1, self.budget)


def _load_regressions(folder: str, group: int) -> dict[int, ClusterRegression]:
    """Loads the regressions of a group of arms by cluster, once per process."""
    path = regressions_path(folder, group)

    def load() -> dict[int, ClusterRegression]:
        if not files.exists(path):
            return {}
        with files.open_read(path) as file:
            table = pq.read_table(file, columns=["cluster", "mean", "regression"])
        return {
            row["cluster"]: ClusterRegression(
                row["mean"], row["regression"] and KernelRidge.from_bytes(row["regression"])
            )
            for row in table.to_pylist()
        }

    return cached(("regressions", path), load)


def _read_held_out(folder: str) -> dict[str, np.ndarray]:
    """Reads what is predicted of each scored example from the others of its cluster: `key`, ascending, `held_out`."""

    def read() -> dict[str, np.ndarray]:
        paths = [info.path for info in files.find(files.join(folder, "groups"))]
        keys, values = [np.zeros(0, np.uint64)], [np.zeros(0)]
        for table in files.in_parallel(_read_held_out_table, paths):
            keys.append(table.column("keys").combine_chunks().flatten().to_numpy())
            values.append(table.column("held_out").combine_chunks().flatten().to_numpy())
        order = np.argsort(np.concatenate(keys))
        return {"key": np.concatenate(keys)[order], "held_out": np.concatenate(values)[order]}

    return cached(("held out", folder), read)


def _read_held_out_table(path: str) -> pa.Table:
    with files.open_read(path) as file:
        return pq.read_table(file, columns=["keys", "held_out"])


def _count(predicted: np.ndarray) -> Tally:
    return Tally({"predicted": int(np.isfinite(predicted).sum())})
