"""Effects of new shards: drift, their worth, new clusters, and means of their documents. NumPy and SciPy only."""

from beam_quad.refresh.drift import Drift, Finding, find_drift
from beam_quad.refresh.drift_sums import DriftSums
from beam_quad.refresh.growth import grow_centers, num_new_centers
from beam_quad.refresh.reference import ReferenceSums
from beam_quad.refresh.scorecard import (
    ClusterChange,
    Scorecard,
    VectorSums,
    Worth,
    WorthSums,
    make_scorecard,
    moves,
)
from beam_quad.refresh.scores import ScoreSums
from beam_quad.refresh.sentences import drift_sentences, scorecard_sentences
from beam_quad.refresh.shrinkage import GenerationVariance, NewMeans, allocate_pilot

__all__ = [
    "ClusterChange",
    "Drift",
    "DriftSums",
    "Finding",
    "GenerationVariance",
    "NewMeans",
    "ReferenceSums",
    "ScoreSums",
    "Scorecard",
    "VectorSums",
    "Worth",
    "WorthSums",
    "allocate_pilot",
    "drift_sentences",
    "find_drift",
    "grow_centers",
    "make_scorecard",
    "moves",
    "num_new_centers",
    "scorecard_sentences",
]
