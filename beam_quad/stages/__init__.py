"""Every stage of a selection, without Beam: what it reads, what it does with each piece, and what it writes."""

from beam_quad.stages.base import ModelStage, Stage, run_in_process
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters
from beam_quad.stages.clusters.query import CountQueryClusters
from beam_quad.stages.distillation.allocate import TakeTurns
from beam_quad.stages.distillation.compare_sketches import CompareSketches
from beam_quad.stages.distillation.draw_landmarks import DrawLandmarks
from beam_quad.stages.distillation.fit_propagation import FitPropagation
from beam_quad.stages.distillation.interactions import InteractLandmarks
from beam_quad.stages.distillation.landmarks import GatherLandmarks
from beam_quad.stages.distillation.propagate import Propagate
from beam_quad.stages.distillation.score_landmarks import ScoreLandmarks
from beam_quad.stages.distillation.second_order import SolveSecondOrder
from beam_quad.stages.distillation.shortlist import GatherShortlist
from beam_quad.stages.distillation.sketch import SketchLandmarks
from beam_quad.stages.influence.compare_halves import CompareHalves
from beam_quad.stages.influence.covariances import SumCovariances
from beam_quad.stages.influence.eigenvalues import AddEigenvalues, Eigendecompose, SumEigenvalues
from beam_quad.stages.influence.ngrams import CountNgrams
from beam_quad.stages.influence.query_vectors import FitQueryVectors, SumQueryGradients
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.influence.score_column import ReadScoreColumn
from beam_quad.stages.influence.similarity import ScoreSimilarity
from beam_quad.stages.influence.tuned import TuneProxy
from beam_quad.stages.quad.bandit import Bandit
from beam_quad.stages.quad.blocks import CountBlocks
from beam_quad.stages.quad.candidates import GatherCandidates
from beam_quad.stages.quad.regressions import FitWithinClusters
from beam_quad.stages.quad.rounds import RunRound
from beam_quad.stages.quad.select import CutBlocks
from beam_quad.stages.quad.within_clusters import PredictWithinClusters
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.deduplicate import FindDuplicateIds
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.embed_query import EmbedQuery
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.texts import SampleTexts
from beam_quad.stages.write.budget import CutBudget
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.stages.write.taken import SumTaken
from beam_quad.stages.write.weights import FindBestLeft

__all__ = [
    "AddEigenvalues",
    "AssignClusters",
    "Bandit",
    "CompareHalves",
    "CompareSketches",
    "Corpus",
    "CountBlocks",
    "CountNgrams",
    "CountQueryClusters",
    "CutBlocks",
    "CutBudget",
    "DrawLandmarks",
    "Eigendecompose",
    "EmbedExamples",
    "EmbedQuery",
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
    "ModelStage",
    "PredictWithinClusters",
    "Propagate",
    "Query",
    "ReadScoreColumn",
    "RunRound",
    "SampleTexts",
    "ScoreExamples",
    "ScoreLandmarks",
    "ScoreSimilarity",
    "SketchLandmarks",
    "SolveSecondOrder",
    "Stage",
    "SumCovariances",
    "SumEigenvalues",
    "SumQueryGradients",
    "SumTaken",
    "TakeTurns",
    "TuneProxy",
    "WriteSelection",
    "run_in_process",
]
