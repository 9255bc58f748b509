"""Measures budgets within shares: 1,000 random corpora and feasible bounds, in memory.

    python -m tests.benchmarks.shares

Prints by how much bounds are missed, in documents of the corpus's longest; the value of the selection over the optimum of the
programme in which every document is an unknown of its own; how far prices are from what the selection loses if a bound is shifted;
and what a bandit's selection gains if a rare group that a share asks for has scores of its own.
"""

import sys

import numpy as np

from beam_quad.selection.group_cuts import cut_shares
from beam_quad.selection.programme import System
from tests.bandit import rare_group
from tests.selection.systems import most_missed, optimum, random_system

_NUM_SYSTEMS = 1000
# Ten documents of those that are selected: more than one, and few enough that the slope is the same.
_SHIFT = 0.0005
_NUM_PRICED, _PRICED_DOCUMENTS = 40, 100_000
# How far a group lies from its clusters, and how much that differs between them, in spreads of the clusters' means.
_RARE_GROUPS = ((0.0, 0.0), (-0.5, 0.5), (-0.5, 1.0), (1.5, 1.0))


def price_errors(seed: int) -> list[float]:
    """Relative errors of the prices of a system, each against the system solved again with that bound shifted."""
    system, corpus, budget = random_system(seed, _PRICED_DOCUMENTS)
    programme, _ = cut_shares(system, **corpus, influence=None, budget=budget, seed=seed)
    errors = []
    for bound in np.flatnonzero(programme.prices):
        values = []
        for shift in (-_SHIFT, _SHIFT):
            shares = system.shares + shift * (np.arange(len(system.shares)) == bound)
            other = System(system.members, system.relations, shares)
            found, _ = cut_shares(other, **corpus, influence=None, budget=budget, seed=seed)
            if found.missing.any():
                break
            values.append(found.value)
        else:
            sign = -1 if system.relations[bound] == "<=" else 1
            slope = sign * (values[0] - values[1]) / (2 * _SHIFT)
            errors.append(abs(slope / programme.prices[bound] - 1))
    return errors


def print_rare_groups() -> None:
    """Prints what selections of a rare group are worth, without and with scores of its own."""
    for shift, spread in _RARE_GROUPS:
        runs = [
            [rare_group.select(seed, has_draws, shift=shift, spread=spread) for seed in range(10)]
            for has_draws in (False, True)
        ]
        figures = [
            f"{name} {before:.3f} -> {after:.3f}"
            for name in ("mean", "mean_of_group", "error")
            for before, after in [[np.mean([getattr(r, name) for r in own]) for own in runs]]
        ]
        print(f"a group {shift} from its clusters, spread {spread}: {', '.join(figures)}")


def main() -> None:
    """Prints the figures."""
    missed, ratios = [], []
    for seed in range(_NUM_SYSTEMS):
        system, corpus, budget = random_system(seed)
        _, cuts = cut_shares(system, **corpus, influence=None, budget=budget, seed=seed)
        taken = corpus["packed"] >= cuts.floors[corpus["groups"]]
        worth = float((corpus["values"] * corpus["amounts"])[taken].sum())
        missed.append(most_missed(system, cuts.taken, budget) / corpus["amounts"].max())
        ratios.append(worth / (optimum(system, corpus, budget) * budget))
    errors = [error for seed in range(_NUM_PRICED) for error in price_errors(seed)]
    print(f"{_NUM_SYSTEMS} systems of 2 to 5 bounds over 2,000 documents")
    print(
        f"a bound missed by, in longest documents: at most {max(missed):.3f}, mean {np.mean(missed):.3f}"
    )
    print(f"value over the programme's: at least {min(ratios):.4f}, mean {np.mean(ratios):.4f}")
    print(
        f"{len(errors)} prices of {_NUM_PRICED} systems over {_PRICED_DOCUMENTS:,} documents, bound shifted by {_SHIFT}: "
        f"error at most {max(errors):.3f}, mean {np.mean(errors):.4f}, within 5 %: {np.mean(np.array(errors) < 0.05):.1%}"
    )
    print_rare_groups()


if __name__ == "__main__":
    sys.exit(main())
