"""Builds the chain of Quad's bandit over clusters."""

import dataclasses
from typing import Any

from beam_quad import identity
from beam_quad.bandit import Accepts, QuadPolicy
from beam_quad.bandit.acceptance import WholeClusters
from beam_quad.errors import IntegrityError, UsageError
from beam_quad.selection.shares import asking
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.distillation.landmarks import GatherLandmarks
from beam_quad.stages.influence.compare_halves import CompareHalves
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.influence.score import (
    InfluenceScoring,
    Scoring,
)
from beam_quad.stages.quad.bandit import Bandit
from beam_quad.stages.quad.blocks import CountBlocks, CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.combined import CombinedVectors
from beam_quad.stages.quad.estimated import (
    AcceptedFirst,
    EstimatedInfluence,
    EstimatedSelection,
    MeanOf,
)
from beam_quad.stages.quad.evidence import GatherEvidence
from beam_quad.stages.quad.finished import FinishedBandit
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.quad.pulled import Pulled
from beam_quad.stages.quad.refreshed import RefreshedSelection, SelectedWorth
from beam_quad.stages.quad.regressions import FitWithinClusters
from beam_quad.stages.quad.rounds import RunRound
from beam_quad.stages.quad.select import (
    BanditSelection,
    BlockSelection,
    CutBlocks,
    ExampleSelection,
)
from beam_quad.stages.quad.share_draws import DrawForShares, ScoreShareDraws, ShiftGroups
from beam_quad.stages.quad.within_clusters import (
    PredictedInfluence,
    PredictWithinClusters,
    PropagatedSelection,
)
from beam_quad.stages.read.corpus import Corpus, piece_name
from beam_quad.stages.refresh.base import Base, Held
from beam_quad.stages.refresh.free import CountFree
from beam_quad.stages.write.budget import Cut
from beam_quad.stages.write.ranked import Preferred, Selection
from beam_quad.stages.write.shares import CutGroups, GroupKeys
from pipelines import free_budget
from pipelines.builder import Chain
from pipelines.quad_builder import QuadBuilder
from pipelines.refresh import Found


class BanditBuilder(QuadBuilder):
    """Links the stages of a bandit, over all documents or, in a refresh, over the new ones."""

    def build(self) -> Chain:
        """Runs the bandit over all documents, or goes on from a base."""
        self.embed()
        clusters, held, base = self.cluster(), self.held, self.inputs.base
        if held is not None and base is not None:
            return self._go_on(clusters, held, base)
        policy = self._policy(self.options.budget_tokens)
        blocks = self._count_blocks(policy, self.corpus, clusters, None)
        return self._finish(*self._run_bandit(policy, blocks), clusters)

    def _go_on(self, clusters: AssignClusters, held: Held, base: Found) -> Chain:
        """Keeps what the base selected, and runs the bandit over new splits for the free part of the budget."""
        missed = free_budget.slack(base)
        tokens = max(0, free_budget.free_tokens(self.inputs, base, self.budget))
        # Forbidden texts that are new free a part of the budget of which only the run finds the size.
        has_free = tokens > missed or free_budget.has_new_leaks(self.inputs, base)
        corpus = self._added(held.base)
        known = None if self.options.refit else self._evidence()
        played: BanditSelection | None = None
        facts: dict[str, Any] = {}
        evidence = None if known is None else known.path
        if has_free and corpus is not None:
            policy = self._policy(tokens)
            own = self.add(AssignClusters(corpus, clusters.centers, "AssignAdded"))
            free = self.add(CountFree(self.within_budget, held, self.budget, missed))
            played, facts, evidence = self._run_bandit(
                policy, self._count_blocks(policy, corpus, own, clusters), free
            )
        elif self.options.refit:
            # Later runs based on this one need these artifacts.
            self.fit_scoring()
        # The bandit's choice already excludes near-duplicates, also of the examples kept from the base.
        ranking = Preferred(self.within_budget, SelectedWorth(held.base, played), held)
        cut = Cut(self.within_budget, ranking, self.budget)
        self.stages += cut.stages("CutSelection")
        selection = RefreshedSelection(ranking, cut, clusters, known)
        return self._finish(selection, facts | {"slack": missed}, evidence, clusters)

    def _added(self, base: Base) -> Corpus | None:
        """Returns the corpus of the splits new since the base; None if there are none."""
        plan = self.inputs.corpus
        new = tuple(split for split in plan.splits if not base.has(split))
        if not new:
            return None
        path = self._plan_path(self.corpus.folder, dataclasses.replace(plan, splits=new))
        part = identity.digest([piece_name(split) for split in new])
        return dataclasses.replace(self.corpus, part=part, part_path=path)

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
        scoring, vectors = self.fit_scoring()
        passed_over = self.add(CountPassedOver(within, blocks.clusters, blocks))
        weights = self.group_weights
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

    def _finish(
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
                preference = PredictedInfluence(self._predict(pulled, within), self.options.tau)
                ranking, budget = Preferred(within, preference), pulled.bandit.budget
                held = self.held
                ranking = self.distinct(ranking, budget, held, None if held is None else within)
                return PropagatedSelection(
                    ranking, self.end(ranking, budget, "CutRanking", corpus=within)
                )

    def _predict(self, pulled: Pulled, within: Corpus) -> PredictWithinClusters:
        fit = self.add(FitWithinClusters(self.corpus, pulled))
        return self.add(PredictWithinClusters(within.as_read(), fit))

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
        budget = pulled.bandit.budget
        ranking = self.distinct(
            Preferred(within, preference, first),
            budget,
            held,
            None if held is None else within,
            # A cap on clusters may ask for examples far below the cut of a budget without it.
            compares_all=self.options.max_share_per_cluster < 1,
        )
        groups = self.capped(pulled.counted.clusters, ranking, budget)
        cut = self.end(ranking, budget, "CutRanking", groups, within)
        scored = self.add(GroupKeys(within, cut, pulled)) if isinstance(cut, CutGroups) else None
        return EstimatedSelection(ranking, cut, scored, first)

    def _within_shares(
        self, accepts: Accepts, pulled: Pulled, within: Corpus, scoring: Scoring
    ) -> BanditSelection:
        """Adds the stages that select the bandit's best examples within shares."""
        predictions: PredictWithinClusters | None = None
        if accepts is Accepts.PREDICTIONS:
            predictions = self._predict(pulled, within)
        mean_of = self._mean_of_blocks() if predictions is None else "cluster"
        preference = EstimatedInfluence(pulled, predictions, mean_of, self.options.tau)
        preference = self._shifted(preference, within, scoring)
        ranking = Preferred(within, preference, groups=self.groups)
        ranking = self.distinct(ranking, self.budget, None, compares_all=True)
        groups = self.capped(pulled.counted.clusters, ranking, self.budget)
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
