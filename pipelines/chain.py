"""Flags to objects: the plan of a run, the folders of its artifacts, and the chain of its stages."""

import dataclasses
import math
from typing import Any

from beam_quad import seeding
from beam_quad.bandit import QuadPolicy
from beam_quad.clustering import default_num_clusters
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import ProxySpec
from beam_quad.io import files
from beam_quad.io.formats import is_jsonl
from beam_quad.io.plan import write_plan
from beam_quad.io.splits import InputPlan
from beam_quad.transforms import candidates, cluster, curvature, score, select
from beam_quad.transforms.calibrate import CalibrateScoring, calibration_path
from beam_quad.transforms.corpus import Corpus
from beam_quad.transforms.deduplicate import FindDuplicateIds
from beam_quad.transforms.embed import EmbedExamples
from beam_quad.transforms.finished import FinishedBandit
from beam_quad.transforms.ngrams import CountNgrams
from beam_quad.transforms.rounds import Bandit, RunRound
from beam_quad.transforms.stage import Task
from beam_quad.transforms.summary import Summary
from beam_quad.transforms.texts import Query, SampleTexts
from beam_quad.transforms.write import WriteSelection
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions, needs_clusters, needs_proxy, why_exact

# Bumped when a stage's files change their meaning, so that files of an older version are not read.
_VERSIONS = {
    "blocks": 1,
    "calibration": 1,
    "clusters": 1,
    "combined": 1,
    "corpus": 1,
    "corpus_scores": 1,
    "curvature": 2,
    "embeddings": 1,
    "ngrams": 1,
    "query": 2,
    "query_plan": 1,
    "ranking": 1,
    "reserve": 1,
    "rounds": 1,
    "rows": 1,
    "sample": 1,
    "scores": 1,
}
_WHERE_NOT_WHAT = ("output", "artifacts", "plan", "take_over", "threads", "accelerator")


@dataclasses.dataclass(frozen=True)
class Chain:
    """A run, ready to be wired.

    Attributes:
      tasks: The stages in order.
      plan_path: Where the plan lies.
      config: The options that the result depends on.
      fingerprint: Names the configuration and the input; an output belongs to one of them.
      plans: Plans to write before the job starts, by path.
    """

    tasks: tuple[Task, ...]
    plan_path: str
    config: dict[str, Any]
    fingerprint: str
    plans: dict[str, InputPlan]

    def write_plans(self) -> None:
        """Writes the plans, once."""
        for path, plan in self.plans.items():
            write_plan(path, plan)


