"""Flags to objects: the chain of Quad's stages."""

import dataclasses
from typing import Any, TypeVar

from beam_quad.bandit import ACCEPTANCES, Accepts, QuadPolicy
from beam_quad.clustering import default_num_clusters
from beam_quad.corpus.splits import InputPlan
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters
from beam_quad.stages.influence.calibrate import CalibrateScoring
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.influence.score import (
    DSIRScoring,
    HighestScore,
    InfluenceScoring,
    MiddleScore,
    PerplexityScoring,
    Preference,
    Random,
    Resampled,
    ScoreExamples,
    Scoring,
)
from beam_quad.stages.quad.blocks import CountBlocks, CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.finished import FinishedBandit
from beam_quad.stages.quad.regressions import FitWithinClusters, Pulled
from beam_quad.stages.quad.rounds import Bandit, CombinedVectors, RunRound
from beam_quad.stages.quad.select import (
    BanditSelection,
    BlockSelection,
    CutBlocks,
    ExampleSelection,
)
from beam_quad.stages.quad.within_clusters import (
    PredictedInfluence,
    PredictWithinClusters,
    PropagatedSelection,
)
from beam_quad.stages.write.budget import Cut
from beam_quad.stages.write.ranked import EqualClusters, Preferred, RankedSelection
from pipelines.builder import Builder, Chain, num_candidates, reserve_rate
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions, why_exact
from pipelines.run_options import SAMPLES_PER_PULL

R = TypeVar("R", bound=Preference)


