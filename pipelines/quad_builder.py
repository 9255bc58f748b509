"""Steps that all selections of `beam-quad select` share: clusters, scores, and the cut within caps and shares."""

import dataclasses
from typing import TypeVar

from beam_quad.records import Budget
from beam_quad.scoring.ngrams import NUM_LOOKED_AT
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters, HasCenters
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.influence.score import (
    InfluenceScoring,
    NgramScoring,
    ScoreExamples,
    Scoring,
)
from beam_quad.stages.influence.token_ngrams import CountTokenNgrams, LookAhead
from beam_quad.stages.quad.shortlist import FindHeavyClusters
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.stages.refresh.base import Held
from beam_quad.stages.refresh.drift import ClustersAndInfluence, MeasureReference
from beam_quad.stages.refresh.grow import GrowCenters, StoredCenters
from beam_quad.stages.write.budget import SingleCut
from beam_quad.stages.write.preference import Preference
from beam_quad.stages.write.ranked import Preferred
from beam_quad.stages.write.shares import Groups
from pipelines.builder import Builder
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions
from pipelines.refresh import Found
from pipelines.reserve import share_set_aside

R = TypeVar("R", bound=Preference)


class QuadBuilder(Builder):
    """Links the stages of a selection of `beam-quad select`.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.
      scoring: Scores texts in place of influence; no curvature is fitted then.
    """

    def __init__(self, options: QuadOptions, inputs: Inputs, scoring: Scoring | None) -> None:
        rate = share_set_aside(options, inputs.corpus)
        super().__init__(options, inputs, rate, Budget(options.budget_tokens))
        self.options = options
        self.given_scoring = scoring

    @property
    def group_weights(self) -> tuple[float, ...]:
        """The weight of each query group."""
        return tuple(group.weight for group in self.query) or (1.0,)

    def cluster(self) -> AssignClusters:
        """Assigns all documents to clusters, those of the base if there is one."""
        options, base = self.options, self.inputs.base
        centers: HasCenters
        # Centers that a fit made are found by their name. Only a base that opened clusters has to name its own.
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

    def fit_scoring(self) -> tuple[Scoring, FitQueryVectors | None]:
        """Fits influence, unless other scoring is given; returns the scoring and its vectors."""
        if self.given_scoring is not None:
            return self.given_scoring, None
        vectors = self.fit_query()
        return InfluenceScoring(self.tracked(), vectors.vectors, self.options.normalize), vectors

    def score_ngrams(self, label: str) -> tuple[ScoreExamples, CountTokenNgrams]:
        """Scores all documents by n-grams of the proxy's tokens; returns the scores and the counts.

        The model of n-grams has learned some of what a first look takes.
        """
        counts = self.add(CountTokenNgrams(self.fitted, self.query, self.proxy()))
        sample = self.add(SampleTexts(self.fitted, NUM_LOOKED_AT, "SampleFirstLook", "n-grams"))
        scoring = NgramScoring(self.add(LookAhead(counts, sample, self.group_weights)))
        return self.score(scoring, self.group_weights, label), counts

    def score(
        self,
        scoring: Scoring,
        weights: tuple[float, ...] = (1.0,),
        label: str = "ScoreExamples",
    ) -> ScoreExamples:
        """Scores all documents; `weights` are those of the query groups."""
        return self.add(ScoreExamples(self.corpus, scoring, weights, label=label))

    def capped(
        self, clusters: AssignClusters, ranking: Preferred[Preference], budget: Budget
    ) -> Groups | None:
        """Finds the clusters larger than the cap on a cluster, if there is a cap."""
        share = self.options.max_share_per_cluster
        # No cluster can have more than all of the budget, so there is nothing to cap.
        if share >= 1:
            return self.groups
        heavy = self.add(FindHeavyClusters(ranking.corpus, clusters, ranking, budget, share))
        return dataclasses.replace(self.groups or Groups(None), heavy=heavy, cap=share)

    def distinct(
        self,
        ranking: Preferred[R],
        budget: Budget,
        held: Held | None,
        corpus: Corpus | None = None,
        compares_all: bool = False,
    ) -> Preferred[R]:
        """Returns a ranking without near-duplicates; arguments as for `find_near_duplicates`."""
        found = self.find_near_duplicates(ranking, budget, held, corpus, compares_all=compares_all)
        return dataclasses.replace(ranking, near_duplicates=found)

    def cut(
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
        ranking = self.distinct(ranking, budget, held or stays)
        return ranking, self.end(ranking, budget, what, self.groups)
