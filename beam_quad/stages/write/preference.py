"""Rankings of a selection without pulls, each a small configuration."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.records import Split
from beam_quad.scoring.dsir import sampling_priority
from beam_quad.selection import even_ranks, nearest_ranks, random_ranks
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.query import CountQueryClusters
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.influence.scored_rows import ScoredRows
from beam_quad.stages.quad.blocks import CountPassedOver


class Preference(abc.ABC):
    """Ranks the examples of a split: higher is taken first, nan never, ties by hash.

    Attributes:
      unit: One word that names what a rank measures.
    """

    unit: ClassVar[str] = "rank"

    @abc.abstractmethod
    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns float64 [n]."""

    def influence(self, split: Split) -> np.ndarray | None:
        """Returns the influence of each row, float64 [n], or None if it was not computed."""
        return None


@dataclasses.dataclass(frozen=True)
class Random(Preference):
    """A uniform draw by hash.

    Args:
      seed: The run's seed.
    """

    seed: int

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return random_ranks(self.seed, rows.keys)


@dataclasses.dataclass(frozen=True)
class HighestScore(Preference):
    """The highest scores first.

    Args:
      scores: The scores.
    """

    unit: ClassVar[str] = "score"

    scores: ScoredRows

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return self.scores.read(split)


@dataclasses.dataclass(frozen=True)
class HighestInfluence(HighestScore):
    """The highest influence first, without clusters: what Quad argues against."""

    unit: ClassVar[str] = "influence"

    def influence(self, split: Split) -> np.ndarray | None:
        return self.scores.read(split)


@dataclasses.dataclass(frozen=True)
class MiddleScore(Preference):
    """The scores nearest to the corpus's median first: the middle band of perplexity.

    Args:
      scores: The scores.
    """

    scores: ScoreExamples

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return nearest_ranks(self.scores.read(split), self.scores.facts()["median"])


@dataclasses.dataclass(frozen=True)
class Resampled(Preference):
    """Importance resampling without replacement: log weight plus Gumbel noise, highest first.

    Args:
      scores: Log weights.
    """

    scores: ScoreExamples

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        return sampling_priority(self.scores.read(split), rows.keys, self.scores.corpus.seed)


@dataclasses.dataclass(frozen=True)
class EqualClusters(Preference):
    """The same tokens from every cluster, as far as it has them: diversity alone.

    Args:
      clusters: The clusters.
      passed_over: Tokens of each cluster that cannot be selected.
    """

    clusters: AssignClusters
    passed_over: CountPassedOver

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        clusters, _ = self.clusters.read(split)
        tokens = self.clusters.sums().tokens
        passed_over = self.passed_over.load()
        if passed_over is not None:
            # Counted in, they would leave their cluster short of its equal part.
            tokens = tokens - passed_over.tokens
        return even_ranks(self.clusters.corpus.seed, rows.keys, clusters, tokens)


@dataclasses.dataclass(frozen=True)
class ClusterHistogram(Preference):
    """A sample without replacement with the query set's histogram of clusters, while clusters last.

    Args:
      counts: The histogram.
    """

    counts: CountQueryClusters

    def rank(self, split: Split, rows: aligned.Rows) -> np.ndarray:
        clusters = self.counts.clusters
        of_rows, _ = clusters.read(split)
        # A rejected row has cluster -1 and reads the last weight; it is ranked but never taken.
        log_weights = self.counts.log_weights()[of_rows]
        return sampling_priority(log_weights, rows.keys, clusters.corpus.seed)
