"""Scores of texts: influence on a query set, and the baselines for comparison."""

from beam_quad.scoring.costs import ScoringCosts
from beam_quad.scoring.curvature import BlockCurvature, Curvature
from beam_quad.scoring.dsir import DSIRScorer, NgramCounts, count_ngrams, sampling_priority
from beam_quad.scoring.eigenvalues import EigenvalueSum, eigenvalue_sums
from beam_quad.scoring.factors import CovarianceSum, Eigenbasis, covariance_sums, eigenbasis
from beam_quad.scoring.influence import InfluenceScorer
from beam_quad.scoring.loss_drop import LossDropScorer, tune_on_query
from beam_quad.scoring.ngrams import NgramScorer, TokenNgramCounts
from beam_quad.scoring.perplexity import PerplexityScorer
from beam_quad.scoring.query import GradientSum, query_gradient

__all__ = [
    "BlockCurvature",
    "CovarianceSum",
    "Curvature",
    "DSIRScorer",
    "Eigenbasis",
    "EigenvalueSum",
    "GradientSum",
    "InfluenceScorer",
    "LossDropScorer",
    "NgramCounts",
    "NgramScorer",
    "PerplexityScorer",
    "ScoringCosts",
    "TokenNgramCounts",
    "count_ngrams",
    "covariance_sums",
    "eigenbasis",
    "eigenvalue_sums",
    "query_gradient",
    "sampling_priority",
    "tune_on_query",
]
