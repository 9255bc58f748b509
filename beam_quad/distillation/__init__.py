"""Influence Distillation: exact influence of a few landmarks, propagated to the corpus, and weights. NumPy and SciPy only."""

from beam_quad.distillation.landmarks import (
    NUM_LANDMARKS,
    LandmarkDraw,
    LandmarkDraws,
    default_num_landmarks,
)
from beam_quad.distillation.propagation import KernelRidge
from beam_quad.distillation.second_order import (
    Interactions,
    SecondOrderWeights,
    cut_support,
    newton_step,
    solve,
    solve_for_budget,
)
from beam_quad.distillation.weights import (
    BestLeft,
    SelectionWeights,
    TakenSums,
    WeightSums,
    project,
    regularization,
    weigh,
)

__all__ = [
    "NUM_LANDMARKS",
    "BestLeft",
    "Interactions",
    "KernelRidge",
    "LandmarkDraw",
    "LandmarkDraws",
    "SecondOrderWeights",
    "SelectionWeights",
    "TakenSums",
    "WeightSums",
    "cut_support",
    "default_num_landmarks",
    "newton_step",
    "project",
    "regularization",
    "solve",
    "solve_for_budget",
    "weigh",
]
