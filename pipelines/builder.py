"""What the chains of all pipelines have in common: the names of folders, the corpus, the query set and its vectors."""

import dataclasses
import math
import os
from collections.abc import Mapping

from beam_quad import seeding
from beam_quad.artifacts import files
from beam_quad.clustering import default_num_clusters
from beam_quad.corpus.plan import write_plan
from beam_quad.corpus.splits import InputPlan
from beam_quad.errors import UsageError
from beam_quad.gradients.proxy import ProxySpec
from beam_quad.records import Budget
from beam_quad.stages.base import Task
from beam_quad.stages.influence import score
from beam_quad.stages.influence.covariances import Fit, SumCovariances
from beam_quad.stages.influence.eigenvalues import Eigendecompose, SumEigenvalues
from beam_quad.stages.influence.query_vectors import FitQueryVectors, vectors_path
from beam_quad.stages.quad.select import Selection, Weighable
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.deduplicate import FindDuplicateIds
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.stages.write.summary import Summary
from beam_quad.stages.write.taken import RowWeights, SumTaken
from beam_quad.stages.write.weights import FindBestLeft, Weights
from pipelines.identity import Identity
from pipelines.inputs import Inputs
from pipelines.run_options import BLOCKS_PER_CLUSTER, SAMPLES_PER_PULL, RunOptions

