"""Builds the chain of a shortlist: n-grams rank all documents, influence decides among the best."""

from beam_quad.stages.influence.known import KnownScores
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.quad.shortlist import (
    JointRank,
    RankShortlist,
    Shortlist,
    ShortlistSelection,
)
from beam_quad.stages.write.preference import HighestScore
from beam_quad.stages.write.ranked import Preferred
from beam_quad.stages.write.shares import CutGroups
from beam_quad.stages.write.shown import ShowScores
from pipelines.builder import Chain
from pipelines.quad_builder import QuadBuilder


class ShortlistBuilder(QuadBuilder):
    """Links the stages of a shortlist."""

    def build(self) -> Chain:
        """Ranks all documents by n-grams, scores the influence of the best, and selects by both."""
        self.embed()
        options, weights, clusters = self.options, self.group_weights, self.cluster()
        # N-grams are cheap enough for every document, influence only for the few that they put first.
        ngrams, _ = self.score_ngrams("ScoreNgrams")
        # Near-duplicates are dropped before scoring, or they would take up the list.
        listed, list_cut = self.cut(
            HighestScore(ngrams), options.shortlist_budget, "CutShortlist", stays=self.held
        )
        known = self._known()
        shortlist = Shortlist(listed, list_cut, known, reads_old=options.reselect)
        scoring, vectors = self.fit_scoring()
        influence = self.add(
            ScoreExamples(self.corpus, scoring, weights, shortlist, known, "ScoreShortlist")
        )
        ranks = self.add(RankShortlist(self.corpus, influence, ngrams))
        preference = JointRank(ranks)
        held = self.prefer(self.held, Preferred(self.within_budget, preference))
        ranking = Preferred(self.within_budget, preference, held, groups=self.groups)
        groups = self.capped(clusters, ranking, self.budget)
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
