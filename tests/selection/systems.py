"""Random corpora in groups, and bounds on these that can be met."""

from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from beam_quad import seeding
from beam_quad.selection import pack_ranks
from beam_quad.selection.programme import System


def random_system(
    seed: int, num_documents: int = 2000, num_bounds: int | None = None
) -> tuple[System, dict[str, Any], int]:
    """Draws a corpus and a feasible system of bounds.

    Args:
      seed: Decides all.
      num_documents: Documents of the corpus.
      num_bounds: Bounds; by default 2 to 5.

    Returns:
      The system; the arguments of `cut_shares` that speak of documents, by name; and a budget of a tenth to a third.
    """
    rng = np.random.default_rng(seed)
    num_bounds = num_bounds or int(rng.integers(2, 6))
    meets = rng.random((num_documents, num_bounds)) < rng.uniform(0.1, 0.6, num_bounds)
    patterns, groups = np.unique(meets, axis=0, return_inverse=True)
    members = patterns.T
    # What a group is worth differs, so that bounds cost something.
    values = rng.gamma(2, size=num_documents) + (meets @ rng.normal(0, 0.5, num_bounds))
    values -= values.min() - 0.1
    amounts = rng.integers(5, 120, num_documents)
    budget = int(amounts.sum() * rng.uniform(0.1, 0.33))
    keys = seeding.keys(f"{seed}/{i}" for i in range(num_documents))
    corpus = {
        "groups": groups.ravel(),
        "keys": keys,
        "packed": pack_ranks(values, keys, seed),
        "amounts": amounts,
        "values": values.astype(np.float32).astype(np.float64),
    }
    # A random selection shows that the bounds can be met.
    order = rng.permutation(num_documents)
    chosen = order[: 1 + np.searchsorted(np.cumsum(amounts[order]), budget)]
    got = members @ np.bincount(groups.ravel()[chosen], amounts[chosen], len(patterns))
    relations = tuple(rng.choice([">=", "<=", "="], num_bounds, p=[0.4, 0.4, 0.2]).tolist())
    return System(members, relations, got / amounts[chosen].sum()), corpus, budget


def most_missed(system: System, taken: Any, budget: int) -> float:
    """The most that a bound, or the budget, is missed by if groups give so much, int64 [num_groups]."""
    short = system.shares * budget - system.members @ taken
    signs = np.array([{">=": 1, "<=": -1, "=": 0}[relation] for relation in system.relations])
    missed = np.where(signs == 0, np.abs(short), np.maximum(0, signs * short))
    return float(max([abs(budget - taken.sum()), *missed]))


def optimum(system: System, corpus: dict[str, Any], budget: int) -> float:
    """The mean value of the best selection of parts of documents, each an unknown of its own."""
    members = system.members[:, corpus["groups"]].astype(float)
    size = corpus["amounts"] / budget
    lower = [share if r != "<=" else -np.inf for r, share in _bounds(system)]
    upper = [share if r != ">=" else np.inf for r, share in _bounds(system)]
    rows = scipy.sparse.csr_matrix(np.concatenate([np.ones((1, len(size))), members]))
    found = scipy.optimize.milp(
        -corpus["values"],
        bounds=scipy.optimize.Bounds(0, size),
        constraints=scipy.optimize.LinearConstraint(rows, [1, *lower], [1, *upper]),
    )
    if found.x is None:
        raise ArithmeticError(found.message)
    return float(-found.fun)


def _bounds(system: System) -> list[tuple[str, float]]:
    return list(zip(system.relations, system.shares.tolist(), strict=True))
