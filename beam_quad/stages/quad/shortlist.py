"""The shortlist: the best examples by a cheap score, selected by influence and that score together.

`beam_quad/shortlist.py` has the method on one page.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from beam_quad.additive import ByName
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.plan.work import TextSizes
from beam_quad.records import Budget, Split
from beam_quad.selection import (
    SHORTLIST_WEIGHTS,
    Amount,
    JointRanks,
    Kept,
    Standing,
    Taken,
    Unselected,
    is_reached,
    keep_ranked,
    reason_number,
)
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.influence.known import KnownScores
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.budget import SingleCut
from beam_quad.stages.write.preference import HighestScore, Preference
from beam_quad.stages.write.ranked import Preferred, why_below
from beam_quad.stages.write.shares import CutGroups

# Below any joint rank: the value of unlisted examples when rows are weighed.
_UNLISTED = -100.0


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """The examples a cheap score ranks highest, by reference.

    Args:
      ranking: The corpus ranked by the cheap score.
      cut: The end of the list in this ranking.
      known: Examples scored by the base, which are listed regardless of rank; None without a base.
      reads_old: Whether other examples of the base's shards are listed, which means reading their texts again.
    """

    ranking: Preferred[HighestScore]
    cut: SingleCut
    known: KnownScores | None = None
    reads_old: bool = True

    def is_listed(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Tells which rows of a split are on the list, bool [n]."""
        is_known = None if self.known is None else self.known.is_scored(split)
        # Known scores cost nothing to use again, so their examples are listed unless they were rejected, leak or are
        # near-duplicates.
        if is_known is not None:
            is_known = is_known & rows.usable
            # These rows may be told apart before leaks are, and what leaks would count in the ranks of all others.
            if (leaks := self.ranking.corpus.leaks) is not None:
                is_known &= ~leaks.holds(rows.keys)
            if self.ranking.near_duplicates is not None:
                is_known[self.ranking.near_duplicates.rows(split)] = False
            if not self.reads_old:
                return np.asarray(is_known)
        packed, _ = self.ranking.packed(split, rows)
        is_listed = is_reached(packed, self.cut.floor(split))
        return is_listed if is_known is None else np.asarray(is_listed | is_known)

    def share_of(self, texts: TextSizes) -> float:
        """Estimates the share of a corpus that is listed, before it is read."""
        return self.cut.budget.share(texts.documents, texts.tokens)

    def num_listed(self) -> int:
        """Estimates the number of listed examples from the list's share of the corpus."""
        corpus = self.cut.corpus
        share = self.cut.budget.share(corpus.num_usable(), corpus.totals().tokens)
        return math.ceil(share * corpus.num_usable())


@dataclasses.dataclass(frozen=True)
class RankShortlist(SplitStage):
    """Counts the scores of the shortlist, which give the ranks of both scores.

    Takes splits and gives `JointRanks`.

    Args:
      corpus: The corpus.
      influence: Influence of the shortlist.
      ngrams: The cheap score, of every example.
      weights: Weights of influence and of the cheap score.
    """

    kind = "joint_ranks"
    artifact_name = "joint_ranks.npz"

    influence: ScoreExamples
    ngrams: ScoreExamples
    weights: tuple[float, float] = SHORTLIST_WEIGHTS

    def do(self, piece: Split, model: Any) -> JointRanks:
        return JointRanks.of(self._scores(piece))

    def finish(self, total: JointRanks | None) -> None:
        files.write_once(self.artifact, (total or JointRanks.zero(2)).to_bytes())

    @once_per_process
    def load(self) -> JointRanks:
        """Loads the counts, once per process."""
        return JointRanks.from_bytes(files.read_bytes(self.artifact))

    def read(self, split: Split) -> np.ndarray:
        """Ranks the rows of a split, float64 [n]; nan for rows off the list or without a finite score."""
        return self.load().rank(self._scores(split), self.weights)

    def _scores(self, split: Split) -> list[np.ndarray]:
        # Scores of the base are stored for all of its list, of which some leak or are near-duplicates now.
        is_listed = self.influence.wanted(split, self.corpus.rows(split))
        influence = np.where(is_listed, self.influence.read(split), np.nan)
        return [influence, self.ngrams.read(split)]


@dataclasses.dataclass(frozen=True)
class JointRank(Preference):
    """The highest joint rank first.

    Args:
      ranks: The ranks.
    """

    unit: ClassVar[str] = "joint rank"

    ranks: RankShortlist

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return self.ranks.read(split)

    def influence(self, split: Split) -> np.ndarray | None:
        return self.ranks.influence.read(split)