def build(options: QuadOptions, inputs: Inputs, scoring: Scoring | None = None) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: What `look` found.
      scoring: What scores the pulls, in place of influence; then no curvature is fitted.

    Returns:
      The chain; nothing is written yet.
    """
    return _QuadBuilder(options, inputs, scoring).build()


def share_set_aside(options: QuadOptions, plan: InputPlan) -> float:
    """The share of texts that a run sets aside; all if pulls score whole blocks."""
    rule = ACCEPTANCES[options.acceptance]
    if rule.pulls(options.samples_per_pull, options.blocks_per_cluster).is_census:
        return 1.0
    clusters = options.num_clusters or default_num_clusters(max(1, plan.num_rows))
    samples = options.samples_per_pull or SAMPLES_PER_PULL
    wanted = num_candidates(clusters, options.blocks_per_cluster, samples)
    return reserve_rate(plan, options.reserve_examples, wanted)


class _QuadBuilder(Builder):
    """Links the stages that a policy needs."""

    def __init__(self, options: QuadOptions, inputs: Inputs, scoring: Scoring | None) -> None:
        rate = share_set_aside(options, inputs.corpus)
        super().__init__(
            options, inputs, rate, options.query_weights, Budget(options.budget_tokens)
        )
        self.options = options
        self.scoring = scoring

    def build(self) -> Chain:
        options = self.options
        self.embed()
        clusters = self._cluster() if options.needs_embeddings else None
        if clusters is not None and options.policy == "quad":
            return self._quad(clusters)
        return self._baseline(clusters)

    def _cluster(self) -> AssignClusters:
        options = self.options
        centers = self.add(FitCenters(self.corpus, options.num_clusters, options.max_cluster_share))
        return self.add(AssignClusters(self.corpus, centers))

    def _quad(self, clusters: AssignClusters) -> Chain:
        options = self.options
        policy = self._policy()
        pulls = policy.rule.pulls(options.samples_per_pull, options.blocks_per_cluster)
        blocks = self.add(CountBlocks(self.corpus, clusters, pulls))
        candidates = self.add(GatherCandidates(self.corpus, blocks))
        scoring, vectors = self._scoring()
        passed_over = self.add(CountPassedOver(self.within_budget, clusters, blocks))
        weights = tuple(group.weight for group in self.query) or (1.0,)
        bandit = Bandit(policy, candidates, passed_over, scoring, options.scoring, weights)
        calibration = self._play(bandit, vectors)
        pulled = Pulled(bandit, policy.num_rounds + 1)
        finished = FinishedBandit(self._selection(policy.rule.accepts, pulled))
        summary = self.summary(
            title="Quad selection",
            policy=f"quad: bandit over clusters, {options.acceptance} acceptance",
            query=self.query if vectors is not None else (),
            vectors=vectors,
            texts=vectors,
            clusters=clusters,
            bandit=finished,
            calibration=calibration,
        )
        return self.finish(finished.selection, summary)

    def _play(self, bandit: Bandit, vectors: FitQueryVectors | None) -> CalibrateScoring | None:
        """Adds the pilot, the stage that says how the rounds after it score, and these rounds."""
        num_rounds = bandit.policy.num_rounds
        if vectors is None or not isinstance(bandit.scoring, InfluenceScoring):
            for number in range(num_rounds + 1):
                self.add(RunRound(bandit, number, bandit.scoring, None))
            return None
        combined = None
        scoring = bandit.scoring
        if len(bandit.weights) > 1:
            combined = CombinedVectors(bandit, vectors.vectors)
            scoring = dataclasses.replace(scoring, vectors=combined)
        self.add(RunRound(bandit, 0, bandit.scoring, combined))
        if not num_rounds:
            return None
        groups = tuple(group.name for group in self.query)
        reason, is_asked_for = why_exact(self.options), bandit.way == "two_forwards"
        calibration = self.add(
            CalibrateScoring(bandit, scoring, groups, vectors.halves, reason, is_asked_for)
        )
        if reason is None:
            scoring = dataclasses.replace(scoring, calibration=calibration)
        for number in range(1, num_rounds + 1):
            self.add(RunRound(bandit, number, scoring, combined))
        return calibration

    def _selection(self, accepts: Accepts, pulled: Pulled) -> BanditSelection:
        """Adds the stages that follow the rounds, and makes the selection: the only place where rules part ways."""
        match accepts:
            case Accepts.BLOCKS:
                return BlockSelection(self.add(CutBlocks(self.within_budget, pulled)))
            case Accepts.EXAMPLES:
                return ExampleSelection(self.add(CutBlocks(self.within_budget, pulled)))
            case Accepts.PREDICTIONS:
                fit = self.add(FitWithinClusters(self.corpus, pulled))
                predictions = self.add(PredictWithinClusters(self.corpus, fit))
                preference = PredictedInfluence(predictions, self.options.tau)
                return PropagatedSelection(*self._cut(preference))

    def _cut(self, preference: R) -> tuple[Preferred[R], Cut]:
        """Adds the stages that cut the budget over a ranking."""
        ranking = Preferred(self.within_budget, preference)
        cut = Cut(self.within_budget, ranking, self.budget)
        self.stages += cut.stages("CutRanking")
        return ranking, cut

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

    def _scoring(self) -> tuple[Scoring, FitQueryVectors | None]:
        """Adds the stages that fit what influence is, unless something else scores; returns that, and its vectors."""
        if self.scoring is not None:
            return self.scoring, None
        vectors = self.fit_query()
        return InfluenceScoring(self.tracked(), vectors.vectors, self.options.normalize), vectors

    def _baseline(self, clusters: AssignClusters | None) -> Chain:
        policy = self.options.policy
        facts: dict[str, Any] = {"clusters": clusters}
        preference: Preference
        if policy == "random":
            preference = Random(self.options.seed)
        elif clusters is not None:
            # Diversity alone, the one baseline that clusters.
            passed_over = self.add(CountPassedOver(self.within_budget, clusters, None))
            preference = EqualClusters(clusters, passed_over)
        elif policy == "perplexity":
            facts["scores"] = self._score(PerplexityScoring(self.proxy()))
            preference = MiddleScore(facts["scores"])
        elif policy == "dsir":
            facts["texts"] = self.add(CountNgrams(self.corpus, self.query))
            facts["scores"] = self._score(DSIRScoring(facts["texts"]))
            preference = Resampled(facts["scores"])
        else:
            if len(self.query) > 1:
                raise UsageError(
                    "--policy=influence_top_k ranks by one query group; pass --query, or --policy=quad"
                )
            scoring, vectors = self._scoring()
            if vectors is not None:
                facts |= {"query": self.query, "vectors": vectors, "texts": vectors}
            facts["scores"] = self._score(scoring)
            preference = HighestScore(facts["scores"])
        selection = RankedSelection(*self._cut(preference), clusters)
        title = f"Baseline selection: {policy}"
        return self.finish(selection, self.summary(title=title, policy=policy, **facts))

    def _score(self, scoring: Scoring) -> ScoreExamples:
        return self.add(ScoreExamples(self.corpus, scoring))
