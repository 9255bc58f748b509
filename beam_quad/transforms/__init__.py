"""Beam wiring: every stage of a selection as a transform of its own, and `Stage`, which links them into a chain."""

from beam_quad.transforms.allocate import PlayRounds
from beam_quad.transforms.budget import CutBudget
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
from beam_quad.transforms.interactions import InteractLandmarks
from beam_quad.transforms.landmarks import DrawLandmarks, GatherLandmarks, ScoreLandmarks
from beam_quad.transforms.ngrams import CountNgrams
from beam_quad.transforms.propagate import FitPropagation, Propagate
from beam_quad.transforms.rounds import Bandit, RunRound
from beam_quad.transforms.score import ScoreExamples
from beam_quad.transforms.second_order import GatherShortlist, SolveSecondOrder
from beam_quad.transforms.select import CutBlocks
from beam_quad.transforms.sketch import CompareSketches, SketchLandmarks
from beam_quad.transforms.stage import ModelTask, Stage, SumCombineFn, Task, Token
from beam_quad.transforms.texts import Query, SampleTexts
from beam_quad.transforms.weigh import FindBestLeft, SumTaken
from beam_quad.transforms.within_clusters import FitWithinClusters, PredictWithinClusters
from beam_quad.transforms.write import WriteSelection

__all__ = [
    "AssignClusters",
    "Bandit",
    "CalibrateScoring",
    "CompareSketches",
    "Corpus",
    "CountBlocks",
    "CountNgrams",
    "CutBlocks",
    "CutBudget",
    "DrawLandmarks",
    "Eigendecompose",
    "EmbedExamples",
    "FindBestLeft",
    "FindDuplicateIds",
    "FitCenters",
    "FitPropagation",
    "FitQueryVectors",
    "FitWithinClusters",
    "GatherCandidates",
    "GatherLandmarks",
    "GatherShortlist",
    "InteractLandmarks",
    "ModelTask",
    "PlayRounds",
    "PredictWithinClusters",
    "Propagate",
    "Query",
    "RunRound",
    "SampleTexts",
    "ScoreExamples",
    "ScoreLandmarks",
    "SketchLandmarks",
    "SolveSecondOrder",
    "Stage",
    "SumCombineFn",
    "SumCovariances",
    "SumEigenvalues",
    "SumTaken",
    "Task",
    "Token",
    "WriteSelection",
]
