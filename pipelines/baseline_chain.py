"""Builds the chain of a baseline: one ranking of all documents, by the name of its policy."""

import dataclasses
from collections.abc import Callable
from typing import Any

from beam_quad.errors import IntegrityError, UsageError
from beam_quad.gradients.tuning import Tuning
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.query import CountQueryClusters
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.score import (
    DSIRScoring,
    LossDropScoring,
    PerplexityScoring,
    ScoreExamples,
)
from beam_quad.stages.influence.score_column import ReadScoreColumn
from beam_quad.stages.influence.similarity import ScoreSimilarity
from beam_quad.stages.influence.tuned import TuneProxy
from beam_quad.stages.quad.blocks import CountPassedOver
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
from beam_quad.stages.write.ranked import Preferred, RankedSelection
from beam_quad.stages.write.shares import CutGroups
from beam_quad.stages.write.shown import ShowScores
from pipelines.builder import Chain
from pipelines.quad_builder import QuadBuilder


class BaselineBuilder(QuadBuilder):
    """Links the stages of a baseline."""

    def build(self) -> Chain:
        """Ranks all documents by the policy, and selects the first."""
        self.embed()
        clusters = self.cluster() if self.options.needs_clusters else None
        policy = self.options.policy
        baseline = _BASELINES[policy](self, clusters)
        held = self.prefer(self.held, Preferred(self.within_budget, baseline.preference))
        ranking, cut = self.cut(baseline.preference, held=held)
        selection = RankedSelection(ranking, cut, clusters)
        facts = baseline.facts | {"shares": cut if isinstance(cut, CutGroups) else None}
        influence: ScoreExamples | None = None
        if isinstance(baseline.preference, HighestInfluence):
            influence = facts["scores"]
            facts["shown"] = self.add(
                ShowScores(self.within_budget, selection, influence, clusters)
            )
        words = policy + (f": {baseline.choice}" if baseline.choice else "")
        summary = self.summary(
            title=f"Baseline selection: {policy}", policy=words, clusters=clusters, **facts
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
        scores = self.score(PerplexityScoring(self.proxy()))
        return _Baseline(MiddleScore(scores), {"scores": scores})

    def _dsir(self, _: AssignClusters | None) -> "_Baseline":
        texts = self.add(CountNgrams(self.fitted, self.query))
        scores = self.score(DSIRScoring(texts))
        return _Baseline(Resampled(scores), {"scores": scores, "texts": texts})

    def _ngram(self, _: AssignClusters | None) -> "_Baseline":
        scores, texts = self.score_ngrams("ScoreExamples")
        return _Baseline(HighestScore(scores), {"scores": scores, "texts": texts})

    def _similarity(self, _: AssignClusters | None) -> "_Baseline":
        choice, texts = self.options.similarity, self.embed_query()
        scores = self.add(ScoreSimilarity(self.corpus, texts, choice))
        facts = {"scores": scores, "texts": texts}
        return _Baseline(HighestScore(scores), facts, f"{choice} cosine to the query set")

    def _loss_drop(self, _: AssignClusters | None) -> "_Baseline":
        tuned = self.add(TuneProxy(self.proxy(), self.query, Tuning(seed=self.options.seed)))
        scores = self.score(LossDropScoring(tuned))
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
        scoring, vectors = self.fit_scoring()
        scores = self.score(scoring)
        facts: dict[str, Any] = {"scores": scores}
        if vectors is not None:
            facts |= {"query": self.query, "vectors": vectors, "texts": vectors}
        return _Baseline(HighestInfluence(scores), facts)


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
_BASELINES: dict[str, Callable[[BaselineBuilder, AssignClusters | None], _Baseline]] = {
    "random": BaselineBuilder._random,
    "perplexity": BaselineBuilder._perplexity,
    "influence_top_k": BaselineBuilder._influence_top_k,
    "cluster_uniform": BaselineBuilder._cluster_uniform,
    "dsir": BaselineBuilder._dsir,
    "ngram": BaselineBuilder._ngram,
    "similarity": BaselineBuilder._similarity,
    "cluster_histogram": BaselineBuilder._cluster_histogram,
    "loss_drop": BaselineBuilder._loss_drop,
    "score_column": BaselineBuilder._score_column,
}


def _required(clusters: AssignClusters | None) -> AssignClusters:
    if clusters is None:
        raise IntegrityError("a policy by clusters runs on a corpus that was not clustered")
    return clusters