# Bumped when a stage's files change their meaning, so that files of an older version are not read.
_VERSIONS = {
    "allocation": 1,
    "blocks": 1,
    "calibration": 1,
    "clusters": 1,
    "combined": 1,
    "corpus": 2,
    "corpus_scores": 1,
    "curvature": 2,
    "embeddings": 1,
    "interactions": 1,
    "landmark_scores": 1,
    "landmarks": 1,
    "ngrams": 2,
    "passed_over": 1,
    "propagated": 1,
    "propagation": 1,
    "query": 4,
    "query_plan": 2,
    "ranking": 2,
    "reserve": 1,
    "rounds": 3,
    "rows": 2,
    "sample": 2,
    "scores": 1,
    "second_order": 1,
    "shortlist": 1,
    "sketches": 1,
    "weights": 1,
}
_WHERE_NOT_WHAT = (
    "output", "artifacts", "plan", "take_over", "threads", "accelerator", "input_root",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chain:
    """A run, ready to be wired.

    Attributes:
      tasks: The stages in order.
      plan_path: Where the plan lies.
      identity: What the result depends on; an output belongs to one identity.
      plans: Plans to write before the job starts, by path.
      records: Further small files to write then, by path.
    """

    tasks: tuple[Task, ...]
    plan_path: str
    identity: Identity
    plans: dict[str, InputPlan]
    records: dict[str, bytes]

    def write_plans(self) -> None:
        """Writes the plans and records, once."""
        for path, plan in self.plans.items():
            write_plan(path, plan)
        for path, data in self.records.items():
            files.write_once(path, data)


class Builder:
    """Names every folder by what its files depend on, and links the stages that any selection needs.

    Args:
      options: The flags.
      inputs: What `look` found.
      reserve_rate: Share of texts to set aside, in (0, 1].
      weights: Weight of each query group.
      budget: How much is selected.
    """

    def __init__(
        self,
        options: RunOptions,
        inputs: Inputs,
        reserve_rate: float,
        weights: Mapping[str, float],
        budget: Budget,
    ) -> None:
        self._options = options
        self.budget = budget
        self.inputs = inputs
        self.output = files.absolute(options.output)
        self.artifacts = options.artifacts_root
        # Versions of further files that the result depends on, by name.
        self.files: dict[str, str] = {}
        self.tasks: list[Task] = []
        self.plans: dict[str, InputPlan] = {}
        self.corpus_id = self.texts_id = ""
        self.corpus = self._corpus(reserve_rate)
        self.query = self._query(weights)
        self.folders: dict[str, str] = {}

    def folder(self, kind: str, *parts: object) -> str:
        """Names a folder of artifacts by what its files depend on."""
        # Parts that are folders of ours count by their names, so that the artifacts can be moved.
        names = [str(part).replace(self.artifacts + "/", "") for part in parts]
        name = seeding.digest(kind, _VERSIONS[kind], *names)[:20]
        return files.join(self.artifacts, kind, name)

    def _corpus(self, rate: float) -> Corpus:
        options, inputs = self._options, self.inputs
        columns = (options.text_column, options.id_column, options.tokens_column)
        read = seeding.digest(*columns)
        tokenizer = None if options.tokens_column else inputs.proxy_fingerprint
        rows_dir = self.folder("rows", read, tokenizer)
        embeddings_dir = None
        if inputs.embedder is not None:
            spec = inputs.embedder.content_spec(_kind(options.device))
            embeddings_dir = self.folder("embeddings", read, inputs.embedder_fingerprint, spec)
        reserve_dir = self.folder("reserve", rows_dir, options.seed, rate)
        layout = [(s.shard, s.version, s.first_group, s.num_groups) for s in inputs.corpus.splits]
        folder = self.folder(
            "corpus", rows_dir, embeddings_dir, reserve_dir, options.on_bad_file, layout
        )
        self.corpus_id = folder.rsplit("/", 1)[-1]
        # What is made of the texts alone does not ask how they were embedded.
        self.texts_id = seeding.digest(reserve_dir.rsplit("/", 1)[-1], options.on_bad_file, layout)
        return Corpus(
            plan_path=self._plan_path(folder, inputs.corpus),
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
            seen_dir=inputs.seen.folder,
            budget=self.budget,
        )

    def _plan_path(self, folder: str, plan: InputPlan) -> str:
        # Where and when a file was found is no part of its content: a corpus that was copied has another plan, and
        # all else. So it is with the choice of the columns that are carried.
        places = [(split.path, split.found_version) for split in plan.splits]
        found = seeding.digest(*places, self._options.columns)
        path = files.join(folder, f"plan-{found[:20]}.json.gz")
        self.plans[path] = plan
        return path

    def _query(self, weights: Mapping[str, float]) -> tuple[Query, ...]:
        groups = []
        for name, plan in self.inputs.query.items():
            column = self._options.query_text_column or self._options.text_column
            folder = self.folder("query_plan", plan.snapshot, column)
            groups.append(Query(name, weights[name], self._plan_path(folder, plan), column))
        return tuple(groups)

    def embed(self) -> None:
        """Adds the stages that read the corpus."""
        options, proxy = self._options, self.inputs.proxy
        self.tasks.append(
            EmbedExamples(
                self.corpus,
                self.inputs.embedder,
                None if proxy is None or options.tokens_column else proxy.path,
                None if proxy is None else proxy.revision,
                options.on_bad_file == "reject",
            )
        )
        if self.corpus.duplicates_dir is not None:
            self.tasks.append(FindDuplicateIds(self.corpus))

    def fit_query(self) -> str:
        """Adds the stages that fit the curvature and the query vectors; returns the path of the vectors."""
        options, proxy = self._options, self.proxy()
        sample = self.folder("sample", self.texts_id, options.curvature_examples, options.seed)
        spec = score.content_spec(proxy)
        model = (self.inputs.proxy_fingerprint, spec, options.layers)
        fitted = self.folder("curvature", sample, *model, options.curvature_labels)
        fit = Fit(
            proxy, self.inputs.proxy_fingerprint, options.layers, options.curvature_labels, sample, options.seed
        )  # fmt: skip
        kind = options.curvature
        if kind != "identity":
            self.tasks += [
                SampleTexts(self.corpus, sample, options.curvature_examples),
                SumCovariances(fit, fitted),
                Eigendecompose(fitted, proxy.num_threads),
            ]
        if kind == "ekfac":
            self.tasks.append(SumEigenvalues(fit, fitted))
        basis = (fitted, options.damping) if kind != "identity" else ()
        query = [
            (q.name, plan.snapshot, q.text_column)
            for q, plan in zip(self.query, self.inputs.query.values(), strict=True)
        ]
        folder = self.folder("query", kind, *model, *basis, query)
        self.folders["query"] = folder
        self.tasks.append(FitQueryVectors(fit, self.query, kind, options.damping, fitted, folder))
        return vectors_path(folder)

    def proxy(self) -> ProxySpec:
        """The proxy model, which a stage needs.

        Raises:
          UsageError: If there is none.
        """
        if self.inputs.proxy is None or not self._options.needs_proxy:
            raise UsageError("this selection needs --proxy_model: a folder or hub id")
        return self.inputs.proxy

    def identity(self) -> Identity:
        """What the result depends on, however the flags are spelled and wherever the files lie."""
        options, inputs = self._options, self.inputs
        config = dataclasses.asdict(options)
        for name in _WHERE_NOT_WHAT:
            config.pop(name)
        config["query_text_column"] = options.query_text_column or options.text_column
        config["device"] = _kind(options.device)
        config["input"] = inputs.corpus.root
        config["query"] = {name: plan.root for name, plan in inputs.query.items()}
        for name in ("proxy_model", "embedder", "optimizer_state"):
            if config.get(name):
                config[name] = _place(config[name])
        fingerprints = {
            "proxy": inputs.proxy_fingerprint,
            "embedder": inputs.embedder_fingerprint,
            "query": {name: plan.snapshot for name, plan in inputs.query.items()},
            **self.files,
        }
        return Identity.of(config, fingerprints, inputs.corpus.snapshot, self.corpus_id)

    def finish(
        self,
        selection: Selection,
        summary: Summary,
        weights: RowWeights | None = None,
    ) -> Chain:
        """Adds the stages that weigh and write a selection, and makes the chain.

        Args:
          selection: Says which rows are selected; with `--weighted` it must be `Weighable`, or come with `weights`.
          summary: Makes the manifest and the report; its stages are filled in.
          weights: Weighs the selection with `--weighted`, as `Weights` does; None for weights of the first order.
        """
        if not self._options.weighted:
            weights = None
        elif weights is None:
            if not isinstance(selection, Weighable):
                raise UsageError("--weighted needs a selection by influence, which this is not")
            weights = Weights(selection, self.folder("weights", self.corpus_id, selection))
            self.tasks += [
                SumTaken(self.corpus, selection, weights.folder),
                FindBestLeft(self.corpus, selection, weights.folder),
            ]
        stages = tuple((task.name, task.clock) for task in self.tasks)
        summary = dataclasses.replace(summary, stages=stages)
        self.tasks.append(
            WriteSelection(
                self.corpus,
                selection,
                self.output,
                self._options.output_format,
                self.budget,
                summary,
                weights,
            )
        )
        return Chain(
            tuple(self.tasks),
            self.corpus.plan_path,
            self.identity(),
            self.plans,
            self.inputs.seen.unwritten,
        )


def num_candidates(num_clusters: int, blocks_per_cluster: int, samples_per_pull: int) -> int:
    """Counts the texts that Quad wants set aside.

    Eight for each that a pull may score, so that blocks of other budgets and options find theirs.
    """
    return 8 * num_clusters * blocks_per_cluster * samples_per_pull


def reserve_rate(plan: InputPlan, *wanted: int) -> float:
    """Decides the share of texts to set aside: all of a small corpus, a power of 1/2 of a large one.

    At least what Quad asks for by default, whoever asks: a pipeline that wants fewer takes up to some tens of GB more, and
    what is made of the texts (the curvature above all) is shared instead of another reading of the corpus.

    Args:
      plan: The corpus.
      wanted: Numbers of texts, of which the largest counts.
    """
    num_clusters = default_num_clusters(max(1, plan.num_rows))
    most = max(*wanted, num_candidates(num_clusters, BLOCKS_PER_CLUSTER, SAMPLES_PER_PULL))
    share = min(1.0, most / max(1, plan.num_rows))
    return float(2.0 ** math.ceil(math.log2(share)))


def _place(path: str) -> str:
    """Spells a local path in one way; a hub id, or a name of ours, stays as it is."""
    return files.absolute(path) if os.path.exists(path) else path


def _kind(device: str) -> str:
    return device.split(":")[0]
