"""Builds the chain of Quad's stages from flags."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from beam_quad.bandit import ACCEPTANCES, Accepts, QuadPolicy
from beam_quad.bandit.acceptance import WholeClusters
from beam_quad.clustering import default_num_clusters
from beam_quad.corpus.splits import InputPlan
from beam_quad.errors import IntegrityError, UsageError
from beam_quad.gradients.tuning import Tuning
from beam_quad.records import Budget
from beam_quad.scoring.ngrams import NUM_LOOKED_AT
from beam_quad.selection.shares import asking
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters, HasCenters
from beam_quad.stages.clusters.query import CountQueryClusters
from beam_quad.stages.distillation.landmarks import GatherLandmarks
from beam_quad.stages.influence.compare_halves import CompareHalves
from beam_quad.stages.influence.known import KnownScores
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.influence.score import (
    DSIRScoring,
    InfluenceScoring,
    LossDropScoring,
    NgramScoring,
    PerplexityScoring,
    ScoreExamples,
    Scoring,
)
from beam_quad.stages.influence.score_column import ReadScoreColumn
from beam_quad.stages.influence.similarity import ScoreSimilarity
from beam_quad.stages.influence.token_ngrams import CountTokenNgrams, LookAhead
from beam_quad.stages.influence.tuned import TuneProxy
from beam_quad.stages.quad.blocks import CountBlocks, CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.estimated import (
    AcceptedFirst,
    EstimatedInfluence,
    EstimatedSelection,
    MeanOf,
)
from beam_quad.stages.quad.evidence import GatherEvidence
from beam_quad.stages.quad.finished import FinishedBandit
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.quad.refreshed import RefreshedSelection, SelectedWorth
from beam_quad.stages.quad.regressions import FitWithinClusters, Pulled
from beam_quad.stages.quad.rounds import Bandit, CombinedVectors, RunRound
from beam_quad.stages.quad.select import (
    BanditSelection,
    BlockSelection,
    CutBlocks,
    ExampleSelection,
)
from beam_quad.stages.quad.share_draws import DrawForShares, ScoreShareDraws, ShiftGroups
from beam_quad.stages.quad.shortlist import (
    FindHeavyClusters,
    JointRank,
    RankShortlist,
    Shortlist,
    ShortlistSelection,
)
from beam_quad.stages.quad.within_clusters import (
    PredictedInfluence,
    PredictWithinClusters,
    PropagatedSelection,
)
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.stages.refresh.base import Held
from beam_quad.stages.refresh.drift import ClustersAndInfluence, MeasureReference
from beam_quad.stages.refresh.free import CountFree
from beam_quad.stages.refresh.grow import GrowCenters, StoredCenters
from beam_quad.stages.write.budget import Cut, SingleCut
from beam_quad.stages.write.preference import (
    ClusterHistogram,
    EqualClusters,
    HighestInfluence,
    HighestScore,
    MiddleScore,
    Preference,
    Random,
    Resampled,
)
from beam_quad.stages.write.ranked import Preferred, RankedSelection, Selection
from beam_quad.stages.write.shares import CutGroups, GroupKeys, Groups
from beam_quad.stages.write.shown import ShowScores
from pipelines.builder import Builder, Chain, num_candidates, reserve_rate
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions
from pipelines.refresh import Found
from pipelines.run_options import SAMPLES_PER_PULL

R = TypeVar("R", bound=Preference)


def build(options: QuadOptions, inputs: Inputs, scoring: Scoring | None = None) -> Chain:
    """Builds the chain of stages.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.
      scoring: Scores the pulls in place of influence; no curvature is fitted then.

    Returns:
      The chain; nothing is written yet.
    """
    return _QuadBuilder(options, inputs, scoring).build()


def share_set_aside(options: QuadOptions, plan: InputPlan) -> float:
    """Returns the share of texts to set aside; 1 if pulls score whole blocks."""
    if options.acceptance not in ACCEPTANCES:
        return reserve_rate(plan, options.reserve_examples)
    rule = ACCEPTANCES[options.acceptance]
    if rule.pulls(options.samples_per_pull, options.blocks_per_cluster).is_census:
        return 1.0
    clusters = options.num_clusters or default_num_clusters(max(1, plan.num_rows))
    samples = options.samples_per_pull or SAMPLES_PER_PULL
    wanted = num_candidates(clusters, options.blocks_per_cluster, samples)
    return reserve_rate(plan, options.reserve_examples, wanted)


class _QuadBuilder(Builder):
    """Links the stages of a policy."""

    def __init__(self, options: QuadOptions, inputs: Inputs, scoring: Scoring | None) -> None:
        rate = share_set_aside(options, inputs.corpus)
        super().__init__(options, inputs, rate, Budget(options.budget_tokens))
        self.options = options
        self.scoring = scoring

    def build(self) -> Chain:
        options = self.options
        self.embed()
        clusters = self._cluster() if options.needs_clusters else None
        if clusters is not None and options.policy == "quad":
            return self._shortlist(clusters) if options.is_shortlist else self._quad(clusters)
        return self._baseline(clusters)

    def _cluster(self) -> AssignClusters:
        options, base = self.options, self.inputs.base
        centers: HasCenters
        if base is None or base.centers is None or options.refit:
            centers = self.add(
                FitCenters(self.fitted, options.num_clusters, options.max_cluster_share)
            )
        else:
            centers = StoredCenters(options.artifacts_root, *base.centers)
        clusters = self.add(AssignClusters(self.corpus, centers))
        return clusters if base is None or not options.grow_clusters else self._grow(clusters, base)

    def _grow(self, clusters: AssignClusters, base: Found) -> AssignClusters:
        """Opens clusters for new documents, and assigns all documents to old and new ones."""
        self.old_clusters = clusters
        documents = ClustersAndInfluence(clusters, None)
        reference = self.add(MeasureReference(self.corpus, base.selection, documents))
        centers = self.add(GrowCenters(self.corpus, clusters, reference))
        return self.add(AssignClusters(self.corpus, centers))

    def _quad(self, clusters: AssignClusters) -> Chain:
        """Runs the bandit over the whole corpus or, in a refresh, over the new splits for the free part of the budget."""
        held = self.held
        if held is None:
            policy = self._policy(self.options.budget_tokens)
            blocks = self._count_blocks(policy, self.corpus, clusters, None)
            return self._finish_quad(*self._run_bandit(policy, blocks), clusters)
        tokens, corpus = max(0, self.free_tokens(held.base)), self.added(held.base)
        known = None if self.options.refit else self._evidence()
        played: BanditSelection | None = None
        facts: dict[str, Any] = {}
        evidence = None if known is None else known.path
        if (tokens > self.slack or self.has_new_leaks) and corpus is not None:
            policy = self._policy(tokens)
            own = self.add(AssignClusters(corpus, clusters.centers, "AssignAdded"))
            free = self.add(CountFree(self.within_budget, held, self.budget, self.slack))
            played, facts, evidence = self._run_bandit(
                policy, self._count_blocks(policy, corpus, own, clusters), free
            )
        elif self.options.refit:
            # Later runs based on this one need these artifacts.
            self._scoring()
        # The bandit's choice already excludes near-duplicates, also of the examples kept from the base.
        ranking = Preferred(self.within_budget, SelectedWorth(held.base, played), held)
        cut = Cut(self.within_budget, ranking, self.budget)
        self.stages += cut.stages("CutSelection")
        selection = RefreshedSelection(ranking, cut, clusters, known)
        return self._finish_quad(selection, facts | {"slack": self.slack}, evidence, clusters)

    def _count_blocks(
        self, policy: QuadPolicy, corpus: Corpus, own: AssignClusters, whole: AssignClusters | None
    ) -> CountBlocks:
        options = self.options
        pulls = policy.rule.pulls(options.samples_per_pull, options.blocks_per_cluster)
        return self.add(CountBlocks(corpus, own, pulls, whole))

    def _run_bandit(
        self, policy: QuadPolicy, blocks: CountBlocks, free: CountFree | None = None
    ) -> tuple[BanditSelection, dict[str, Any], str]:
        """Adds the stages of a bandit.

        Returns:
          Its selection, its fields of `Summary`, and the path of all scores up to then.
        """
        corpus, within = blocks.corpus, self.within(blocks.corpus)
        candidates = self.add(GatherCandidates(corpus, blocks))
        scoring, vectors = self._scoring()
        passed_over = self.add(CountPassedOver(within, blocks.clusters, blocks))
        weights = tuple(group.weight for group in self.query) or (1.0,)
        known = None if self.options.refit else self._evidence()
        bandit = Bandit(policy, candidates, passed_over, scoring, weights, known, free)
        halves, last_scoring = self._play(bandit, vectors)
        pulled = Pulled(bandit, policy.num_rounds + 1)
        selection = self._selection(policy.rule.accepts, pulled, within, last_scoring)
        drawn: ScoreShareDraws | None = None
        if isinstance(selection, EstimatedSelection) and selection.ranking.preference.shifts:
            drawn = selection.ranking.preference.shifts.scores
        evidence = self.add(GatherEvidence(bandit, pulled.num_rounds, drawn))
        cut = selection.cut if isinstance(selection, EstimatedSelection) else None
        facts = {
            "query": self.query if vectors is not None else (),
            "vectors": vectors,
            "texts": vectors,
            "bandit": FinishedBandit(selection),
            "halves": halves,
            "shares": cut if isinstance(cut, CutGroups) else None,
        }
        return selection, facts, evidence.artifact

    def _finish_quad(
        self,
        selection: Selection,
        facts: dict[str, Any],
        evidence: str | None,
        clusters: AssignClusters,
    ) -> Chain:
        words = f"quad: bandit over clusters, {self.options.acceptance} acceptance"
        summary = self.summary(title="Quad selection", policy=words, clusters=clusters, **facts)
        return self.finish(selection, summary, evidence=evidence)

    def _evidence(self) -> KnownEvidence | None:
        """Returns the scores of the bandits of the base and of earlier bases."""
        base = self.inputs.base
        if base is None or base.evidence is None:
            return None
        return KnownEvidence(base.selection, self.options.artifacts_root, base.evidence)

    def _shortlist(self, clusters: AssignClusters) -> Chain:
        options = self.options
        weights = tuple(group.weight for group in self.query) or (1.0,)
        # N-grams are cheap enough for every document, influence only for the few that they put first.
        counts = self._count_ngrams()
        ngrams = self._score(self._look_ahead(counts, weights), weights, label="ScoreNgrams")
        # Near-duplicates are dropped before scoring, or they would take up the list.
        listed, list_cut = self._cut(
            HighestScore(ngrams), options.shortlist_budget, "CutShortlist", stays=self.held
        )
        known = self._known()
        shortlist = Shortlist(listed, list_cut, known, reads_old=options.reselect)
        scoring, vectors = self._scoring()
        influence = self.add(
            ScoreExamples(self.corpus, scoring, weights, shortlist, known, "ScoreShortlist")
        )
        ranks = self.add(RankShortlist(self.corpus, influence, ngrams))
        preference = JointRank(ranks)
        held = self.prefer(self.held, Preferred(self.within_budget, preference))
        ranking = Preferred(self.within_budget, preference, held, groups=self.groups)
        groups = self._capped(clusters, ranking, self.budget)
        cut = self.end(ranking, self.budget, "CutRanking", groups)
        selection = ShortlistSelection(shortlist, ranking, cut, clusters)
        shown = self.add(ShowScores(self.within_budget, selection, influence, clusters))
        summary = self.summary(
            title="Shortlist selection",
            policy="shortlist by n-grams of the proxy's tokens, then the joint rank of influence and n-grams",
            query=self.query,
            vectors=vectors,
            texts=vectors,
            clusters=clusters,
            scores=influence,
            shortlist=selection,
            shown=shown,
            shares=cut if isinstance(cut, CutGroups) else None,
        )
        return self.finish(selection, summary, scores=influence, influence=influence)

    def _known(self) -> KnownScores | None:
        """Returns the base's scores of its shortlist; None if vectors are refitted."""
        base, options = self.inputs.base, self.options
        if base is None or options.refit or base.scores is None:
            return None
        return KnownScores(base.selection, options.artifacts_root, base.scores)

    def _count_ngrams(self) -> CountTokenNgrams:
        return self.add(CountTokenNgrams(self.fitted, self.query, self.proxy()))

    def _look_ahead(self, counts: CountTokenNgrams, weights: tuple[float, ...]) -> NgramScoring:
        sample = self.add(SampleTexts(self.fitted, NUM_LOOKED_AT, "SampleFirstLook", "n-grams"))
        return NgramScoring(self.add(LookAhead(counts, sample, weights)))

    def _capped(
        self, clusters: AssignClusters, ranking: Preferred[Preference], budget: Budget
    ) -> Groups | None:
        """Finds the clusters larger than the cap on a cluster, if there is a cap."""
        share = self.options.max_share_per_cluster
        # No cluster can have more than all of the budget, so there is nothing to cap.
        if share >= 1:
            return self.groups
        heavy = self.add(FindHeavyClusters(ranking.corpus, clusters, ranking, budget, share))
        return dataclasses.replace(self.groups or Groups(None), heavy=heavy, cap=share)

    def _play(
        self, bandit: Bandit, vectors: FitQueryVectors | None
    ) -> tuple[CompareHalves | None, Scoring]:
        """Adds the pilot, the stage that compares halves of the query set on it, and the rounds after it.

        Returns:
          The comparison, None if there is none, and the scoring of the rounds.
        """
        combined, scoring, halves = None, bandit.scoring, None
        if vectors is not None and isinstance(scoring, InfluenceScoring):
            groups = tuple(group.name for group in self.query)
            # The pilot of a refresh is too small for this comparison, and its query set is the base's.
            if bandit.candidates.blocks.whole is None:
                halves = CompareHalves(bandit, scoring, groups, vectors.halves)
            if len(bandit.weights) > 1:
                combined = CombinedVectors(bandit, vectors.vectors)
                scoring = dataclasses.replace(scoring, vectors=combined)
        self.add(RunRound(bandit, 0, bandit.scoring, combined))
        if halves is not None:
            self.add(halves)
        for number in range(1, bandit.policy.num_rounds + 1):
            self.add(RunRound(bandit, number, scoring, combined))
        return halves, scoring

    def _selection(
        self, accepts: Accepts, pulled: Pulled, within: Corpus, scoring: Scoring
    ) -> BanditSelection:
        """Adds the stages after the rounds, and makes the selection; acceptance rules differ only here."""
        if self.groups is not None:
            return self._within_shares(accepts, pulled, within, scoring)
        match accepts:
            case Accepts.BLOCKS:
                accepted = BlockSelection(self.add(CutBlocks(within, pulled)))
                return self._filled_up(accepted, self._mean_of_blocks(), within)
            case Accepts.EXAMPLES:
                accepted = ExampleSelection(self.add(CutBlocks(within, pulled)))
                return self._filled_up(accepted, "example", within)
            case Accepts.PREDICTIONS:
                fit = self.add(FitWithinClusters(self.corpus, pulled))
                predictions = self.add(PredictWithinClusters(within.as_read(), fit))
                ranking = Preferred(within, PredictedInfluence(predictions, self.options.tau))
                budget, held = pulled.bandit.budget, self.held
                ranking = dataclasses.replace(
                    ranking,
                    near_duplicates=self.find_near_duplicates(
                        ranking, budget, held, None if held is None else within
                    ),
                )
                cut = Cut(within, ranking, budget)
                self.stages += cut.stages("CutRanking")
                return PropagatedSelection(ranking, cut)

    def _mean_of_blocks(self) -> MeanOf:
        return "cluster" if self.options.acceptance == WholeClusters.name else "block"

    def _filled_up(
        self, accepted: BlockSelection, mean_of: MeanOf, within: Corpus
    ) -> BanditSelection:
        """Adds the stages that leave near-duplicates out of what a bandit accepts, and fill the budget up.

        What is accepted comes first, then other examples by their estimated influence.
        """
        if self.signs is None:
            return accepted
        pulled, held = accepted.pulled, self.held
        preference = EstimatedInfluence(pulled, None, mean_of, self.options.tau)
        first = AcceptedFirst(accepted)
        ranking = Preferred(within, preference, first)
        budget = pulled.bandit.budget
        found = self.find_near_duplicates(
            ranking,
            budget,
            held,
            None if held is None else within,
            # A cap on clusters may ask for examples far below the cut of a budget without it.
            compares_all=self.options.max_share_per_cluster < 1,
        )
        ranking = dataclasses.replace(ranking, near_duplicates=found)
        groups = self._capped(pulled.counted.clusters, ranking, budget)
        cut = self.end(ranking, budget, "CutRanking", groups, within)
        scored = self.add(GroupKeys(within, cut, pulled)) if isinstance(cut, CutGroups) else None
        return EstimatedSelection(ranking, cut, scored, first)

    def _within_shares(
        self, accepts: Accepts, pulled: Pulled, within: Corpus, scoring: Scoring
    ) -> BanditSelection:
        """Adds the stages that select the bandit's best examples within shares."""
        predictions: PredictWithinClusters | None = None
        if accepts is Accepts.PREDICTIONS:
            fit = self.add(FitWithinClusters(self.corpus, pulled))
            predictions = self.add(PredictWithinClusters(within.as_read(), fit))
        mean_of = self._mean_of_blocks() if predictions is None else "cluster"
        preference = EstimatedInfluence(pulled, predictions, mean_of, self.options.tau)
        preference = self._shifted(preference, within, scoring)
        ranking = Preferred(within, preference, groups=self.groups)
        found = self.find_near_duplicates(ranking, self.budget, None, compares_all=True)
        ranking = dataclasses.replace(ranking, near_duplicates=found)
        groups = self._capped(pulled.counted.clusters, ranking, self.budget)
        cut = self.end(ranking, self.budget, "CutRanking", groups)
        if not isinstance(cut, CutGroups):
            raise IntegrityError("a selection within shares has no groups")
        return EstimatedSelection(ranking, cut, self.add(GroupKeys(within, cut, pulled)))

    def _shifted(
        self, preference: EstimatedInfluence, within: Corpus, scoring: Scoring
    ) -> EstimatedInfluence:
        """Adds the stages that score documents of the groups that shares ask for, and corrects the estimates by these."""
        counted = None if self.groups is None else self.groups.counted
        if counted is None or not asking(counted.bounds):
            return preference
        pulled = preference.pulled
        drawn = self.add(DrawForShares(within, pulled, counted))
        gathered = self.add(GatherLandmarks(self.corpus, drawn))
        scores = self.add(ScoreShareDraws(gathered, scoring, pulled.bandit.known))
        shifts = self.add(ShiftGroups(within, scores, preference, pulled, counted))
        return dataclasses.replace(preference, shifts=shifts)

    def _cut(
        self,
        preference: R,
        budget: Budget | None = None,
        what: str = "CutRanking",
        held: Held | None = None,
        stays: Held | None = None,
    ) -> tuple[Preferred[R], SingleCut]:
        """Cuts a budget in a ranking without near-duplicates.

        Args:
          preference: The ranking.
          budget: By default the run's.
          what: Name of the ranked set, in CapWords.
          held: The base's examples, which come first.
          stays: Examples kept despite near-duplicates, although they do not come first.
        """
        budget = budget or self.budget
        ranking = Preferred(self.within_budget, preference, held, groups=self.groups)
        found = self.find_near_duplicates(ranking, budget, held or stays)
        ranking = dataclasses.replace(ranking, near_duplicates=found)
        return ranking, self.end(ranking, budget, what, self.groups)

    def _policy(self, budget_tokens: int) -> QuadPolicy:
        options = self.options
        try:
            return QuadPolicy(
                budget_tokens=budget_tokens,
                # Workers determine the real number, once the corpus is counted.
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
        """Fits influence, unless other scoring is given; returns the scoring and its vectors."""
        if self.scoring is not None:
            return self.scoring, None
        vectors = self.fit_query()
        return InfluenceScoring(self.tracked(), vectors.vectors, self.options.normalize), vectors

    def _baseline(self, clusters: AssignClusters | None) -> Chain:
        policy = self.options.policy
        baseline = _BASELINES[policy](self, clusters)
        held = self.prefer(self.held, Preferred(self.within_budget, baseline.preference))
        ranking, cut = self._cut(baseline.preference, held=held)
        selection = RankedSelection(ranking, cut, clusters)
        facts = baseline.facts | {"shares": cut if isinstance(cut, CutGroups) else None}
        if isinstance(baseline.preference, HighestInfluence):
            scores = facts["scores"]
            facts["shown"] = self.add(ShowScores(self.within_budget, selection, scores, clusters))
        words = policy + (f": {baseline.choice}" if baseline.choice else "")
        summary = self.summary(
            title=f"Baseline selection: {policy}", policy=words, clusters=clusters, **facts
        )
        influence = (
            facts.get("scores") if isinstance(baseline.preference, HighestInfluence) else None
        )
        return self.finish(selection, summary, influence=influence)

    def _random(self, _: AssignClusters | None) -> "_Baseline":
        return _Baseline(Random(self.options.seed))

    def _cluster_uniform(self, clusters: AssignClusters | None) -> "_Baseline":
        clusters = _required(clusters)
        passed_over = self.add(CountPassedOver(self.within_budget, clusters, None))
        return _Baseline(EqualClusters(clusters, passed_over))

    def _cluster_histogram(self, clusters: AssignClusters | None) -> "_Baseline":
        texts = self.embed_query()
        histogram = self.add(CountQueryClusters(texts, _required(clusters)))
        return _Baseline(ClusterHistogram(histogram), {"texts": texts})

    def _perplexity(self, _: AssignClusters | None) -> "_Baseline":
        scores = self._score(PerplexityScoring(self.proxy()))
        return _Baseline(MiddleScore(scores), {"scores": scores})

    def _dsir(self, _: AssignClusters | None) -> "_Baseline":
        texts = self.add(CountNgrams(self.fitted, self.query))
        scores = self._score(DSIRScoring(texts))
        return _Baseline(Resampled(scores), {"scores": scores, "texts": texts})

    def _ngram(self, _: AssignClusters | None) -> "_Baseline":
        texts = self._count_ngrams()
        weights = tuple(group.weight for group in self.query)
        scores = self._score(self._look_ahead(texts, weights), weights)
        return _Baseline(HighestScore(scores), {"scores": scores, "texts": texts})

    def _similarity(self, _: AssignClusters | None) -> "_Baseline":
        choice, texts = self.options.similarity, self.embed_query()
        scores = self.add(ScoreSimilarity(self.corpus, texts, choice))
        facts = {"scores": scores, "texts": texts}
        return _Baseline(HighestScore(scores), facts, f"{choice} cosine to the query set")

    def _loss_drop(self, _: AssignClusters | None) -> "_Baseline":
        tuned = self.add(TuneProxy(self.proxy(), self.query, Tuning(seed=self.options.seed)))
        scores = self._score(LossDropScoring(tuned))
        return _Baseline(HighestScore(scores), {"scores": scores, "texts": tuned})

    def _score_column(self, _: AssignClusters | None) -> "_Baseline":
        column = self.options.score_column or ""
        scores = self.add(ReadScoreColumn(self.corpus, column))
        return _Baseline(HighestScore(scores), {"scores": scores}, column)

    def _influence_top_k(self, _: AssignClusters | None) -> "_Baseline":
        if len(self.query) > 1:
            raise UsageError(
                "--policy=influence_top_k ranks by one query group; pass --query, or --policy=quad"
            )
        scoring, vectors = self._scoring()
        scores = self._score(scoring)
        facts: dict[str, Any] = {"scores": scores}
        if vectors is not None:
            facts |= {"query": self.query, "vectors": vectors, "texts": vectors}
        return _Baseline(HighestInfluence(scores), facts)

    def _score(
        self,
        scoring: Scoring,
        weights: tuple[float, ...] = (1.0,),
        label: str = "ScoreExamples",
    ) -> ScoreExamples:
        return self.add(ScoreExamples(self.corpus, scoring, weights, label=label))


@dataclasses.dataclass(frozen=True)
class _Baseline:
    """The ranking of a baseline.

    Attributes:
      preference: The ranking.
      facts: Fields of `Summary`.
      choice: Further description, for people.
    """

    preference: Preference
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    choice: str = ""


# The policies beside `quad`, by name.
_BASELINES: dict[str, Callable[[_QuadBuilder, AssignClusters | None], _Baseline]] = {
    "random": _QuadBuilder._random,
    "perplexity": _QuadBuilder._perplexity,
    "influence_top_k": _QuadBuilder._influence_top_k,
    "cluster_uniform": _QuadBuilder._cluster_uniform,
    "dsir": _QuadBuilder._dsir,
    "ngram": _QuadBuilder._ngram,
    "similarity": _QuadBuilder._similarity,
    "cluster_histogram": _QuadBuilder._cluster_histogram,
    "loss_drop": _QuadBuilder._loss_drop,
    "score_column": _QuadBuilder._score_column,
}


def _required(clusters: AssignClusters | None) -> AssignClusters:
    if clusters is None:
        raise IntegrityError("a policy by clusters runs on a corpus that was not clustered")
    return clusters
