"""Every stage of a selection, without Beam: what it reads, what it does with each piece, and what it writes."""

from beam_quad.stages.base import ModelTask, Task, run_in_process
from beam_quad.stages.clusters.cluster import AssignClusters, FitCenters
from beam_quad.stages.distillation.allocate import PlayRounds
from beam_quad.stages.distillation.interactions import InteractLandmarks
from beam_quad.stages.distillation.landmarks import DrawLandmarks, GatherLandmarks, ScoreLandmarks
from beam_quad.stages.distillation.propagate import FitPropagation, Propagate
from beam_quad.stages.distillation.second_order import GatherShortlist, SolveSecondOrder
from beam_quad.stages.distillation.sketch import CompareSketches, SketchLandmarks
from beam_quad.stages.influence.calibrate import CalibrateScoring
from beam_quad.stages.influence.curvature import (
    Eigendecompose,
    FitQueryVectors,
    SumCovariances,
    SumEigenvalues,
)
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.quad.candidates import CountBlocks, GatherCandidates
from beam_quad.stages.quad.rounds import Bandit, RunRound
from beam_quad.stages.quad.select import CutBlocks
from beam_quad.stages.quad.within_clusters import FitWithinClusters, PredictWithinClusters
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.deduplicate import FindDuplicateIds
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.texts import Query, SampleTexts
from beam_quad.stages.write.budget import CutBudget
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.stages.write.weigh import FindBestLeft, SumTaken

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
    "SumCovariances",
    "SumEigenvalues",
    "SumTaken",
    "Task",
    "WriteSelection",
    "run_in_process",
]
