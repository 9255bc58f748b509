"""What is selected: rankings, where a budget ends in them, and the rows that are kept and why. NumPy only."""

from beam_quad.selection.allocation import (
    Contenders,
    RoundRobin,
    allocate,
    num_contenders,
    tie_draws,
)
from beam_quad.selection.budget import MAX_DRAW, CutExamples
from beam_quad.selection.ranking import (
    NUM_LEVELS,
    BucketAmounts,
    BudgetSearch,
    amounts_of,
    cut_draws,
    even_ranks,
    is_reached,
    nearest_ranks,
    pack_ranks,
    priorities,
    random_ranks,
    rank_usable,
    ranks_from,
)

__all__ = [
    "MAX_DRAW",
    "NUM_LEVELS",
    "BucketAmounts",
    "BudgetSearch",
    "Contenders",
    "CutExamples",
    "RoundRobin",
    "allocate",
    "amounts_of",
    "cut_draws",
    "even_ranks",
    "is_reached",
    "nearest_ranks",
    "num_contenders",
    "pack_ranks",
    "priorities",
    "random_ranks",
    "rank_usable",
    "ranks_from",
    "tie_draws",
]
