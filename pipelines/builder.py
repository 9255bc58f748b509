"""Stages shared by all pipelines: the corpus, the query set and its vectors, weights, and the output."""

import dataclasses
from typing import Any, TypeVar

from beam_quad import identity
from beam_quad.artifacts import files
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.plan import write_plan
from beam_quad.corpus.splits import InputPlan
from beam_quad.embedding import StaticSpec
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.selection.near_duplicates import COMPARED_BUDGETS, COMPARED_LEVELS
from beam_quad.selection.shares import Bound, conditions_of, parse_bounds
from beam_quad.stages.base import Stage
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters
from beam_quad.stages.influence.covariances import SumCovariances
from beam_quad.stages.influence.eigenvalues import AddEigenvalues, Eigendecompose, SumEigenvalues
from beam_quad.stages.influence.proxy import ProxyModel, TrackedProxy
from beam_quad.stages.influence.query_vectors import FitQueryVectors, SumQueryGradients
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.deduplicate import FindDuplicateIds
from beam_quad.stages.read.distil import DistilTokens
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.embed_items import EmbedItems
from beam_quad.stages.read.embed_query import EmbedQuery
from beam_quad.stages.read.excluded import Excluded
from beam_quad.stages.read.find_leaks import FindLeaks
from beam_quad.stages.read.forget import ForgetTexts
from beam_quad.stages.read.patterns import CountPatterns, ReadPatterns
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.sign import SignTexts
from beam_quad.stages.read.splits import RowAlignedStage
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.stages.refresh.base import RANK_LEVELS, Held
from beam_quad.stages.refresh.compare import CompareWithBase
from beam_quad.stages.refresh.drift import (
    ClustersAndInfluence,
    InfluenceByRow,
    MeasureDrift,
    MeasureReference,
)
from beam_quad.stages.refresh.grow import GrowCenters, StoredCenters
from beam_quad.stages.write.budget import Cut, Ranking, SingleCut
from beam_quad.stages.write.near_duplicates import Compared, FindNearDuplicates, LinkCandidates
from beam_quad.stages.write.paraphrases import FlagParaphrases
from beam_quad.stages.write.ranked import Selection, Weighable
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.stages.write.shares import CutGroups, Groups, SampleGroups, SolveProgramme
from beam_quad.stages.write.summary import Summary
from beam_quad.stages.write.taken import RowWeights, SumTaken
from beam_quad.stages.write.weights import FindBestLeft
from pipelines import recorded, refresh
from pipelines.columns import corpus_columns, query_columns
from pipelines.identity import Identity, identity_of
from pipelines.inputs import Inputs
from pipelines.refresh import Fitted
from pipelines.run_options import RunOptions

