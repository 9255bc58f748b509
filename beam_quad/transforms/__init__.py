"""Beam wiring: every stage of a selection as a transform of its own, and `Stage`, which links them into a chain."""

from beam_quad.transforms.calibrate import CalibrateScoring
from beam_quad.transforms.candidates import CountBlocks, GatherCandidates
from beam_quad.transforms.cluster import AssignClusters, FitCenters
from beam_quad.transforms.corpus import Corpus
from beam_quad.transforms.curvature import (
    Eigendecompose,
    FitQueryVectors,
    SumCovariances,
    SumEigenvalues,
)
from beam_quad.transforms.deduplicate import FindDuplicateIds
from beam_quad.transforms.embed import EmbedExamples
from beam_quad.transforms.ngrams import CountNgrams
from beam_quad.transforms.rounds import Bandit, RunRound
from beam_quad.transforms.score import ScoreExamples
from beam_quad.transforms.select import CutBlocks, CutRanking
from beam_quad.transforms.stage import ModelTask, Stage, SumCombineFn, Task, Token
from beam_quad.transforms.texts import Query, SampleTexts
from beam_quad.transforms.write import WriteSelection

__all__ = [
    "AssignClusters",
    "Bandit",
    "CalibrateScoring",
    "Corpus",
    "CountBlocks",
    "CountNgrams",
    "CutBlocks",
    "CutRanking",
    "Eigendecompose",
    "EmbedExamples",
    "FindDuplicateIds",
    "FitCenters",
    "FitQueryVectors",
    "GatherCandidates",
    "ModelTask",
    "Query",
    "RunRound",
    "SampleTexts",
    "ScoreExamples",
    "Stage",
    "SumCombineFn",
    "SumCovariances",
    "SumEigenvalues",
    "Task",
    "Token",
    "WriteSelection",
]
