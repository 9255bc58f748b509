"""Second order on a target's shortlist: where the list ends, its weights, and what they come to among all targets."""

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
    """Makes Q_L = (1/l) G_L H_T G_Lᵀ of rows in which only one of the two gradients has norm 1.

    Args:
      rows: Row i is that of landmark i with norm 1, with the gradients g_j as they are: float64 [l, l].
      norms: Norms of the gradients, float64 [l].

    Returns:
      Float64 [l, l].
    """
    return rows / norms / len(norms)


def list_length(amounts: Array, budget: int, times: int) -> int:
    """Decides how many examples of a shortlist are solved for.

    Args:
      amounts: What each example takes from the budget, in the order of the list, positive int64 [n].
      budget: What the target takes of the list.
      times: Length of the list over that.

    Returns:
      The examples that begin within `times` budgets.
    """
    return int(np.sum(np.cumsum(amounts) - amounts < times * budget))


@dataclasses.dataclass(frozen=True, eq=False)
class ListWeights:
    """The weights of a shortlist.

    Attributes:
      order: Positions of the examples that have a weight, the largest first, int64 [k].
      eta: η, in units of the loss.
      solved: The weights of all, and how they were found.
      num_shared: How many of those that have a weight the first order takes too.
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
    """Solves for the weights of a shortlist, as many of which are positive as the budget asks for.

    Args:
      influence: p, float [n].
      amounts: What each example takes from the budget, int64 [n].
      is_taken: Whether the first order takes it, bool [n].
      interactions: Q over the same examples.
      budget: What the examples with a weight hold at least.
      total: Sum of the weights.
      steps: η in units of the step that lowers the target's loss the most along its selection of the first order; 0 is the
        first order, 1 the Newton step.
    """
    first = weigh(influence[:, None], np.where(is_taken, 0, -1)) * (total / len(influence))
    eta = steps * newton_step(influence, interactions, first)
    solved = solve_for_budget(influence, interactions, eta, amounts, budget, total)
    order = np.argsort(-solved.weights, kind="stable")[: int(np.sum(solved.weights > 0))]
    return ListWeights(order, eta, solved, int(np.sum(is_taken[order])))


def share_weights(
    weights: Sequence[Array], counts: Sequence[int], num_examples: int
) -> list[Array]:
    """Scales the weights of targets, whose supports were cut, so that over all of them they sum to the corpus.

    As in the first order, what a target gives in all is in proportion to how many examples it takes.

    Args:
      weights: Positive weights of each target, in the order in which it takes them, float64 [n].
      counts: How many each takes.
      num_examples: Examples of the corpus.

    Returns:
      The weights of what each takes, float64 [count].
    """
    shared = []
    for own, count in zip(weights, counts, strict=True):
        taken = own[:count]
        share = num_examples * count / sum(counts) if count else 0.0
        shared.append(taken / taken.sum() * share if count else taken)
    return shared