@dataclasses.dataclass(frozen=True)
class FindHeavyClusters(SplitStage):
    """Finds the clusters whose selectable tokens exceed the cap of a cluster.

    Takes splits and gives `Amount`s by cluster.

    Args:
      corpus: The corpus, within the budget.
      clusters: Its clusters.
      ranking: The ranking of the selectable examples.
      budget: The budget.
      cap: The largest share of the budget from one cluster.
    """

    kind = "heavy_clusters"
    artifact_name = "heavy.json"

    clusters: AssignClusters
    ranking: Preferred[Preference]
    budget: Budget
    cap: float

    def do(self, piece: Split, model: Any) -> ByName[Amount]:
        rows = self.corpus.rows(piece)
        packed, _ = self.ranking.packed(piece, rows)
        clusters, _ = self.clusters.read(piece)
        # Only selectable examples count: a cluster with less than the cap of them cannot exceed it.
        at = np.flatnonzero(packed > 0)
        found, own = np.unique(clusters[at], return_inverse=True)
        tokens = np.bincount(own, weights=rows.tokens[at]).astype(np.int64).tolist()
        numbers = zip(found.tolist(), np.bincount(own).tolist(), tokens, strict=True)
        return ByName({str(c): Amount(number, total) for c, number, total in numbers})

    def finish(self, total: ByName[Amount] | None) -> None:
        held = np.zeros(self.clusters.centers.load().num_clusters, np.int64)
        for cluster, amount in (total or ByName()).named.items():
            held[int(cluster)] = amount.tokens
        budget = self.budget.exact()
        # The base may leave nothing free, of which no cluster takes too much.
        most = max(1, math.floor(self.cap * budget)) if budget else np.inf
        heavy = np.flatnonzero(held > most)
        write_json(self.artifact, {"clusters": heavy.tolist()})

    @once_per_process
    def load(self) -> np.ndarray:
        """Loads the clusters' ids, ascending, int64 [m], once per process."""
        return np.array(read_json(self.artifact)["clusters"], np.int64)


@dataclasses.dataclass(frozen=True)
class ShortlistSelection:
    """The examples of the shortlist with the highest joint rank.

    Args:
      shortlist: The shortlist.
      ranking: The shortlist ranked by joint rank.
      cut: The cut of the budget in the ranking.
      clusters: The clusters.
    """

    shortlist: Shortlist
    ranking: Preferred[JointRank]
    cut: SingleCut
    clusters: AssignClusters

    @property
    def _ranks(self) -> RankShortlist:
        return self.ranking.preference.ranks

    def keep(self, split: Split, rows: aligned.Rows) -> Kept:
        packed, _ = self.ranking.packed(split, rows)
        unscorable = self.shortlist.is_listed(split, rows) & ~np.isfinite(self._ranks.read(split))
        # A row that stays selected from before is not rejected for a score it no longer has.
        if (held := self.ranking.held) is not None:
            unscorable &= ~held.of(split, rows)
        clusters, _ = self.clusters.read(split)
        influence = self._ranks.influence.read(split)
        kept = keep_ranked(packed, self.cut.floor(split), unscorable, clusters, influence)
        floor = self.shortlist.cut.floor(split)
        return dataclasses.replace(kept, twins=self.shortlist.ranking.twins(split, rows, floor))

    def standing(self, split: Split, rows: aligned.Rows) -> Standing:
        packed, _ = self.ranking.packed(split, rows)
        below = why_below(packed, self.cut, split)
        is_listed = self.shortlist.is_listed(split, rows)
        why = np.where(is_listed, below, reason_number(Unselected.NOT_SHORTLISTED))
        influence, (clusters, _) = self._ranks.influence.read(split), self.clusters.read(split)
        found = Standing.of(len(rows.keys), why, influence, clusters)
        return self.ranking.cut_at(found, packed, self.cut.floor(split))

    def taken(self, split: Split, rows: aligned.Rows) -> Taken:
        """As `Weighable`, by the joint rank; the rest of the corpus ranks below the list."""
        rank = self._ranks.read(split)
        worth = np.where(np.isfinite(rank), rank, _UNLISTED)
        is_candidate = self.ranking.corpus.is_candidate(rows)
        return Taken.by_one_target(worth, self.keep(split, rows), is_candidate)

    def shortfall(self) -> str:
        """Explains why the shortlist does not fill the budget, and names the options that help."""
        facts = self._ranks.influence.facts()
        remedies = ["give a larger corpus", "lower --budget_tokens"]
        if self.shortlist.cut.is_tight():
            remedies.insert(0, "raise --shortlist")
        if isinstance(self.cut, CutGroups):
            remedies[:0] = self.cut.remedies()
        return (
            f"of the shortlist {facts['scored']:,} examples were scored and {facts['unscorable']:,} could not be; "
            f"{', '.join(remedies[:-1])} or {remedies[-1]}"
        )
