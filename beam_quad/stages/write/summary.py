"""The summary of a finished run: the manifest, equal for equal runs, and the report's data."""

import dataclasses
import importlib.metadata
import itertools
import math
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad import report
from beam_quad.additive import ByName
from beam_quad.answers import all_plain
from beam_quad.artifacts import clock, files
from beam_quad.clustering import distinctive_terms, layout
from beam_quad.corpus.labels import LabelCounts, kind_of
from beam_quad.distillation import WeightSums
from beam_quad.records import Budget, Reason
from beam_quad.report import data as page
from beam_quad.report import judgements
from beam_quad.report.sections.clusters import named
from beam_quad.report.sections.corpus_map import drawn
from beam_quad.selection import RowCounts, cluster_means
from beam_quad.selection.accounts import SourceCounts
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.typical import typical_texts
from beam_quad.stages.distillation.distilled import FinishedDistillation
from beam_quad.stages.influence.compare_halves import CompareHalves
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.influence.scored_rows import ScoredRows
from beam_quad.stages.quad.finished import FinishedBandit
from beam_quad.stages.quad.shortlist import ShortlistSelection
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.find_leaks import FindLeaks
from beam_quad.stages.read.query import CountsQuery, Query
from beam_quad.stages.refresh.compare import CompareWithBase
from beam_quad.stages.refresh.drift import MeasureDrift
from beam_quad.stages.write.paraphrases import FlagParaphrases
from beam_quad.stages.write.shares import CutGroups
from beam_quad.stages.write.shown import ShowScores

_PACKAGES = (
    "beam_quad", "apache-beam", "torch", "transformers", "sentence-transformers", "pyarrow",
    "scikit-learn", "numpy",
)  # fmt: skip
# Artifacts a refresh inherits from its base.
_FITTED = ["centers", "curvature", "query vectors", "n-gram counts", "landmarks"]
_TEXTS_PER_CLUSTER = 3
_TYPICAL_TEXTS = 40
_SHOWN_CHARACTERS = 2000
_SHOWN_LEAKS, _LEAKS_PER_SPLIT = 50, 10
# The most sources, and the most values of a column, counted in the manifest.
_MOST_NAMED = 1000


