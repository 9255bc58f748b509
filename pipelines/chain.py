"""Flags to objects: the chain of Quad's stages."""

import dataclasses

from beam_quad.artifacts import files
from beam_quad.bandit import ACCEPTANCES, Accepts, QuadPolicy
from beam_quad.clustering import default_num_clusters
from beam_quad.corpus.splits import InputPlan
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters
from beam_quad.stages.influence import score
from beam_quad.stages.influence.calibrate import CalibrateScoring, calibration_path
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.query_vectors import halves_path
from beam_quad.stages.quad import select
from beam_quad.stages.quad.blocks import CountBlocks, CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.finished import FinishedBandit
from beam_quad.stages.quad.regressions import FitWithinClusters, Pulled
from beam_quad.stages.quad.rounds import Bandit, RunRound
from beam_quad.stages.quad.within_clusters import (
    PredictedInfluence,
    PredictWithinClusters,
    PropagatedSelection,
)
from beam_quad.stages.write.budget import cut_levels
from beam_quad.stages.write.summary import Summary
from pipelines.builder import Builder, Chain, num_candidates, reserve_rate
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions, why_exact
from pipelines.run_options import SAMPLES_PER_PULL


def build(options: QuadOptions, inputs: Inputs, scoring: score.Scoring | None = None) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: What `look` found.
      scoring: What scores the pulls, in place of influence; then no curvature is fitted.

    Returns:
      The chain; nothing is written yet.
    """
    return _QuadBuilder(options, inputs, scoring).build()


def _reserve_rate(options: QuadOptions, plan: InputPlan) -> float:
    """The share of texts to set aside; all if pulls score whole blocks."""
    rule = ACCEPTANCES[options.acceptance]
    if rule.pulls(options.samples_per_pull, options.blocks_per_cluster).is_census:
        return 1.0
    clusters = options.num_clusters or default_num_clusters(max(1, plan.num_rows))
    samples = options.samples_per_pull or SAMPLES_PER_PULL
    wanted = num_candidates(clusters, options.blocks_per_cluster, samples)
    return reserve_rate(plan, options.reserve_examples, wanted)


class _QuadBuilder(Builder):
    """Links the stages that a policy needs."""

    def __init__(self, options: QuadOptions, inputs: Inputs, scoring: score.Scoring | None) -> None:
        rate = _reserve_rate(options, inputs.corpus)
        super().__init__(
            options, inputs, rate, options.query_weights, Budget(options.budget_tokens)
        )
        self.options = options
        self.scoring = scoring

    def build(self) -> Chain:
        options = self.options
        self.embed()
        if options.needs_embeddings:
            self._cluster()
        finished = self._quad() if options.policy == "quad" else None
        selection = self._baseline() if finished is None else finished.selection
        return self.finish(selection, self._summary(finished))

    def _cluster(self) -> None:
        options = self.options
        folder = self.folder(
            "clusters",
            self.corpus_id,
            options.num_clusters,
            options.max_cluster_share,
            options.seed,
        )
        self.folders["clusters"] = folder
        self.folders["assignments"] = files.join(folder, "assignments")
        self.tasks += [
            FitCenters(self.corpus, folder, options.num_clusters, options.max_cluster_share),
            AssignClusters(self.corpus, folder, self.folders["assignments"]),
        ]

    def _quad(self) -> FinishedBandit:
        options = self.options
        policy = self._policy()
        pulls = policy.rule.pulls(options.samples_per_pull, options.blocks_per_cluster)
        blocks = self.folder("blocks", self.folders["clusters"], pulls)
        assignments = self.folders["assignments"]
        self.tasks += [
            CountBlocks(self.corpus, assignments, blocks, pulls),
            GatherCandidates(self.corpus, assignments, blocks),
        ]
        scoring = self.scoring or self._influence()
        weights = tuple(group.weight for group in self.query) or (1.0,)
        # The pilot is scored one way, the rounds after it maybe another.
        ways = (scoring.key, options.scoring)
        folder = self.folder("rounds", blocks, *ways, policy, weights)
        bandit = Bandit(policy, blocks, folder)
        self._pass_over(blocks, folder)
        combined = None
        if len(weights) > 1:
            # Named by the pilot alone, which no budget changes.
            pilot = self.folder("combined", blocks, scoring.key, weights)
            combined = files.join(pilot, "combined.safetensors")
        for number in range(policy.num_rounds + 1):
            if number == 1 and isinstance(scoring, score.InfluenceScoring):
                scoring = self._calibrated(scoring, bandit, combined)
            scores = self.folder("scores", scoring.key)
            self.tasks.append(RunRound(bandit, number, scoring, scores, weights, combined))
        num_rounds = policy.num_rounds + 1
        pulled = Pulled(bandit, num_rounds, assignments)
        return FinishedBandit(bandit, num_rounds, self._selection(policy.rule.accepts, pulled))

    def _selection(self, accepts: Accepts, pulled: Pulled) -> select.BanditSelection:
        """Adds the stages that follow the rounds, and makes the selection: the only place where rules part ways."""
        match accepts:
            case Accepts.BLOCKS:
                return select.BlockSelection(*self._cut_blocks(pulled))
            case Accepts.EXAMPLES:
                return select.ExampleSelection(*self._cut_blocks(pulled))
            case Accepts.PREDICTIONS:
                return self._propagated(pulled)

    def _cut_blocks(self, pulled: Pulled) -> tuple[Bandit, int, str, str]:
        """Adds the stage that cuts the accepted blocks in which the budget ends; returns what it is made of."""
        path = files.join(pulled.bandit.folder, "selection.parquet")
        made_of = (pulled.bandit, pulled.num_rounds, pulled.assignments_dir, path)
        self.tasks.append(select.CutBlocks(self.corpus, *made_of))
        return made_of

    def _pass_over(self, blocks: str | None, folder: str) -> None:
        """Adds the stage that counts what is too long for the budget."""
        assignments = self.folders["assignments"]
        self.tasks.append(CountPassedOver(self.corpus, assignments, blocks, folder))

    def _propagated(self, pulled: Pulled) -> PropagatedSelection:
        """Adds the stages that predict, from the scored examples, which others to take."""
        fit, predictions, cut = (
            files.join(pulled.bandit.folder, name) for name in ("regressions", "predictions", "cut")
        )
        self.tasks += [
            FitWithinClusters(self.corpus, pulled, fit),
            PredictWithinClusters(self.corpus, pulled, fit, predictions),
        ]
        preference = PredictedInfluence(predictions, self.options.tau)
        budget = self._cut(preference, cut)
        return PropagatedSelection(pulled, preference, budget, cut, fit)

    def _cut(self, preference: score.Preference, folder: str) -> Budget:
        """Adds the stages that cut the budget over a ranking; returns the budget."""
        ranking = select.Preferred(preference)
        self.tasks += cut_levels(self.corpus, ranking, self.budget, folder, "CutRanking")
        return self.budget

    def _calibrated(
        self, scoring: score.InfluenceScoring, bandit: Bandit, combined: str | None
    ) -> score.InfluenceScoring:
        """Adds the stage after the pilot, and returns how the rounds that follow score."""
        options = self.options
        weights = [group.weight for group in self.query]
        # Named by the pilot alone, which no budget changes.
        folder = self.folder(
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
                halves_path(self.folders["query"]),
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
        return score.InfluenceScoring(
            proxy=self.proxy(),
            proxy_fingerprint=self.inputs.proxy_fingerprint,
            layers=self.options.layers,
            vectors_path=self.fit_query(),
            normalize=self.options.normalize,
        )

    def _baseline(self) -> select.RankedSelection:
        preference = self._preference()
        folder = self.folder("ranking", self.corpus_id, preference, self.options.budget_tokens)
        budget = self._cut(preference, folder)
        return select.RankedSelection(preference, budget, folder, self.folders.get("assignments"))

    def _preference(self) -> score.Preference:
        policy = self.options.policy
        if policy == "random":
            return score.Random()
        if policy == "cluster_uniform":
            assignments = self.folders["assignments"]
            folder = self.folder("passed_over", assignments, self.budget)
            self._pass_over(None, folder)
            return select.EqualClusters(assignments, folder)
        if policy == "perplexity":
            return score.MiddleScore(
                self._score(score.PerplexityScoring(self.proxy(), self.inputs.proxy_fingerprint))
            )
        if policy == "dsir":
            snapshots = [
                (plan.snapshot, q.text_column)
                for q, plan in zip(self.query, self.inputs.query.values(), strict=True)
            ]
            counts = self.folders["ngrams"] = self.folder("ngrams", self.corpus_id, snapshots)
            self.tasks.append(CountNgrams(self.corpus, self.query, counts))
            return score.Resampled(self._score(score.DSIRScoring(counts)))
        if len(self.query) > 1:
            raise UsageError(
                "--policy=influence_top_k ranks by one query group; pass --query, or --policy=quad"
            )
        return score.HighestScore(self._score(self.scoring or self._influence()))

    def _score(self, scoring: score.Scoring) -> str:
        folder = self.folder("corpus_scores", self.corpus_id, scoring.key)
        self.folders["scores"] = folder
        self.tasks.append(score.ScoreExamples(self.corpus, scoring, folder))
        return folder

    def _summary(self, finished: FinishedBandit | None) -> Summary:
        identity = self.identity()
        policy = self.options.policy
        title = f"Baseline selection: {policy}"
        if finished is not None:
            title = "Quad selection"
            policy = f"quad: bandit over clusters, {self.options.acceptance} acceptance"
        return Summary(
            config=identity.config,
            configuration=identity.configuration,
            fingerprints=identity.fingerprints,
            corpus=self.corpus,
            output=self.output,
            budget=self.budget,
            title=title,
            policy=policy,
            query=self.query if "query" in self.folders else (),
            query_dir=self.folders.get("query"),
            texts_dir=self.folders.get("query") or self.folders.get("ngrams"),
            clusters_dir=self.folders.get("clusters"),
            assignments_dir=self.folders.get("assignments"),
            bandit=finished,
            scores_dir=self.folders.get("scores"),
            calibration_dir=self.folders.get("calibration"),
        )