S = TypeVar("S", bound=Stage)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A run, ready to be wired.

    Attributes:
      stages: The stages in order.
      plan_path: Where the plan is stored.
      identity: Everything the result depends on, options and contents; an output belongs to one identity.
      plans: Plans to write before the job starts, by path.
      records: Further small files to write before the job starts, by path.
    """

    stages: tuple[Stage, ...]
    plan_path: str
    identity: Identity
    plans: dict[str, InputPlan]
    records: dict[str, bytes]

    def write_plans(self) -> None:
        """Writes the records, and the plans unless they exist."""
        for path, plan in self.plans.items():
            write_plan(path, plan)
        for path, data in self.records.items():
            files.write(path, data)


class Builder:
    """Links the stages of every selection; each stage names its own folder.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.
      reserve_rate: Share of texts to set aside, in (0, 1].
      budget: How much to select.
    """

    def __init__(
        self,
        options: RunOptions,
        inputs: Inputs,
        reserve_rate: float,
        budget: Budget,
    ) -> None:
        self._options = options
        self.inputs = inputs
        self.budget = budget
        self.output = files.absolute(options.output)
        # Versions of further files behind the result, by name.
        self.files: dict[str, str] = {}
        if inputs.excluded is not None:
            self.files["exclude"] = inputs.excluded.excluded.digest
        if inputs.output_tokenizer is not None:
            self.files["output_tokenizer"] = inputs.output_tokenizer.fingerprint
        if inputs.leaks is not None:
            self.files["leaks"] = inputs.leaks.leaks.digest
        if inputs.bounds:
            self.files["shares"] = identity.digest(inputs.bounds)
        self.stages: list[Stage] = []
        self.plans: dict[str, InputPlan] = {}
        base = inputs.base
        self.corpus = self._corpus(reserve_rate if base is None else base.fitted.reserve_rate)
        # The corpus to which clusters, curvature and counts are fitted; a refresh reuses the base's fits.
        self.fitted = self.corpus if base is None or options.refit else self._fitted(base.fitted)
        # If new clusters are opened: the assignment to the base's centers.
        self.old_clusters: AssignClusters | None = None
        drops = options.near_duplicates == "drop"
        self.signs = SignTexts(self.corpus) if drops else None
        self.leaks = FindLeaks(self.corpus, inputs.leaks.leaks) if inputs.leaks else None
        # The corpus for stages whose result depends on which examples can be selected.
        self.within_budget = self.within(self.corpus)
        # Groups of examples by the shares they meet; None without shares.
        self.groups: Groups | None = None
        self.query = self._query()

    def within(self, corpus: Corpus) -> Corpus:
        """Returns a corpus, whole or in part, for a stage whose result depends on which examples can be selected."""
        return corpus.within(self.budget, self.leaks)

    def add(self, stage: S) -> S:
        """Appends a stage to the chain."""
        self.stages.append(stage)
        return stage

    def _corpus(self, rate: float) -> Corpus:
        options, inputs = self._options, self.inputs
        splits = inputs.corpus.splits
        columns = corpus_columns(options, inputs.template)
        reads_tokens = inputs.context_length is not None or not options.tokens_column
        layout = [(s.shard, s.version, s.first_group, s.num_groups) for s in splits]
        corpus = Corpus(
            root=options.artifacts_root,
            plan_path="",
            seen_dir=inputs.seen.folder,
            layout=identity.digest(layout),
            columns=columns,
            tokenizer=inputs.proxy_fingerprint if reads_tokens else None,
            embedder=inputs.embedder,
            embedder_fingerprint=inputs.embedder_fingerprint,
            on_bad_file=options.on_bad_file,
            seed=options.seed,
            reserve_rate=rate,
            excluded=inputs.excluded.excluded if inputs.excluded else None,
            context_length=inputs.context_length,
        )
        return dataclasses.replace(corpus, plan_path=self._plan_path(corpus.folder, inputs.corpus))

    def _fitted(self, fitted: Fitted) -> Corpus:
        path = files.join(self._options.artifacts_root, *fitted.plan.split("/"))
        excluded = Excluded(self.corpus.root, fitted.excluded) if fitted.excluded else None
        return dataclasses.replace(
            self.corpus, layout=fitted.layout, plan_path=path, excluded=excluded
        )

    @property
    def held(self) -> Held | None:
        """Returns the base's examples, if they stay selected; None if everything is selected anew."""
        base = self.inputs.base
        if base is None or self._options.reselect:
            return None
        before = base.manifest["budget"]
        if before["unit"] != self.budget.unit:
            raise UsageError(
                f"--base={base.selection.output} has a budget in {before['unit']}; pass --budget_{before['unit']}"
            )
        # With shares each old row is kept or dropped individually.
        keeps_all = self.budget.amount >= before["amount"] and not self.inputs.bounds
        return Held(base.selection, keeps_all)

    @property
    def fitted_bounds(self) -> tuple[Bound, ...]:
        """Returns the shares for which landmarks are drawn; a refresh keeps those of the first run."""
        base = self.inputs.base
        if base is None or self._options.refit:
            return self.inputs.bounds
        return parse_bounds(base.fitted.shares)

    def prefer(self, held: Held | None, ranking: Ranking, label: str = "") -> Held | None:
        """Adds stages to find the new examples that rank above old ones.

        Args:
          held: The base's examples, which stay selected; None without a base.
          ranking: The ranking regardless of the base.
          label: Suffix of the stages' names.
        """
        if held is None:
            return None
        twice = Cut(self.within_budget, ranking, self.budget, times=2)
        self.stages += twice.stages(f"CutTwice{label}", RANK_LEVELS)
        return dataclasses.replace(held, twice=twice)

    def end(
        self,
        ranking: Any,
        budget: Budget,
        what: str,
        groups: Groups | None = None,
        corpus: Corpus | None = None,
    ) -> SingleCut:
        """Adds stages to find the rank at which the budget ends, within shares if there are any.

        Args:
          ranking: The ranking, a single one; with groups a `ValuedRanking`.
          budget: The budget.
          what: Name of the ranked set, in CapWords.
          groups: The groups of shares; None without shares.
          corpus: The splits covered by the ranking, if not all.
        """
        corpus = corpus or self.within_budget
        if groups is None:
            cut = Cut(corpus, ranking, budget)
            self.stages += cut.stages(what)
            return cut
        sample = self.add(SampleGroups(corpus, ranking, groups, budget, what))
        return self.add(CutGroups(corpus, self.add(SolveProgramme(corpus, sample))))

    def find_near_duplicates(
        self,
        ranking: Ranking,
        budget: Budget,
        held: Held | None,
        corpus: Corpus | None = None,
        num_targets: int = 1,
        compares_all: bool = False,
    ) -> FindNearDuplicates | None:
        """Adds stages to find the examples with a near-duplicate of higher rank.

        Args:
          ranking: The ranking, a single one.
          budget: Where the ranking is cut.
          held: The base's examples, which stay selected in any case; None without a base.
          corpus: The splits covered by the ranking, if not all: the new ones of a refresh.
          num_targets: Number of targets sharing the budget.
          compares_all: Whether all examples are compared, also those far below the cut of the budget.

        Returns:
          The last of these stages, which lists the examples to leave out; None if near-duplicates are kept.
        """
        if self.signs is None:
            return None
        times = COMPARED_BUDGETS * num_targets
        cut = Cut(corpus or self.within_budget, ranking, budget, times)
        self.stages += cut.stages("CutCompared", COMPARED_LEVELS)
        threshold = self._options.near_duplicate_threshold
        compared = Compared(
            self.signs,
            cut,
            threshold,
            held,
            corpus is not None,
            num_targets=num_targets,
            # A share may reach ranks far below the cut of a budget without shares.
            is_all=compares_all or self.groups is not None,
        )
        candidates = self.add(LinkCandidates(self.within_budget, compared))
        found = self.add(FindNearDuplicates(self.within_budget, candidates))
        if compared.is_all:
            return found
        everything = dataclasses.replace(compared, is_all=True)
        candidates = self.add(LinkCandidates(self.within_budget, everything, found))
        return self.add(FindNearDuplicates(self.within_budget, candidates))

    def _plan_path(self, folder: str, plan: InputPlan) -> str:
        # The path and time of a file are not part of its content, so a copied corpus changes only the plan, and all
        # other artifacts are reused. The same holds for the choice of carried columns.
        places = [(split.path, split.found_version) for split in plan.splits]
        options = self._options
        also = [options.ranking_column] * (options.ranking_column is not None)
        also += sorted({bound.condition.column for bound in self.inputs.bounds})
        found = identity.digest(places, options.columns, *also)
        path = files.join(folder, f"plan-{found[:20]}.json.gz")
        self.plans[path] = plan
        return path

    def _query(self) -> tuple[Query, ...]:
        columns = query_columns(self._options, self.inputs.template)
        return tuple(
            self.query_group(
                name, plan, columns, self._options.query_weights[name], self._options.prove
            )
            for name, plan in self.inputs.query.items()
        )

    def query_group(
        self, name: str, plan: InputPlan, columns: Columns, weight: float, sets_aside: bool
    ) -> Query:
        """Names a group of query texts; with `sets_aside`, some measure the selection."""
        root = self._options.artifacts_root
        folder = files.join(root, "query_plan", identity.digest(plan.snapshot, columns)[:20])
        path = self._plan_path(folder, plan)
        return Query(root, name, weight, path, plan.snapshot, columns, sets_aside)

    def embed(self) -> None:
        """Adds the stages of reading: each text is read once for all of them."""
        proxy = self.inputs.proxy
        counts_tokens = proxy is not None and self.corpus.tokenizer is not None
        embedder = self.inputs.embedder
        if isinstance(embedder, StaticSpec) and embedder.table is not None:
            fingerprint = self.inputs.embedder_fingerprint
            self.add(DistilTokens(self.corpus.root, embedder, fingerprint))
        self.add(
            EmbedExamples(
                self.corpus,
                proxy.path if proxy is not None and counts_tokens else None,
                proxy.revision if proxy is not None else None,
                tuple(stage for stage in (self.signs, self.leaks) if stage is not None),
            )
        )
        if self.signs is not None:
            self.add(self.signs)
        if self.corpus.excluded is not None:
            self.add(ForgetTexts(self.corpus.excluded))
        if self.corpus.duplicates_dir is not None:
            self.add(FindDuplicateIds(self.corpus))
        if self.leaks is not None:
            self.add(self.leaks)
        if self.inputs.bounds:
            # Refuses shares before anything is scored, if the corpus cannot meet them.
            patterns = self.add(ReadPatterns(self.corpus, conditions_of(self.inputs.bounds)))
            counted = CountPatterns(self.within_budget, patterns, self.inputs.bounds, self.budget)
            self.groups = Groups(self.add(counted))

    def fit_query(self) -> FitQueryVectors:
        """Fits the curvature and the query vectors."""
        curvature = self._fit_curvature()
        gradients = self.add(SumQueryGradients(self.tracked(), self.query))
        damping = None if curvature is None else self._options.damping
        return self.add(FitQueryVectors(gradients, curvature, damping))

    def _fit_curvature(self) -> AddEigenvalues | Eigendecompose | None:
        options = self._options
        if options.curvature == "identity":
            return None
        sample = self.add(SampleTexts(self.fitted, options.curvature_examples))
        covariances = self.add(
            SumCovariances(self.tracked(), sample, options.curvature_labels, options.seed)
        )
        bases = self.add(Eigendecompose(covariances))
        if options.curvature == "kfac":
            return bases
        return self.add(AddEigenvalues(self.add(SumEigenvalues(bases))))

    def proxy(self) -> ProxyModel:
        """Returns the proxy model.

        Raises:
          UsageError: If there is none.
        """
        if self.inputs.proxy is None or not self._options.needs_proxy:
            raise UsageError("this selection needs --proxy_model: a folder or hub id")
        return ProxyModel(self.inputs.proxy, self.inputs.proxy_fingerprint)

    def embed_query(self) -> EmbedQuery:
        """Embeds the query set.

        Raises:
          UsageError: If nothing is embedded.
        """
        if self.inputs.embedder is None:
            raise UsageError("this selection needs --embedder")
        return self.add(
            EmbedQuery(self.inputs.embedder, self.inputs.embedder_fingerprint, self.query)
        )

    def tracked(self) -> TrackedProxy:
        """Returns the proxy model with its tracked layers."""
        return TrackedProxy(self.proxy(), self._options.layers)

    def identity(self) -> Identity:
        """Returns everything the result depends on."""
        return identity_of(self._options, self.inputs, self.files, self.corpus)

    def summary(self, **facts: Any) -> Summary:
        """Makes the summary of the run; `facts` are further fields of `Summary`."""
        run = self.identity()
        return Summary(
            config=run.config,
            configuration=run.configuration,
            fingerprints=run.fingerprints,
            corpus=self.within_budget,
            output=self.output,
            budget=self.budget,
            fitted=self.fitted,
            passed_over=self.inputs.corpus.passed_over,
            leaks=self.leaks,
            **facts,
        )

    def finish(
        self,
        selection: Selection,
        summary: Summary,
        weights: RowWeights | None = None,
        scores: RowAlignedStage | None = None,
        influence: InfluenceByRow | None = None,
        evidence: str | None = None,
    ) -> Chain:
        """Adds stages to weight and write a selection, and makes the chain.

        Args:
          selection: The selected rows; with `--weighted` it must be `Weighable`, or `weights` must be given.
          summary: Makes the manifest and the report; its stages are filled in here.
          weights: Weights the selection with `--weighted`; None for weights of the first order.
          scores: The scores of a list of examples, for later runs based on this one.
          influence: The influence of examples, if it is known or predicted row by row.
          evidence: Path of the scores of bandits, for later runs based on this one.

        Raises:
          UsageError: If the artifacts fitted by a base are missing.
        """
        options = self._options
        # Weights of the second order come with the selection. All others follow from where its budget ends.
        if not options.weighted:
            weights = None
        elif weights is None:
            if not isinstance(selection, Weighable):
                raise UsageError("--weighted needs a selection by influence, which this is not")
            taken = self.add(SumTaken(self.within_budget, selection))
            weights = self.add(FindBestLeft(self.within_budget, taken))
        changes: CompareWithBase | None = None
        drift: MeasureDrift | None = None
        bases: tuple[dict[str, str], ...] = ()
        if self.inputs.base is not None:
            # Missing fits would be made anew, on texts that may be gone: the user decides, with --refit.
            self._check_fitted()
            base, bases = self.inputs.base.selection, tuple(self.inputs.base.chain)
            changes = self.add(CompareWithBase(self.within_budget, selection, base))
            # Drift is measured in the base's clusters, not in those opened for the new documents.
            documents = ClustersAndInfluence(self.old_clusters or summary.clusters, influence)
            reference = self.add(MeasureReference(self.corpus, base, documents))
            grows = options.grow_clusters
            drift = self.add(MeasureDrift(self.within_budget, reference, selection, grows))
        paraphrases = self._flag_paraphrases(selection)
        # The last stage makes the report, so it is told of the stages before it.
        stages = tuple((stage.name, stage.clock) for stage in self.stages)
        write = self.add(
            WriteSelection(
                self.within_budget,
                selection,
                self.output,
                options.output_format,
                self.budget,
                dataclasses.replace(
                    summary,
                    stages=stages,
                    paraphrases=paraphrases,
                    changes=changes,
                    drift=drift,
                    bases=bases,
                ),
                weights,
                changes,
                options.reselect,
                options.decisions,
                *(self.inputs.output_tokenizer or (None, None))[:2],
            )
        )
        # A later run has another corpus, and so other names of folders: it finds these fits by this record.
        fitted = refresh.record_of(
            refresh.Fitted(
                self.fitted.layout,
                self._relative(self.fitted.plan_path),
                self.corpus.reserve_rate,
                self.fitted.excluded.digest if self.fitted.excluded else None,
                tuple(bound.text for bound in self.fitted_bounds),
            ),
            self._relative(self.corpus.plan_path),
            None if scores is None else self._relative(scores.rows_folder),
            self._grown_centers(summary.clusters),
            None if evidence is None else self._relative(evidence),
        )
        return Chain(
            tuple(self.stages),
            self.corpus.plan_path,
            dataclasses.replace(self.identity(), selection=write.digest),
            self.plans,
            self.inputs.unwritten
            | {
                recorded.path_of(self.output): recorded.to_bytes(options, self.inputs.bounds),
                refresh.record_path(self.output): fitted,
            },
        )

    def _flag_paraphrases(self, selection: Selection) -> FlagParaphrases | None:
        """Compares the selection with forbidden texts, if texts are embedded and paraphrases can be recognised."""
        inputs = self.inputs
        if self.leaks is None or inputs.embedder is None:
            return None
        items = EmbedItems(inputs.embedder, inputs.embedder_fingerprint, self.leaks.leaks)
        return self.add(FlagParaphrases(self.within_budget, selection, self.add(items)))

    def _relative(self, path: str) -> str:
        """Makes a path relative to the folder of artifacts, which may move."""
        return path.removeprefix(self._options.artifacts_root).replace("\\", "/").lstrip("/")

    def _grown_centers(self, clusters: AssignClusters | None) -> list[str] | None:
        """Returns kind and name of centers with new clusters, which later runs cannot derive from the fitted corpus."""
        if clusters is None or isinstance(clusters.centers, FitCenters):
            return None
        if isinstance(clusters.centers, GrowCenters | StoredCenters):
            return clusters.centers.identity()
        raise TypeError(f"{clusters.centers!r} has no name that another run could find it by")

    def _check_fitted(self) -> None:
        """Refuses to refit artifacts of the base unless the user asked for that."""
        for stage in self.stages:
            is_fit = getattr(stage, "corpus", None) is self.fitted
            if is_fit and self.fitted is not self.corpus and not files.exists(stage.artifact):
                raise UsageError(
                    f"{stage.artifact}, which --base was made with, is gone; pass --refit to fit anew, or drop --base"
                )