@dataclasses.dataclass(frozen=True)
class Summary:
    """The sources of the manifest and the report, by reference.

    Args:
      config: The run's options, without those for where it runs or writes.
      configuration: Fingerprint of the configuration and the input: an output belongs to one.
      fingerprints: Content of the models and of the input, by name.
      corpus: The corpus.
      output: The output directory.
      budget: The requested budget.
      fitted: The corpus to which clusters, curvature and counts were fitted.
      title: Title of the report.
      policy: The policy in words.
      leaks: The stage that found leaking documents; None if no protected texts were given.
      paraphrases: The stage that flagged paraphrases of protected texts in the selection; None if nothing was embedded.
      stages: Name and clock of every stage, in order.
      query: The query groups.
      vectors: The stage that fitted the query vectors, or None.
      texts: The stage that read the query set, or None.
      clusters: The stage that clustered the corpus, or None.
      bandit: The finished bandit, or None for a baseline.
      scores: The stage that scored every example, or None.
      halves: The stage that compared scores under halves of the query set, or None.
      distillation: The finished Influence Distillation, or None.
      shortlist: The selection from a shortlist, or None.
      shown: The scored examples shown in the report, or None.
      changes: The changes to the base's selection, or None.
      drift: The comparison of new shards with old ones, or None.
      bases: The chain of earlier runs, oldest first: `configuration` and SHA-256 of the `manifest` of each.
      shares: The stage that filled the budget within shares, or None.
      slack: Tokens by which the base missed its budget, less than an example, if this run cannot select what the base
        left out; None if it can.
      passed_over: Number of files matched by the input's patterns but not read, by reason.
    """

    config: dict[str, Any]
    configuration: str
    fingerprints: dict[str, Any]
    corpus: Corpus
    output: str
    budget: Budget
    fitted: Corpus
    title: str
    policy: str
    leaks: FindLeaks | None = None
    paraphrases: FlagParaphrases | None = None
    stages: tuple[tuple[str, str], ...] = ()
    query: tuple[Query, ...] = ()
    vectors: FitQueryVectors | None = None
    texts: CountsQuery | None = None
    clusters: AssignClusters | None = None
    bandit: FinishedBandit | None = None
    scores: ScoredRows | None = None
    halves: CompareHalves | None = None
    distillation: FinishedDistillation | None = None
    shortlist: ShortlistSelection | None = None
    shown: ShowScores | None = None
    changes: CompareWithBase | None = None
    drift: MeasureDrift | None = None
    bases: tuple[dict[str, str], ...] = ()
    shares: CutGroups | None = None
    slack: int | None = None
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def manifest(
        self,
        counts: RowCounts,
        parts: list[dict[str, Any]],
        columns: dict[str, Any],
        labels: ByName[LabelCounts],
    ) -> dict[str, Any]:
        """Makes the manifest, without clock, host or attempt: equal runs have equal manifests.

        Args:
          counts: The rows by outcome.
          parts: The files written.
          columns: The output `schema`, and the columns whose encoding changed; see `judgements.about_columns`.
          labels: Selected rows by column and value, for the columns that name a licence or a language.
        """
        plan = self.corpus.plan()
        result: dict[str, Any] = {
            "config": self.config,
            "configuration": self.configuration,
            "method": self.policy,
            "versions": {"python": platform.python_version(), **_versions()},
            "fingerprints": self.fingerprints,
            "input": {
                "snapshot": plan.snapshot,
                "root": plan.root,
                "shards": plan.num_shards,
                "bytes": plan.size_bytes,
                "passed_over": dict(sorted(self.passed_over.items())),
            },
            "counts": {
                "read": counts.read,
                "selected": counts.selected.documents,
                "not_selected": counts.not_selected,
                "rejected": counts.rejected,
                "scored": self._num_scored(),
                "bad_files": counts.bad_files,
            },
            "rejected": counts.reasons.counts,
            "tokens": {
                "read": counts.usable_tokens,
                "selected": counts.selected.tokens,
                "budget": self._budget_tokens(),
            },
            "budget": dataclasses.asdict(self.budget),
            "passed_over": {
                "documents": counts.passed_over.documents,
                "tokens": counts.passed_over.tokens,
                "longer_than": self.corpus.longest() if counts.passed_over.documents else None,
            },
            "near_duplicates": dataclasses.asdict(counts.near_duplicates),
            "files": parts,
            "columns": columns,
            "sources": {
                name: dataclasses.asdict(own) for name, own in _largest(counts.sources.named)
            },
            "labels": [
                {"column": column, "kind": kind_of(column), "rows": dict(_most(own.counts))}
                for column, own in sorted(labels.named.items())
            ],
        }
        if self.corpus.excluded is not None:
            result["excluded"] = {
                "ids": len(self.corpus.excluded.keys()),
                "rows": counts.reasons.counts.get(Reason.EXCLUDED.value, 0),
            }
            if self.fitted.excluded != self.corpus.excluded:
                # Excluded texts are removed from all files, but sums fitted to them earlier are not recomputed.
                result["excluded"]["known_to"] = _FITTED
        if self.leaks is not None:
            index = self.leaks.leaks.index()
            result["contaminated"] = {
                "texts": len(index.num_words),
                "not_looked_for": index.num_unfindable,
                "rows": counts.reasons.counts.get(Reason.CONTAMINATED.value, 0),
                "rows_by_set": dict(sorted(counts.leaks.counts.items())),
            }
        if self.clusters is not None:
            fit = self.clusters.centers.report()
            result["centers"] = {n: value for n, value in fit.items() if isinstance(value, int)}
        if self.shares is not None:
            result["shares"] = self.shares.facts()
        if self.paraphrases is not None:
            result["paraphrases"] = self.paraphrases.facts()
        result["shortfall"] = self._shortfall(counts)
        if self.texts is not None:
            result["query"] = {
                name: {"used": group["documents"], "unused": group["unused"]}
                for name, group in self.texts.groups().items()
            }
        if self.bandit is not None:
            result |= self.bandit.manifest(counts)
        if self.distillation is not None:
            result |= self.distillation.manifest(counts)
        if self.shown is not None:
            result |= self.shown.manifest()
        if self.halves is not None:
            result["halves"] = self.halves.read()
        if self.changes is not None:
            result["refresh"] = self._refresh(self.changes)
        result["notices"] = [dataclasses.asdict(each) for each in judgements.judge(result)]
        return result

    def report(
        self,
        manifest: dict[str, Any],
        counts: RowCounts,
        weights: WeightSums,
        outcomes: Mapping[str, page.Outcome],
    ) -> tuple[str, str]:
        """Makes the verdict and the page; `outcomes` are those of `shown_keys`, by key."""
        data = self._report_data(manifest, counts, weights, outcomes)
        data = dataclasses.replace(data, verdict=judgements.verdict(data))
        return data.verdict, report.render(data)

    def shown_keys(self) -> np.ndarray:
        """Returns the keys of the examples that the page shows as the best and the worst, uint64 [m]."""
        shown = self.bandit or self.distillation or self.shown
        return np.zeros(0, np.uint64) if shown is None else shown.shown_keys()

    def _refresh(self, compared: CompareWithBase) -> dict[str, Any]:
        """Describes the changes to the base, and the chain of bases."""
        changes = compared.load()
        amounts = {"kept": changes.kept, "added": changes.added}
        known = 0 if self.scores is None else int(self.scores.facts().get("known", 0))
        return {
            "bases": list(self.bases),
            **{name: dataclasses.asdict(amount) for name, amount in amounts.items()},
            "left": {
                reason: dataclasses.asdict(own)
                for reason, own in sorted(changes.left.named.items())
            },
            "splits": compared.count_splits(),
            "added_harmful": changes.harmful,
            "scores_known": known,
            **({} if self.drift is None else self.drift.facts()),
        }

    def _num_scored(self) -> int:
        if self.bandit is not None:
            return self.bandit.num_scored()
        if self.distillation is not None:
            return self.distillation.num_scored()
        if self.scores is not None:
            return int(self.scores.facts().get("scored", 0))
        return 0

    def _budget_tokens(self) -> int | None:
        return self.budget.amount if self.budget.unit == "tokens" else None

    def _shortfall(self, counts: RowCounts) -> str | None:
        amount, unit = self.budget.amount, self.budget.unit
        selected = counts.selected.tokens if unit == "tokens" else counts.selected.documents
        # Within shares the selection may be above or below the budget by less than a document.
        if selected >= amount or (self.shares is not None and not self.shares.missing()):
            return None
        if self.slack is not None:
            # The bandit knows only its own part of the budget, so its word counts only if less than an example is
            # missing.
            is_met = self.bandit is not None and self.bandit.shortfall() is None
            least = max(self.slack, self.corpus.longest()) if is_met else self.slack
            if amount - selected <= least:
                return None
            return (
                f"{amount - selected:,} of {amount:,} {unit} are missing: the new documents give no more, and what --base "
                f"left out stays out; pass --reselect to choose among all, or lower --budget_{unit}"
            )
        if self.bandit is not None:
            return self.bandit.shortfall()
        if self.shortlist is not None:
            return f"{amount - selected:,} of {amount:,} {unit} are missing: {self.shortlist.shortfall()}"
        usable = counts.usable_tokens - counts.passed_over.tokens
        if unit == "examples":
            usable = counts.read - counts.rejected
        return (
            f"{amount - selected:,} of {amount:,} {unit} are missing: the corpus has {usable:,} usable "
            f"{unit}; give a larger corpus or lower --budget_{unit}"
        )

    def _report_data(
        self,
        manifest: dict[str, Any],
        counts: RowCounts,
        weights: WeightSums,
        outcomes: Mapping[str, page.Outcome],
    ) -> page.ReportData:
        timings = self._timings()
        scored = self.bandit or self.shown
        # Influence Distillation has scores of landmarks alone, whose best are listed by target.
        best, worst = scored.extremes() if scored else (None, None)
        if self.distillation is not None:
            worst = self.distillation.worst()
        return page.ReportData(
            title=self.title,
            manifest=manifest,
            subtitle=f"{self.output}, finished {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
            notices=(*(page.Notice(**own) for own in manifest["notices"]), *self._about_memory()),
            clusters=self._clusters(self.clusters, counts) if self.clusters else None,
            arms=self.bandit.arms() if self.bandit else None,
            rounds=self.bandit.rounds({t.name: t.seconds for t in timings})
            if self.bandit
            else None,
            weights=weights,
            scores=scored.scores() if scored else None,
            targets=self.distillation.targets(counts) if self.distillation else None,
            best=best,
            best_by_target=self.distillation.best() if self.distillation else None,
            worst=worst,
            outcomes=outcomes,
            query_groups=self._query_groups(),
            sources=counts.sources.named,
            timings=timings,
            leaks=self._shown_leaks(self.leaks) if self.leaks else (),
            paraphrases=self.paraphrases.read(_SHOWN_LEAKS) if self.paraphrases else (),
        )

    def _shown_leaks(self, leaks: FindLeaks) -> list[dict[str, Any]]:
        """A few leaks from many splits, for the report."""
        found: list[dict[str, Any]] = []
        for split in self.corpus.splits():
            if len(found) == _SHOWN_LEAKS:
                break
            number = min(_LEAKS_PER_SPLIT, _SHOWN_LEAKS - len(found))
            for row, leak in itertools.islice(leaks.read(split).items(), number):
                document = "{}#{}".format(*self.corpus.places(split).of(row))
                found.append({"document": document, **leak._asdict()})
        return found

    def _about_memory(self) -> tuple[page.Notice, ...]:
        """Notices about the machine, which are not part of the manifest."""
        if self.bandit is None:
            return ()
        number = self.bandit.bandit.num_halvings(self.bandit.num_rounds)
        words = f"memory ran out {number:,} times, and the micro-batch was halved"
        return (page.Notice(words, "note"),) if number else ()

    def _clusters(self, clusters: AssignClusters, counts: RowCounts) -> tuple[page.Cluster, ...]:
        sums = clusters.sums()
        num_clusters = len(sums.examples)
        means = self._mean_influence(num_clusters)
        selected = [counts.of_cluster(cluster) for cluster in range(num_clusters)]
        bare = [
            page.Cluster(
                cluster_id=c,
                documents=int(sums.examples[c]),
                tokens=int(sums.tokens[c]),
                selected_documents=selected[c].documents,
                selected_tokens=selected[c].tokens,
                cohesion=float(sums.cohesion[c]),
                mean_influence=float(means[c]) if math.isfinite(means[c]) else None,
            )
            for c in range(num_clusters)
            if sums.examples[c]
        ]
        texts = {c: all_plain(own) for c, own in self._texts(clusters, named(bare)).items()}
        words = distinctive_terms({c: t for c, t in texts.items() if t}) if texts else {}
        positions = self._positions(clusters, [own.cluster_id for own in drawn(bare)])
        return tuple(
            dataclasses.replace(
                own,
                words=tuple(words.get(own.cluster_id, ())),
                texts=tuple(texts.get(own.cluster_id, ()))[:_TEXTS_PER_CLUSTER],
                why_no_words=_why_no_words(texts.get(own.cluster_id)),
                position=positions.get(own.cluster_id),
            )
            for own in bare
        )

    def _mean_influence(self, num_clusters: int) -> np.ndarray:
        """Token-weighted means of the scored examples, float64 [num_clusters]; NaN if none was scored."""
        if self.bandit is not None:
            return self.bandit.state.arms.mean_influence
        if self.shown is None:
            return np.full(num_clusters, np.nan)
        scored = self.shown.scores().scored
        return cluster_means(scored.influence, scored.tokens, scored.cluster_id, num_clusters)

    def _texts(self, clusters: AssignClusters, wanted: Sequence[int]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        if self.bandit is not None:
            texts = files.in_parallel(self.bandit.typical_texts, wanted)
            found = dict(zip(wanted, texts, strict=True))
        # Candidates are at hand; only clusters without any are worth reading files of the input for.
        missing = [cluster for cluster in wanted if not found.get(cluster)]
        return found | typical_texts(clusters, missing, _TYPICAL_TEXTS, _SHOWN_CHARACTERS)

    def _positions(
        self, clusters: AssignClusters, shown: Sequence[int]
    ) -> dict[int, tuple[float, float]]:
        centers = clusters.centers.load()
        # A center split by hash is several clusters, all at the same vector.
        of_cluster = np.repeat(np.arange(len(centers.parts)), centers.parts)
        plane = layout(centers.vectors[of_cluster[np.array(shown, np.int64)]], self.corpus.seed)
        return {cluster: (x, y) for cluster, (x, y) in zip(shown, plane.tolist(), strict=True)}

    def _query_groups(self) -> tuple[page.QueryGroup, ...] | None:
        if self.vectors is None:
            return None
        counts = self.vectors.groups()
        halves = self.halves.read() if self.halves else {}
        layers = self.halves.layers() if self.halves else {}
        if self.distillation is not None:
            halves = self.distillation.halves()
        pilot = self.bandit.group_influence() if self.bandit is not None else []
        return tuple(
            page.QueryGroup(
                name=group.name,
                documents=counts[group.name]["documents"],
                tokens=counts[group.name]["tokens"],
                weight=group.weight,
                pilot=pilot[number] if number < len(pilot) else None,
                halves_agreement=halves.get(group.name),
                layers=tuple(layers.get(group.name, ())),
            )
            for number, group in enumerate(self.query)
        )

    def _timings(self) -> tuple[page.StageTiming, ...]:
        began, costs = clock.planned(self.output)
        timings = []
        for name, path in self.stages:
            started, ended = clock.read(path, "started"), clock.read(path, "ended")
            if started and ended:
                counted = ended.get("traffic", {})
                timings.append(
                    page.StageTiming(
                        name,
                        max(0.0, ended["at"] - started["at"]),
                        costs.get(name, {}),
                        _documents(counted, started, ended),
                        counted,
                        is_earlier=ended["at"] < began,
                    )
                )
        return tuple(timings)


def _documents(
    counted: Mapping[str, int], started: Mapping[str, Any], ended: Mapping[str, Any]
) -> int | None:
    """Returns the documents that this run passed through a stage; None if the stage does not say."""
    for kind in ("documents_embedded", "documents_scored"):
        if kind in counted:
            return counted[kind]
    documents = ended.get("documents", ended.get("scored"))
    if documents is not None and started.get("found", 0) == started.get("pieces"):
        # Earlier runs made all of it: every piece is there, or the results were reused and there is none.
        return 0
    # What a stage says at its end includes the pieces that earlier runs made.
    return None if started.get("found") else documents


def _largest(sources: Mapping[str, SourceCounts]) -> list[tuple[str, SourceCounts]]:
    """The sources with the most selected tokens."""
    found = sorted(sources.items(), key=lambda item: (-item[1].selected.tokens, item[0]))
    return found[:_MOST_NAMED]


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMED]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _why_no_words(texts: list[str] | None) -> str:
    """Explains why a cluster has no words; empty if its texts were not read, as it is not shown."""
    if texts is None:
        return ""
    return (
        "its texts have no words"
        if texts
        else "none of its texts is in the files that were looked at"
    )
