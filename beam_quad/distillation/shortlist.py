"""Second order on a target's shortlist: the length of the list, its weights, and their scale among all targets."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.distillation.second_order import (
    Interactions,
    SecondOrderWeights,
    newton_step,
    solve_for_budget,
)
from beam_quad.distillation.weights import weigh

Array = np.ndarray[Any, np.dtype[Any]]


def landmark_interactions(rows: Array, norms: Array) -> Array:
    """Makes Q_L = (1/l) G_L H_T G_Lᵀ from products in which only one of the two gradients is normalised.

    Args:
      rows: Row i holds the products of landmark i's normalised gradient with the unnormalised gradients g_j, float64 [l, l].
      norms: Norms of the gradients, float64 [l].

    Returns:
      Float64 [l, l].
    """
    return rows / norms / len(norms)


def list_length(amounts: Array, budget: int, times: int) -> int:
    """Decides how many examples of a shortlist enter the solve.

    Args:
      amounts: Budget taken by each example, in the order of the list, positive int64 [n].
      budget: Budget of the target.
      times: Length of the list in multiples of the budget.

    Returns:
      The number of examples that begin within `times` budgets.
    """
    return int(np.sum(np.cumsum(amounts) - amounts < times * budget))


@dataclasses.dataclass(frozen=True, eq=False)
class ListWeights:
    """The weights of a shortlist.

    Attributes:
      order: Positions of the examples with a positive weight, the largest first, int64 [k].
      eta: η, in units of the loss.
      solved: The weights of all examples, with statistics of the solver.
      num_shared: Number of examples with a positive weight that the first order takes too.
    """

    order: Array
    eta: float
    solved: SecondOrderWeights
    num_shared: int


def solve_list(
    influence: Array,
    amounts: Array,
    is_taken: Array,
    interactions: Interactions,
    budget: int,
    total: float,
    steps: float,
) -> ListWeights:
    """Solves for the weights of a shortlist, with enough positive weights to fill the budget.

    Args:
      influence: p, float [n].
      amounts: Budget taken by each example, int64 [n].
      is_taken: Whether the first order takes each example, bool [n].
      interactions: Q over the same examples.
      budget: Minimum budget taken by the examples with a positive weight.
      total: Sum of the weights.
      steps: η in units of the step that lowers the target's loss the most along the first-order selection: 0 is the first
        order, 1 the Newton step.
    """
    # The weights of the first order, scaled to the same total, are the direction of the Newton step.
    first = weigh(influence[:, None], np.where(is_taken, 0, -1)) * (total / len(influence))
    eta = steps * newton_step(influence, interactions, first)
    solved = solve_for_budget(influence, interactions, eta, amounts, budget, total)
    order = np.argsort(-solved.weights, kind="stable")[: int(np.sum(solved.weights > 0))]
    return ListWeights(order, eta, solved, int(np.sum(is_taken[order])))


def share_weights(
    weights: Sequence[Array], counts: Sequence[int], num_examples: int
) -> list[Array]:
    """Scales the weights of all targets, after their supports were cut, to sum to the number of examples of the corpus.

    As in the first order, the total weight of a target is in proportion to the number of examples it takes.

    Args:
      weights: Positive weights of each target, in the order in which it takes examples, float64 [n].
      counts: Number of examples that each target takes.
      num_examples: Number of examples of the corpus.

    Returns:
      For each target, the weights of the examples it takes, float64 [count].
    """
    shared = []
    for own, count in zip(weights, counts, strict=True):
        taken = own[:count]
        # Normalised again: the cut of a support has taken weights away.
        share = num_examples * count / sum(counts) if count else 0.0
        shared.append(taken / taken.sum() * share if count else taken)
    return shared
