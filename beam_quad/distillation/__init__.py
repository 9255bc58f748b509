"""Influence Distillation: exact influence for a few landmarks, propagated to all, weighed and allocated. NumPy and SciPy only."""

from beam_quad.distillation.allocation import (
    Contenders,
    RoundRobin,
    allocate,
    num_contenders,
    tie_draws,
)
from beam_quad.distillation.landmarks import NUM_LANDMARKS, LandmarkDraw, default_num_landmarks
from beam_quad.distillation.propagation import KernelRidge
from beam_quad.distillation.ranking import NUM_LEVELS, BucketAmounts, BudgetSearch, priorities
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
    "NUM_LEVELS",
    "BestLeft",
    "BucketAmounts",
    "BudgetSearch",
    "Contenders",
    "Interactions",
    "KernelRidge",
    "LandmarkDraw",
    "RoundRobin",
    "SecondOrderWeights",
    "SelectionWeights",
    "TakenSums",
    "WeightSums",
    "allocate",
    "cut_support",
    "default_num_landmarks",
    "newton_step",
    "num_contenders",
    "priorities",
    "project",
    "regularization",
    "solve",
    "solve_for_budget",
    "tie_draws",
    "weigh",
]
