"""Drift: how the documents of new shards, and their worth, compare with those of the base."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split, as_json
from beam_quad.refresh import (
    DriftSums,
    ReferenceSums,
    WorthSums,
    drift_sentences,
    find_drift,
    make_scorecard,
    scorecard_sentences,
)
from beam_quad.stages.base import add
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.base import Base
from beam_quad.stages.write.ranked import Selection

_NAMED_CLUSTERS = 20


class InfluenceByRow(Protocol):
    """A source of known or predicted influence by row."""

    def read(self, split: Split) -> np.ndarray:
        """Returns the influence of a split's rows, float64 [n] or [n, num_targets]; nan for rows without influence."""


@dataclasses.dataclass(frozen=True)
class ClustersAndInfluence:
    """The properties by which drift is measured, by reference.

    Args:
      clusters: Clusters of the documents; None puts all documents in one cluster.
      influence: Influence of the documents, averaged over targets; None if it was not computed.
    """

    clusters: AssignClusters | None
    influence: InfluenceByRow | None

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return 1 if self.clusters is None else self.clusters.centers.load().num_clusters

    def read(self, split: Split, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads the cluster, the cosine to its center, and the influence of some rows by number: three arrays [m]."""
        clusters, cosine = np.zeros(len(usable), np.int64), np.zeros(len(usable))
        if self.clusters is not None:
            of_rows, similarity = self.clusters.read(split)
            clusters, cosine = of_rows[usable].astype(np.int64), similarity[usable].astype(float)
        influence = np.full(len(usable), np.nan)
        if self.influence is not None:
            influence = self.influence.read(split)[usable].astype(float)
            # Drift needs one number of a document: with several targets, the mean over them.
            influence = influence if influence.ndim == 1 else influence.mean(axis=1)
        return clusters, cosine, influence


@dataclasses.dataclass(frozen=True)
class MeasureReference(SplitStage):
    """Sums the properties of the base's documents; takes splits and returns `ReferenceSums`.

    Args:
      corpus: The corpus.
      base: The selection to refresh.
      documents: The properties.
    """

    kind = "reference"
    artifact_name = "reference.npz"
    num_adders = 64

    base: Base
    documents: ClustersAndInfluence

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="compare")

    def pieces(self) -> list[Split]:
        return [split for split in self.corpus.splits() if self.base.has(split)]

    def do(self, piece: Split, model: Any) -> ReferenceSums:
        rows = self.corpus.rows(piece)
        usable = np.flatnonzero(rows.usable)
        clusters, cosine, influence = self.documents.read(piece, usable)
        return ReferenceSums.of(
            clusters, cosine, rows.tokens[usable], influence, self.documents.num_clusters
        )

    def finish(self, total: ReferenceSums | None) -> None:
        total = total or ReferenceSums.zero(self.documents.num_clusters)
        files.write_once(self.artifact, total.to_bytes())

    @once_per_process
    def load(self) -> ReferenceSums:
        """Loads the sums, once per process."""
        return ReferenceSums.from_bytes(files.read_bytes(self.artifact))


@dataclasses.dataclass(frozen=True)
class RefreshSums:
    """Properties and worth of old and new shards; None for no shards. An additive statistic."""

    old: DriftSums | None = None
    new: DriftSums | None = None
    old_worth: WorthSums | None = None
    new_worth: WorthSums | None = None

    def __add__(self, other: "RefreshSums") -> "RefreshSums":
        names = [field.name for field in dataclasses.fields(self)]
        return RefreshSums(**{n: add(getattr(self, n), getattr(other, n)) for n in names})


@dataclasses.dataclass(frozen=True)
class MeasureDrift(SplitStage):
    """Compares new shards with old ones; takes splits and returns `RefreshSums`.

    Args:
      corpus: The corpus, within the budget.
      reference: The sums over old documents.
      selection: The new selection.
      grows_clusters: Whether clusters are opened for documents far from all centers.
    """

    kind = "drift"
    artifact_name = "drift.json"
    num_adders = 64

    reference: MeasureReference
    selection: Selection
    grows_clusters: bool = False

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="compare")

    def do(self, piece: Split, model: Any) -> RefreshSums:
        rows, is_old = self.corpus.rows(piece), self.reference.base.has(piece)
        documents = self.reference.documents
        usable = np.flatnonzero(rows.usable)
        clusters, cosine, influence = documents.read(piece, usable)
        tokens, keys = rows.tokens[usable], rows.keys[usable]
        codes, numbers = np.unique(rows.reasons[~rows.usable], return_counts=True)
        rejected = {
            str(aligned.reason_of(int(code))): int(number)
            for code, number in zip(codes, numbers, strict=True)
        }
        drift = DriftSums.of(
            self.reference.load(),
            piece.shard,
            clusters,
            cosine,
            tokens,
            influence,
            keys,
            rejected,
            is_old=is_old,
        )
        kept = self.selection.keep(piece, rows)
        is_selected = np.isin(usable, kept.rows, assume_unique=True)
        worth = WorthSums.of(
            piece.shard, clusters, tokens, influence, is_selected, documents.num_clusters
        )
        # Old and new shards are summed apart and compared in `finish`.
        if is_old:
            return RefreshSums(old=drift, old_worth=worth)
        return RefreshSums(new=drift, new_worth=worth)

    def finish(self, total: RefreshSums | None) -> None:
        sums, number = total or RefreshSums(), self.reference.documents.num_clusters
        none, nothing = DriftSums.zero(number), WorthSums.zero(number)
        found = find_drift(self.reference.load(), sums.old or none, sums.new or none)
        card = make_scorecard(sums.old_worth or nothing, sums.new_worth or nothing)
        # The manifest names the clusters that changed most and only counts the others.
        changed = sorted(
            (change for change in card.clusters if change.growth),
            key=lambda change: -abs(change.new_share - change.old_share),
        )
        words = [
            *scorecard_sentences(card),
            *drift_sentences(found, grows_clusters=self.grows_clusters),
        ]
        facts = {
            "drift": as_json(found) | {"is_alarm": found.is_alarm},
            "scorecard": as_json(
                dataclasses.replace(card, clusters=tuple(changed)[:_NAMED_CLUSTERS])
            )
            | {
                "grew": len(card.grew),
                "shrank": len(card.shrank),
                "num_clusters": len(card.clusters),
            },
            # Without a new document, every sentence would only say that there is nothing to compare.
            "words": words if card.new_documents else [],
        }
        write_json(self.artifact, _rounded(facts))

    @once_per_process
    def facts(self) -> dict[str, Any]:
        """Reads the results: `drift`, `scorecard` with the most changed clusters, and `words`, sentences on both."""
        return read_json(self.artifact)


def _rounded(value: Any) -> Any:
    """Rounds numbers to six significant digits, which do not depend on the order of summation."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(own) for name, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, list) else value
