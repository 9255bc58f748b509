"""What the chains of all pipelines have in common: the corpus, the query set and its vectors, weights, and the output."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.clustering import default_num_clusters
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.plan import write_plan
from beam_quad.corpus.splits import InputPlan
from beam_quad.embedding import StaticSpec
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.stages.base import Stage
from beam_quad.stages.influence.covariances import SumCovariances
from beam_quad.stages.influence.eigenvalues import Eigendecompose, SumEigenvalues
from beam_quad.stages.influence.proxy import ProxyModel, TrackedProxy
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.deduplicate import FindDuplicateIds
from beam_quad.stages.read.distil import DistilTokens
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.embed_query import EmbedQuery
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.stages.write.ranked import Selection, Weighable
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.stages.write.summary import Summary
from beam_quad.stages.write.taken import RowWeights, SumTaken
from beam_quad.stages.write.weights import FindBestLeft
from pipelines import recorded
from pipelines.identity import Identity
from pipelines.inputs import Inputs
from pipelines.run_options import BLOCKS_PER_CLUSTER, SAMPLES_PER_PULL, RunOptions

_WHERE_NOT_WHAT = (
    "output", "artifacts", "plan", "take_over", "threads", "accelerator", "input_root",
)  # fmt: skip
S = TypeVar("S", bound=Stage)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A run, ready to be wired.

    Attributes:
      stages: The stages in order.
      plan_path: Where the plan is stored.
      identity: What the result depends on; an output belongs to one identity.
      plans: Plans to write before the job starts, by path.
      records: Further small files to write then, by path.
    """

    stages: tuple[Stage, ...]
    plan_path: str
    identity: Identity
    plans: dict[str, InputPlan]
    records: dict[str, bytes]

    def write_plans(self) -> None:
        """Writes the plans, once, and the records."""
        for path, plan in self.plans.items():
            write_plan(path, plan)
        for path, data in self.records.items():
            files.write(path, data)


