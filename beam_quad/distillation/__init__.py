"""Influence Distillation: exact influence for a few landmarks, propagated to all, weighed and allocated. NumPy and SciPy only."""

from beam_quad.distillation.allocation import Contenders, RoundRobin, allocate, tie_draws
from beam_quad.distillation.landmarks import LandmarkDraw
from beam_quad.distillation.propagation import KernelRidge
from beam_quad.distillation.ranking import BucketAmounts, BudgetSearch, priorities
from beam_quad.distillation.second_order import (
    Interactions,
    SecondOrderWeights,
    solve,
    solve_for_budget,
)
from beam_quad.distillation.weights import (
    BestLeft,
    SelectionWeights,
    TakenSums,
    project,
    regularization,
    weigh,
)

__all__ = [
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
    "allocate",
    "priorities",
    "project",
    "regularization",
    "solve",
    "solve_for_budget",
    "tie_draws",
    "weigh",
]
