"""What a finished run says of itself: the manifest, which is the same on every run, and the report's data."""

import dataclasses
import importlib.metadata
import math
import platform
import time
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import reporting
from beam_quad.additive import Tally
from beam_quad.bandit import BanditState, QuadPolicy, shortfall_message
from beam_quad.clustering import distinctive_terms
from beam_quad.io import aligned, files
from beam_quad.reporting import data as page
from beam_quad.reporting.comparison import stratified_mean
from beam_quad.transforms.calibrate import calibration_path
from beam_quad.transforms.candidates import (
    load_blocks,
    load_samples_per_pull,
    num_groups,
    read_cluster,
    read_row_groups,
)
from beam_quad.transforms.cluster import load_cluster_sums, read_fit
from beam_quad.transforms.corpus import Corpus, read_json
from beam_quad.transforms.rounds import Bandit
from beam_quad.transforms.stage import timing_path
from beam_quad.transforms.texts import Query

_PACKAGES = (
    "beam_quad", "apache-beam", "torch", "transformers", "sentence-transformers", "pyarrow",
    "scikit-learn", "numpy",
)  # fmt: skip
_SHOWN_CLUSTERS = 40
_TEXTS_PER_CLUSTER = 3
_SHOWN_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the manifest and the report are made from, by reference.

    Args:
      config: The run's options, without those that say where it runs or writes.
      configuration: Fingerprint of the configuration and the input: an output belongs to one.
      fingerprints: Content of the models and of the input, by name.
      corpus: The corpus.
      output: The output directory.
      stages: Name and clock of every stage, in order.
      query: The query groups.
      query_dir: Folder of `FitQueryVectors`, or None.
      clusters_dir: Folder of `FitCenters`, or None.
      assignments_dir: Folder of `AssignClusters`, or None.
      bandit: The bandit, or None for a baseline.
      num_rounds: Rounds that were run, the pilot included.
      scores_dir: Folder of `ScoreExamples`, or None.
      calibration_dir: Folder of `CalibrateScoring`, or None.
    """

    config: dict[str, Any]
    configuration: str
    fingerprints: dict[str, Any]
    corpus: Corpus
    output: str
    stages: tuple[tuple[str, str], ...]
    query: tuple[Query, ...] = ()
    query_dir: str | None = None
    clusters_dir: str | None = None
    assignments_dir: str | None = None
    bandit: Bandit | None = None
    num_rounds: int = 0
    scores_dir: str | None = None
    calibration_dir: str | None = None

    def manifest(self, counts: Tally, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """Makes the manifest: no clock, no host and no attempt, so that equal runs have equal manifests."""
        plan = self.corpus.plan()
        result: dict[str, Any] = {
            "config": self.config,
            "configuration": self.configuration,
            "versions": {"python": platform.python_version(), **_versions()},
            "fingerprints": self.fingerprints,
            "input": {
                "snapshot": plan.snapshot,
                "root": plan.root,
                "shards": plan.num_shards,
                "bytes": plan.size_bytes,
            },
            "counts": {
                "read": counts["read"],
                "selected": counts["selected"],
                "not_selected": counts["not_selected"],
                "rejected": counts["rejected"],
                "scored": self._num_scored(),
                "bad_files": counts["bad_files"],
            },
            "rejected": _named(counts, "rejected/"),
            "tokens": {
                "read": counts["tokens_read"],
                "selected": counts["tokens_selected"],
                "budget": self.config["budget_tokens"],
            },
            "files": parts,
        }
        result["shortfall"] = self._shortfall(counts)
        if self.bandit is not None:
            result |= self._bandit_manifest(counts)
        if self.calibration_dir is not None:
            result["scoring"] = self._calibration()
        return result

    def report(self, manifest: dict[str, Any], counts: Tally) -> str:
        """Makes the page."""
        return reporting.render(self._report_data(manifest, counts))

    def _state(self) -> BanditState:
        if self.bandit is None:
            raise TypeError("a baseline has no bandit")
        return self.bandit.state(self.num_rounds)

    def _num_scored(self) -> int:
        if self.bandit is not None:
            return len(self.bandit.scored(self.num_rounds)["key"])
        if self.scores_dir is not None:
            return int(read_json(files.join(self.scores_dir, "scores.json")).get("scored", 0))
        return 0

    def _calibration(self) -> dict[str, Any]:
        return read_json(calibration_path(self.calibration_dir)) if self.calibration_dir else {}

    def _scoring(self) -> page.Scoring | None:
        found = self._calibration()
        if not found or self.bandit is None:
            return None
        rounds = [self.bandit.round_path(number) for number in range(self.num_rounds)]
        halvings = [timing_path(path, "halvings") for path in rounds]
        return page.Scoring(
            way=found["way"],
            relative_step=found.get("relative_step"),
            rank_correlation=found.get("rank_correlation"),
            relative_error=found.get("relative_error"),
            num_examples=found.get("num_examples", 0),
            reason=found["reason"],
            num_halvings=sum(int(files.read_bytes(p)) for p in halvings if files.exists(p)),
        )

    def _shortfall(self, counts: Tally) -> str | None:
        budget = self.config["budget_tokens"]
        if counts["tokens_selected"] >= budget:
            return None
        if self.bandit is not None:
            # None where the bandit met its budget: `instance` acceptance does so from below, by less than an example.
            return shortfall_message(
                self._policy(), load_blocks(self.bandit.blocks_dir), self._state()
            )
        missing = budget - counts["tokens_selected"]
        return (
            f"{missing:,} of {budget:,} tokens are missing: the corpus has {counts['tokens_read']:,} usable "
            "tokens; give a larger corpus or lower --budget_tokens"
        )

    def _policy(self) -> QuadPolicy:
        if self.bandit is None:
            raise TypeError("a baseline has no bandit")
        samples, _ = load_samples_per_pull(self.bandit.blocks_dir)
        return dataclasses.replace(self.bandit.policy, samples_per_pull=samples)

    def _bandit_manifest(self, counts: Tally) -> dict[str, Any]:
        state, scores = self._state(), self._scores()
        tokens = {c: counts[f"cluster/{c}/tokens"] for c in range(len(self._cluster_tokens()))}
        # As the report's headline: the accepted blocks' own scores are what had them accepted.
        cautious = stratified_mean(scores.scored, tokens) if not scores.is_census else None
        pilot = _cluster_weighted_mean(scores.pilot, self._cluster_tokens())
        return {
            "stop_reason": state.stop_reason,
            "rounds": len(state.log),
            "clusters": int(load_blocks(self.bandit.blocks_dir).num_clusters),  # type: ignore[union-attr]
            "influence": {
                "selected_mean": cautious.mean if cautious else _weighted_mean(scores.selected),
                "random_mean": pilot,
                "scored_mean": _weighted_mean(scores.scored),
                "within_cluster_deviation": state.deviation,
                "tau": state.tau if state.tau is not None and math.isfinite(state.tau) else None,
            },
        }

    def _cluster_tokens(self) -> np.ndarray:
        return load_cluster_sums(self.assignments_dir or "").tokens

    def _scores(self) -> page.Scores:
        if self.bandit is None:
            raise TypeError("a baseline has no bandit")
        scored = self.bandit.scored(self.num_rounds)
        is_instance = self.bandit.policy.acceptance == "instance"
        state = self._state()
        if is_instance:
            in_selection = np.isin(scored["key"], state.accepted_examples.keys)
        else:
            accepted = {(block.cluster_id, block.block) for block in state.accepted}
            arms = zip(scored["cluster"].tolist(), scored["block"].tolist(), strict=True)
            in_selection = np.fromiter((arm in accepted for arm in arms), bool, len(scored["key"]))
        return page.Scores(
            scored=_sample(scored, np.ones(len(scored["key"]), bool)),
            selected=_sample(scored, in_selection),
            pilot=_sample(scored, scored["round"] == 0),
            is_census=is_instance,
        )

    def _report_data(self, manifest: dict[str, Any], counts: Tally) -> page.ReportData:
        config = self.config
        is_quad = self.bandit is not None
        description = config["policy"]
        if is_quad:
            description = f"quad: bandit over clusters, {config['acceptance']} acceptance"
        numbers = manifest["counts"]
        best, worst = self._examples() if is_quad else (None, None)
        return page.ReportData(
            title="Quad selection" if is_quad else f"Baseline selection: {config['policy']}",
            policy=description,
            subtitle=f"{self.output}, finished {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
            funnel=page.Funnel(
                read=numbers["read"],
                rejected=manifest["rejected"],
                not_selected=numbers["not_selected"],
                selected=numbers["selected"],
                tokens_read=manifest["tokens"]["read"],
                tokens_selected=manifest["tokens"]["selected"],
                tokens_budget=config["budget_tokens"],
                scored=numbers["scored"] or None,
                bad_files=numbers["bad_files"],
            ),
            notices=self._notices(manifest),
            clusters=self._clusters(counts) if self.assignments_dir else None,
            arms=self._arms() if is_quad else None,
            rounds=self._rounds() if is_quad else None,
            scores=self._scores() if is_quad else None,
            scoring=self._scoring(),
            best=best,
            worst=worst,
            query_groups=self._query_groups(),
            sources=_sources(counts),
            timings=tuple(self._timings()),
            configuration=config,
            versions={**manifest["versions"], **self.fingerprints},
        )

    def _notices(self, manifest: dict[str, Any]) -> tuple[page.Notice, ...]:
        notices = []
        if manifest["shortfall"]:
            notices.append(page.Notice(manifest["shortfall"]))
        if manifest["counts"]["bad_files"]:
            number = manifest["counts"]["bad_files"]
            notices.append(
                page.Notice(f"{number:,} input files were unreadable and left out; see rejected/.")
            )
        if self.clusters_dir is not None:
            fit = read_fit(self.clusters_dir)
            for name, words in (
                ("empty_dropped", "centers attracted no example and were dropped"),
                ("resplit", "clusters were too large and were split again by k-means"),
                ("hash_split", "centers were still too large and are split by hash"),
            ):
                if fit.get(name):
                    notices.append(page.Notice(f"{fit[name]:,} {words}.", level="note"))
        if self.bandit is not None and self._state().unreachable_blocks:
            state = self._state()
            notices.append(
                page.Notice(
                    f"{state.unreachable_blocks:,} blocks ({state.unreachable_tokens:,} tokens) had no text in the "
                    "reserve and could not be scored; raise --reserve_examples.",
                    level="note",
                )
            )
        return tuple(notices)

    def _clusters(self, counts: Tally) -> tuple[page.Cluster, ...]:
        sums = load_cluster_sums(self.assignments_dir or "")
        selected = np.array(
            [
                (counts[f"cluster/{c}/documents"], counts[f"cluster/{c}/tokens"])
                for c in range(len(sums.examples))
            ]
        ).reshape(-1, 2)
        means: np.ndarray | None = None
        texts: dict[int, list[str]] = {}
        if self.bandit is not None:
            means = self._state().arms.mean_influence
            order = np.argsort(-selected[:, 1] / np.maximum(sums.tokens, 1), kind="stable")
            shown = {*order[: _SHOWN_CLUSTERS // 2].tolist()}
            shown |= {*np.argsort(-sums.examples, kind="stable")[: _SHOWN_CLUSTERS // 2].tolist()}
            texts = {c: self._typical_texts(c) for c in sorted(shown) if sums.examples[c]}
        words = distinctive_terms({c: t for c, t in texts.items() if t}) if texts else {}
        return tuple(
            page.Cluster(
                cluster_id=c,
                documents=int(sums.examples[c]),
                tokens=int(sums.tokens[c]),
                selected_documents=int(selected[c, 0]),
                selected_tokens=int(selected[c, 1]),
                cohesion=float(sums.cohesion[c]),
                mean_influence=_or_none(means[c]) if means is not None else None,
                words=tuple(words.get(c, ())),
                texts=tuple(texts.get(c, ()))[:_TEXTS_PER_CLUSTER],
            )
            for c in range(len(sums.examples))
            if sums.examples[c]
        )

    def _group_of(self, cluster: int) -> int:
        if self.bandit is None:
            raise TypeError("a baseline has no candidates")
        samples, _ = load_samples_per_pull(self.bandit.blocks_dir)
        return cluster % num_groups(load_blocks(self.bandit.blocks_dir), samples)

    def _candidates(self, cluster: int, columns: list[str]) -> pa.Table | None:
        folder = self.bandit.blocks_dir if self.bandit else ""
        group = self._group_of(cluster)
        if (
            load_blocks(folder).pullable_starts[cluster + 1]
            == load_blocks(folder).pullable_starts[cluster]
        ):
            return None
        if cluster not in read_row_groups(folder, group):
            return None
        return read_cluster(folder, group, cluster, columns)

    def _typical_texts(self, cluster: int) -> list[str]:
        table = self._candidates(cluster, ["similarity", "text"])
        if table is None:
            return []
        order = np.argsort(-table.column("similarity").to_numpy(), kind="stable")[:40]
        return [text[:2000] for text in table.column("text").take(pa.array(order)).to_pylist()]

    def _arms(self) -> tuple[page.Arm, ...]:
        state = self._state()
        arms = state.arms
        num = load_blocks(self.bandit.blocks_dir).num_blocks  # type: ignore[union-attr]
        return tuple(
            page.Arm(
                cluster_id=int(c),
                num_blocks=int(num[c]),
                pulls=int(arms.pulls[c]),
                accepted=int(arms.accepted_blocks[c]),
                mean_influence=float(arms.mean_influence[c]),
                tokens=int(arms.tokens[c]),
            )
            for c in arms.cluster_id
            if arms.pulls[c]
        )

    def _rounds(self) -> tuple[page.Round, ...]:
        seconds = {timing.name: timing.seconds for timing in self._timings()}
        records, before = [], 0
        for record in self._state().log:
            name = f"Round{record.round}" if record.round else "Pilot"
            records.append(
                page.Round(
                    number=record.round,
                    tau=record.tau,
                    pulls=record.num_pulls,
                    accepted=record.num_accepted,
                    scored=record.scored_examples - before,
                    accepted_tokens=record.accepted_tokens,
                    seconds=seconds.get(name),
                )
            )
            before = record.scored_examples
        return tuple(records)

    def _examples(self) -> tuple[tuple[page.Example, ...], tuple[page.Example, ...]]:
        if self.bandit is None:
            raise TypeError("a baseline has no candidates")
        scored = self.bandit.scored(self.num_rounds)
        finite = np.flatnonzero(np.isfinite(scored["influence"]))
        order = finite[np.argsort(scored["influence"][finite], kind="stable")]
        accepted = {(block.cluster_id, block.block) for block in self._state().accepted}
        chosen = set(self._state().accepted_examples.keys.tolist())

        def example(at: int) -> page.Example:
            cluster, block = int(scored["cluster"][at]), int(scored["block"][at])
            key = int(scored["key"][at])
            return page.Example(
                example_id=str(scored["example_id"][at]),
                text=self._text_of(cluster, key),
                influence=float(scored["influence"][at]),
                tokens=int(scored["tokens"][at]),
                cluster_id=cluster,
                is_selected=key in chosen or (cluster, block) in accepted,
            )

        best = tuple(example(int(at)) for at in order[::-1][:_SHOWN_EXAMPLES])
        return best, tuple(example(int(at)) for at in order[:_SHOWN_EXAMPLES])

    def _text_of(self, cluster: int, key: int) -> str:
        table = self._candidates(cluster, ["key", "text"])
        if table is None:
            return ""
        at = np.flatnonzero(table.column("key").to_numpy() == np.uint64(key))
        return str(table.column("text")[int(at[0])].as_py())[:2000] if len(at) else ""

    def _query_groups(self) -> tuple[page.QueryGroup, ...] | None:
        if self.query_dir is None:
            return None
        counts = read_json(files.join(self.query_dir, "query.json"))
        halves = self._calibration().get("halves", {})
        pilot: list[np.ndarray] = []
        if self.bandit is not None:
            table = aligned.read_table(self.bandit.round_path(0))
            order = np.argsort(table.column("key").to_numpy(), kind="stable")
            values = np.array(table.column("group_influence").to_pylist(), np.float64)
            pilot = list(values.reshape(table.num_rows, -1)[order].T) if table.num_rows else []
        return tuple(
            page.QueryGroup(
                name=group.name,
                documents=counts[group.name]["documents"],
                tokens=counts[group.name]["tokens"],
                weight=group.weight,
                pilot=pilot[number] if number < len(pilot) else None,
                halves_agreement=halves.get(group.name),
            )
            for number, group in enumerate(self.query)
        )

    def _timings(self) -> list[page.StageTiming]:
        timings = []
        for name, clock in self.stages:
            try:
                started, ended = (
                    float(files.read_bytes(timing_path(clock, edge)))
                    for edge in ("started", "ended")
                )
            except OSError:
                continue
            timings.append(page.StageTiming(name, max(0.0, ended - started)))
        return timings


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _named(counts: Tally, prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix): count
        for name, count in sorted(counts.counts.items())
        if name.startswith(prefix)
    }


def _sample(scored: dict[str, np.ndarray], kept: np.ndarray) -> page.ScoredSample:
    kept = kept & np.isfinite(scored["influence"])
    return page.ScoredSample(
        scored["influence"][kept], scored["tokens"][kept], scored["cluster"][kept].astype(np.int64)
    )


def _weighted_mean(sample: page.ScoredSample) -> float | None:
    total = int(sample.tokens.sum())
    weighted = (sample.influence * sample.tokens).tolist()
    return math.fsum(weighted) / total if total else None


def _cluster_weighted_mean(
    sample: page.ScoredSample | None, cluster_tokens: np.ndarray
) -> float | None:
    """Weighs the pilot by the tokens of the clusters: what a random draw would have on average."""
    if sample is None or not len(sample.influence):
        return None
    size = len(cluster_tokens)
    tokens = np.bincount(sample.cluster_id, weights=sample.tokens, minlength=size)
    sums = np.bincount(sample.cluster_id, weights=sample.influence * sample.tokens, minlength=size)
    seen = tokens > 0
    means = sums[seen] / tokens[seen]
    return float((means * cluster_tokens[seen]).sum() / cluster_tokens[seen].sum())


def _or_none(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _sources(counts: Tally) -> tuple[page.Source, ...]:
    names = sorted({name.split("/")[1] for name in counts.counts if name.startswith("source/")})
    fields = ("documents", "tokens", "selected_documents", "selected_tokens", "rejected")
    return tuple(
        page.Source(name, **{field: counts[f"source/{name}/{field}"] for field in fields})
        for name in names
    )