class Builder:
    """Links the stages that any selection needs; each names its own folder.

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
        self.inputs = inputs
        self.budget = budget
        self.output = files.absolute(options.output)
        # Versions of further files that the result depends on, by name.
        self.files: dict[str, str] = {}
        self.stages: list[Stage] = []
        self.plans: dict[str, InputPlan] = {}
        self.corpus = self._corpus(reserve_rate)
        # For stages that ask which examples are too long for the budget.
        self.within_budget = self.corpus.within(budget)
        self.query = self._query(weights)

    def add(self, stage: S) -> S:
        """Puts a stage at the end of the chain."""
        self.stages.append(stage)
        return stage

    def _corpus(self, rate: float) -> Corpus:
        options, inputs = self._options, self.inputs
        splits = inputs.corpus.splits
        layout = [(s.shard, s.version, s.first_group, s.num_groups) for s in splits]
        corpus = Corpus(
            root=options.artifacts_root,
            plan_path="",
            seen_dir=inputs.seen.folder,
            layout=identity.digest(layout),
            columns=Columns(options.text_column, options.id_column, options.tokens_column),
            tokenizer=None if options.tokens_column else inputs.proxy_fingerprint,
            embedder=inputs.embedder,
            embedder_fingerprint=inputs.embedder_fingerprint,
            on_bad_file=options.on_bad_file,
            seed=options.seed,
            reserve_rate=rate,
        )
        return dataclasses.replace(corpus, plan_path=self._plan_path(corpus.folder, inputs.corpus))

    def _plan_path(self, folder: str, plan: InputPlan) -> str:
        # Where and when a file was found is no part of its content: a corpus that was copied has another plan, and
        # all else. So it is with the choice of the columns that are carried.
        places = [(split.path, split.found_version) for split in plan.splits]
        options = self._options
        also = [options.ranking_column] * (options.ranking_column is not None)
        found = identity.digest(places, options.columns, *also)
        path = files.join(folder, f"plan-{found[:20]}.json.gz")
        self.plans[path] = plan
        return path

    def _query(self, weights: Mapping[str, float]) -> tuple[Query, ...]:
        root, groups = self._options.artifacts_root, []
        column = self._options.query_text_column or self._options.text_column
        for name, plan in self.inputs.query.items():
            folder = files.join(root, "query_plan", identity.digest(plan.snapshot, column)[:20])
            path = self._plan_path(folder, plan)
            groups.append(
                Query(root, name, weights[name], path, plan.snapshot, column, self._options.prove)
            )
        return tuple(groups)

    def embed(self) -> None:
        """Adds the stages that read the corpus."""
        options, proxy = self._options, self.inputs.proxy
        counts_tokens = proxy is not None and not options.tokens_column
        embedder = self.inputs.embedder
        if isinstance(embedder, StaticSpec) and embedder.table is not None:
            fingerprint = self.inputs.embedder_fingerprint
            self.add(DistilTokens(self.corpus.root, embedder, fingerprint))
        self.add(
            EmbedExamples(
                self.corpus,
                proxy.path if proxy is not None and counts_tokens else None,
                proxy.revision if proxy is not None else None,
            )
        )
        if self.corpus.duplicates_dir is not None:
            self.add(FindDuplicateIds(self.corpus))

    def fit_query(self) -> FitQueryVectors:
        """Adds the stages that fit the curvature and the query vectors."""
        tracked, curvature = self.tracked(), self._fit_curvature()
        damping = None if curvature is None else self._options.damping
        return self.add(FitQueryVectors(tracked, self.query, curvature, damping))

    def _fit_curvature(self) -> SumEigenvalues | Eigendecompose | None:
        options = self._options
        if options.curvature == "identity":
            return None
        sample = self.add(SampleTexts(self.corpus, options.curvature_examples))
        covariances = self.add(
            SumCovariances(self.tracked(), sample, options.curvature_labels, options.seed)
        )
        bases = self.add(Eigendecompose(covariances))
        return bases if options.curvature == "kfac" else self.add(SumEigenvalues(bases))

    def proxy(self) -> ProxyModel:
        """The proxy model, which a stage needs.

        Raises:
          UsageError: If there is none.
        """
        if self.inputs.proxy is None or not self._options.needs_proxy:
            raise UsageError("this selection needs --proxy_model: a folder or hub id")
        return ProxyModel(self.inputs.proxy, self.inputs.proxy_fingerprint)

    def embed_query(self) -> EmbedQuery:
        """Adds the stage that embeds the query set.

        Raises:
          UsageError: If nothing is embedded.
        """
        if self.inputs.embedder is None:
            raise UsageError("this selection needs --embedder")
        return self.add(
            EmbedQuery(self.inputs.embedder, self.inputs.embedder_fingerprint, self.query)
        )

    def tracked(self) -> TrackedProxy:
        """The proxy model with its tracked layers."""
        return TrackedProxy(self.proxy(), self._options.layers)

    def identity(self) -> Identity:
        """What the result depends on, however the flags are spelled and wherever the files are stored."""
        options, inputs = self._options, self.inputs
        config = dataclasses.asdict(options)
        for name in _WHERE_NOT_WHAT:
            config.pop(name)
        config["query_text_column"] = options.query_text_column or options.text_column
        config["device"] = identity.device_kind(options.device)
        config["embedder_dtype"] = getattr(inputs.embedder, "dtype", None)
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
        corpus_id = identity.digest(self.corpus)
        return Identity.of(config, fingerprints, inputs.corpus.snapshot, corpus_id)

    def summary(self, **facts: Any) -> Summary:
        """Makes what tells of the run; `facts` are further fields of `Summary`."""
        run = self.identity()
        return Summary(
            config=run.config,
            configuration=run.configuration,
            fingerprints=run.fingerprints,
            corpus=self.within_budget,
            output=self.output,
            budget=self.budget,
            **facts,
        )

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
          weights: Weighs the selection with `--weighted`; None for weights of the first order.
        """
        options = self._options
        if not options.weighted:
            weights = None
        elif weights is None:
            if not isinstance(selection, Weighable):
                raise UsageError("--weighted needs a selection by influence, which this is not")
            taken = self.add(SumTaken(self.within_budget, selection))
            weights = self.add(FindBestLeft(self.within_budget, taken))
        stages = tuple((stage.name, stage.clock) for stage in self.stages)
        self.add(
            WriteSelection(
                self.within_budget,
                selection,
                self.output,
                options.output_format,
                self.budget,
                dataclasses.replace(summary, stages=stages),
                weights,
            )
        )
        return Chain(
            tuple(self.stages),
            self.corpus.plan_path,
            self.identity(),
            self.plans,
            dict(self.inputs.seen.unwritten)
            | {recorded.path_of(self.output): recorded.to_bytes(options)},
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