def build(options: QuadOptions, inputs: Inputs, scoring: score.Scoring | None = None) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: What `look` found.
      scoring: What scores the pulls, in place of influence; then no curvature is fitted.

    Returns:
      The chain; nothing is written yet.
    """
    return _Builder(options, inputs, scoring).build()


def reserve_rate(options: QuadOptions, plan: InputPlan) -> float:
    """Decides the share of texts to set aside: all of a small corpus, a power of 1/2 of a large one.

    Eight candidates are wanted for each that a pull may score, so that blocks of other budgets and options find theirs.
    """
    if options.acceptance == "instance":
        return 1.0
    num_clusters = options.num_clusters or default_num_clusters(max(1, plan.num_rows))
    samples = options.samples_per_pull or 10
    wanted = max(options.reserve_examples, 8 * num_clusters * options.blocks_per_cluster * samples)
    share = min(1.0, wanted / max(1, plan.num_rows))
    return float(2.0 ** math.ceil(math.log2(share)))


def _read_fields(plan: InputPlan, columns: tuple[str | None, ...]) -> list[str]:
    """Describes the part of the schema that decides what is read of a row and whether it is rejected.

    Of Parquet that is the types of the columns read, so that a new column of a new shard changes nothing. A row of
    JSON Lines is rejected where it does not fit the whole schema.
    """
    is_json = any(is_jsonl(split.path) for split in plan.splits)
    fields = (field for field in plan.schema if is_json or field.name in columns)
    return sorted(f"{field.name}: {field.type}" for field in fields)


def _kind(device: str) -> str:
    return device.split(":")[0]


class _Builder:
    """Names every folder by what its files depend on, and links the stages that a policy needs."""

    def __init__(self, options: QuadOptions, inputs: Inputs, scoring: score.Scoring | None) -> None:
        self.options = options
        self.inputs = inputs
        self.scoring = scoring
        self.output = files.absolute(options.output)
        root = options.artifacts or files.join(self.output, "_run")
        self.artifacts = files.absolute(root)
        self.tasks: list[Task] = []
        self.plans: dict[str, InputPlan] = {}
        self.corpus_id = ""
        self.corpus = self._corpus()
        self.query = self._query()
        self.folders: dict[str, str] = {}

    def build(self) -> Chain:
        options = self.options
        self._embed()
        if needs_clusters(options.policy):
            self._cluster()
        selection = self._quad() if options.policy == "quad" else self._baseline()
        config = self._config()
        fingerprint = seeding.digest(
            self.corpus_id, self.inputs.proxy_fingerprint, self.inputs.embedder_fingerprint,
            *(plan.snapshot for plan in self.inputs.query.values()), sorted(config.items()),
        )  # fmt: skip
        self.tasks.append(
            WriteSelection(
                self.corpus,
                selection,
                self.output,
                options.output_format,
                options.budget_tokens,
                self._summary(config, fingerprint, selection),
            )
        )
        return Chain(tuple(self.tasks), self.corpus.plan_path, config, fingerprint, self.plans)

    def _folder(self, kind: str, *parts: object) -> str:
        # Parts that are folders of ours count by their names, so that the artifacts can be moved.
        names = [str(part).replace(self.artifacts + "/", "") for part in parts]
        name = seeding.digest(kind, _VERSIONS[kind], *names)[:20]
        return files.join(self.artifacts, kind, name)

    def _corpus(self) -> Corpus:
        options, inputs = self.options, self.inputs
        columns = (options.text_column, options.id_column, options.tokens_column)
        read = seeding.digest(*columns, *_read_fields(inputs.corpus, columns))
        tokenizer = None if options.tokens_column else inputs.proxy_fingerprint
        rate = reserve_rate(options, inputs.corpus)
        rows_dir = self._folder("rows", read, tokenizer)
        embeddings_dir = None
        if inputs.embedder is not None:
            spec = dataclasses.replace(
                inputs.embedder,
                name="",
                revision=None,
                num_threads=None,
                device=_kind(options.device),
            )
            embeddings_dir = self._folder("embeddings", read, inputs.embedder_fingerprint, spec)
        reserve_dir = self._folder("reserve", rows_dir, options.seed, rate)
        layout = [(s.shard, s.version, s.first_group, s.num_groups) for s in inputs.corpus.splits]
        folder = self._folder(
            "corpus", rows_dir, embeddings_dir, reserve_dir, options.on_bad_file, layout
        )
        self.corpus_id = folder.rsplit("/", 1)[-1]
        # The splits' places are no part of their content: a corpus that has moved has another plan, and all else.
        places = seeding.digest(*(split.path for split in inputs.corpus.splits))
        plan_path = files.join(folder, f"plan-{places[:20]}.json.gz")
        self.plans[plan_path] = inputs.corpus
        return Corpus(
            plan_path=plan_path,
            totals_path=files.join(folder, "totals.json"),
            rows_dir=rows_dir,
            embeddings_dir=embeddings_dir,
            reserve_dir=reserve_dir,
            reserve_rate=rate,
            duplicates_dir=files.join(folder, "duplicates") if options.id_column else None,
            text_column=options.text_column,
            id_column=options.id_column,
            tokens_column=options.tokens_column,
            seed=options.seed,
        )

    def _query(self) -> tuple[Query, ...]:
        groups = []
        for name, plan in self.inputs.query.items():
            column = self.options.query_text_column or self.options.text_column
            folder = self._folder("query_plan", plan.snapshot, plan.root, column)
            path = files.join(folder, "plan.json.gz")
            self.plans[path] = plan
            groups.append(Query(name, self.options.query_weights[name], path, column))
        return tuple(groups)

    def _embed(self) -> None:
        options = self.options
        self.tasks.append(
            EmbedExamples(
                self.corpus,
                self.inputs.embedder,
                None if options.tokens_column else options.proxy_model,
                options.proxy_revision,
                options.on_bad_file == "reject",
            )
        )
        if self.corpus.duplicates_dir is not None:
            self.tasks.append(FindDuplicateIds(self.corpus))

    def _cluster(self) -> None:
        options = self.options
        folder = self._folder(
            "clusters",
            self.corpus_id,
            options.num_clusters,
            options.max_cluster_share,
            options.seed,
        )
        self.folders["clusters"] = folder
        self.folders["assignments"] = files.join(folder, "assignments")
        self.tasks += [
            cluster.FitCenters(
                self.corpus, folder, options.num_clusters, options.max_cluster_share
            ),
            cluster.AssignClusters(self.corpus, folder, self.folders["assignments"]),
        ]

    def _quad(self) -> select.BlockSelection:
        options = self.options
        whole = options.acceptance == "instance"
        blocks = self._folder(
            "blocks", self.folders["clusters"], options.samples_per_pull, options.blocks_per_cluster, whole
        )  # fmt: skip
        assignments = self.folders["assignments"]
        self.tasks += [
            candidates.CountBlocks(
                self.corpus, assignments, blocks, options.samples_per_pull, options.blocks_per_cluster, whole
            ),
            candidates.GatherCandidates(self.corpus, assignments, blocks),
        ]  # fmt: skip
        scoring = self.scoring or self._influence()
        weights = tuple(group.weight for group in self.query) or (1.0,)
        policy = self._policy()
        # The pilot is scored one way, the rounds after it maybe another.
        ways = (scoring.key, options.scoring)
        folder = self._folder("rounds", blocks, *ways, policy, weights)
        bandit = Bandit(policy, blocks, folder)
        combined = None
        if len(weights) > 1:
            # Named by the pilot alone, which no budget changes.
            pilot = self._folder("combined", blocks, scoring.key, weights)
            combined = files.join(pilot, "combined.safetensors")
        for number in range(policy.num_rounds + 1):
            if number == 1 and isinstance(scoring, score.InfluenceScoring):
                scoring = self._calibrated(scoring, bandit, combined)
            scores = self._folder("scores", scoring.key)
            self.tasks.append(RunRound(bandit, number, scoring, scores, weights, combined))
        path = files.join(folder, "selection.parquet")
        num_rounds = policy.num_rounds + 1
        self.tasks.append(select.CutBlocks(self.corpus, bandit, num_rounds, assignments, path))
        return select.BlockSelection(bandit, num_rounds, assignments, path)

    def _calibrated(
        self, scoring: score.InfluenceScoring, bandit: Bandit, combined: str | None
    ) -> score.InfluenceScoring:
        """Adds the stage after the pilot, and returns how the rounds that follow score."""
        options = self.options
        weights = [group.weight for group in self.query]
        # Named by the pilot alone, which no budget changes.
        folder = self._folder(
            "calibration", bandit.blocks_dir, scoring.key, weights, options.scoring
        )
        self.folders["calibration"] = folder
        if combined is not None:
            scoring = dataclasses.replace(scoring, vectors_path=combined)
        reason = why_exact(options)
        self.tasks.append(
            CalibrateScoring(
                scoring,
                bandit,
                tuple(group.name for group in self.query),
                curvature.halves_path(self.folders["query"]),
                reason,
                options.scoring == "two_forwards",
                folder,
            )
        )
        if reason is not None:
            return scoring
        return dataclasses.replace(scoring, calibration_path=calibration_path(folder))

    def _policy(self) -> QuadPolicy:
        options = self.options
        try:
            return QuadPolicy(
                budget_tokens=options.budget_tokens,
                # The real number is known on the workers, once the corpus is counted.
                samples_per_pull=options.samples_per_pull or 1,
                num_rounds=options.num_rounds,
                arms_per_round=options.arms_per_round,
                alpha=options.alpha,
                tau=options.tau,
                acceptance=options.acceptance,
                max_share_per_cluster=options.max_share_per_cluster,
                seed=options.seed,
            )
        except ValueError as error:
            raise UsageError(f"--{error}") from error

    def _influence(self) -> score.InfluenceScoring:
        options, proxy = self.options, self._proxy()
        sample = self._folder("sample", self.corpus_id, options.curvature_examples, options.seed)
        spec = score.content_spec(proxy)
        model = (self.inputs.proxy_fingerprint, spec, options.layers)
        fitted = self._folder("curvature", sample, *model, options.curvature_labels)
        fit = curvature.Fit(
            proxy, self.inputs.proxy_fingerprint, options.layers, options.curvature_labels, sample, options.seed
        )  # fmt: skip
        kind = options.curvature
        if kind != "identity":
            self.tasks += [
                SampleTexts(self.corpus, sample, options.curvature_examples),
                curvature.SumCovariances(fit, fitted),
                curvature.Eigendecompose(fitted),
            ]
        if kind == "ekfac":
            self.tasks.append(curvature.SumEigenvalues(fit, fitted))
        basis = (fitted, options.damping) if kind != "identity" else ()
        query = [
            (q.name, plan.snapshot, q.text_column)
            for q, plan in zip(self.query, self.inputs.query.values(), strict=True)
        ]
        folder = self._folder("query", kind, *model, *basis, query)
        self.folders["query"] = folder
        self.tasks.append(
            curvature.FitQueryVectors(fit, self.query, kind, options.damping, fitted, folder)
        )
        return score.InfluenceScoring(
            proxy,
            self.inputs.proxy_fingerprint,
            options.layers,
            curvature.vectors_path(folder),
            options.normalize,
        )

    def _baseline(self) -> select.RankedSelection:
        preference = self._preference()
        folder = self._folder("ranking", self.corpus_id, preference, self.options.budget_tokens)
        for level in range(select.LAST_LEVEL + 1):
            self.tasks.append(
                select.CutRanking(
                    self.corpus, preference, self.options.budget_tokens, folder, level
                )
            )
        path = select.cut_path(folder, select.LAST_LEVEL)
        return select.RankedSelection(preference, path, self.folders.get("assignments"))

    def _preference(self) -> score.Preference:
        policy = self.options.policy
        if policy == "random":
            return score.Random()
        if policy == "cluster_uniform":
            return select.EqualClusters(self.folders["assignments"])
        if policy == "perplexity":
            return score.MiddleScore(
                self._score(score.PerplexityScoring(self._proxy(), self.inputs.proxy_fingerprint))
            )
        if policy == "dsir":
            snapshots = [
                (plan.snapshot, q.text_column)
                for q, plan in zip(self.query, self.inputs.query.values(), strict=True)
            ]
            counts = self._folder("ngrams", self.corpus_id, snapshots)
            self.tasks.append(CountNgrams(self.corpus, self.query, counts))
            return score.Resampled(self._score(score.DSIRScoring(counts)))
        if len(self.query) > 1:
            raise UsageError(
                "--policy=influence_top_k ranks by one query group; pass --query, or --policy=quad"
            )
        return score.HighestScore(self._score(self.scoring or self._influence()))

    def _score(self, scoring: score.Scoring) -> str:
        folder = self._folder("corpus_scores", self.corpus_id, scoring.key)
        self.folders["scores"] = folder
        self.tasks.append(score.ScoreExamples(self.corpus, scoring, folder))
        return folder

    def _proxy(self) -> ProxySpec:
        if self.inputs.proxy is None or not needs_proxy(self.options.policy):
            raise UsageError(f"--policy={self.options.policy} needs --proxy_model")
        return self.inputs.proxy

    def _config(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.options)
        for name in _WHERE_NOT_WHAT:
            config.pop(name)
        config["query"] = {name: list(globs) for name, globs in self.options.query.items()}
        config["input"] = list(self.options.input)
        return config

    def _summary(
        self,
        config: dict[str, Any],
        fingerprint: str,
        selection: select.BlockSelection | select.RankedSelection,
    ) -> Summary:
        finished = None
        if isinstance(selection, select.BlockSelection):
            finished = FinishedBandit(
                selection.bandit, selection.num_rounds, self.folders["assignments"]
            )
        return Summary(
            config=config,
            configuration=fingerprint,
            fingerprints={
                "proxy": self.inputs.proxy_fingerprint,
                "embedder": self.inputs.embedder_fingerprint,
                "query": {name: plan.snapshot for name, plan in self.inputs.query.items()},
            },
            corpus=self.corpus,
            output=self.output,
            stages=tuple((task.name, task.clock) for task in self.tasks),
            query=self.query if "query" in self.folders else (),
            query_dir=self.folders.get("query"),
            clusters_dir=self.folders.get("clusters"),
            assignments_dir=self.folders.get("assignments"),
            bandit=finished,
            scores_dir=self.folders.get("scores"),
            calibration_dir=self.folders.get("calibration"),
        )
