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
# Half as far as prices are of.
_SHIFT = 0.0005
_NUM_PRICED, _PRICED_DOCUMENTS = 40, 100_000
# How far a group lies from its clusters, and how much that differs between them, in spreads of the clusters' means; and how
# many such groups there are.
_RARE_GROUPS = (
    (0.0, 0.0, 1),
    (-0.5, 0.5, 1),
    (-0.5, 1.0, 1),
    (1.5, 1.0, 1),
    (-0.5, 0.5, 4),
    (0.0, 0.0, 4),
)


def price_errors(seed: int) -> tuple[list[float], list[float]]:
    """Relative errors of the prices of a system, each against the system solved again with that bound shifted.

    Returns:
      Of bounds whose prices on both sides agree to 5 %, how far a slope lies from their mean; and of the others, how far a
      slope lies outside of them.
    """
    system, corpus, budget = random_system(seed, _PRICED_DOCUMENTS)
    programme, _ = cut_shares(system, **corpus, influence=None, budget=budget, seed=seed)
    of_one: list[float] = []
    of_two: list[float] = []
    for bound in np.flatnonzero(programme.prices):
        ahead, behind = programme.prices_ahead[bound], programme.prices_behind[bound]
        larger = max(abs(ahead), abs(behind))
        for towards in (1, -1):
            tighter = -1 if system.relations[bound] == "<=" else 1
            shares = system.shares.copy()
            shares[bound] += towards * tighter * _SHIFT
            other = System(system.members, system.relations, shares)
            found, _ = cut_shares(
                other, **corpus, influence=None, budget=budget, seed=seed, num_priced=0
            )
            if found.missing.any():
                continue
            slope = towards * (programme.value - found.value) / _SHIFT
            if ahead - behind <= 0.05 * larger:
                of_one.append(abs(2 * slope / (ahead + behind) - 1))
            else:
                of_two.append(max(behind - slope, slope - ahead, 0.0) / larger)
    return of_one, of_two


def print_rare_groups() -> None:
    """Prints what selections of a rare group are worth, without and with scores of its own."""
    for shift, spread, number in _RARE_GROUPS:
        flags = {"shift": shift, "spread": spread, "num_groups": number}
        runs = [
            [rare_group.select(seed, has_draws, **flags) for seed in range(10)]
            for has_draws in (False, True)
        ]
        figures = [
            f"{name} {before:.3f} -> {after:.3f}"
            for name in ("mean", "mean_of_group", "error")
            for before, after in [[np.mean([getattr(r, name) for r in own]) for own in runs]]
        ]
        away = f"groups {shift} from their" if number > 1 else f"group {shift} from its"
        print(f"{number} {away} clusters, spread {spread}: {', '.join(figures)}")


def main() -> None:
    """Prints the figures."""
    missed, ratios = [], []
    for seed in range(_NUM_SYSTEMS):
        system, corpus, budget = random_system(seed)
        _, cuts = cut_shares(
            system, **corpus, influence=None, budget=budget, seed=seed, num_priced=0
        )
        taken = corpus["packed"] >= cuts.floors[corpus["groups"]]
        worth = float((corpus["values"] * corpus["amounts"])[taken].sum())
        missed.append(most_missed(system, cuts.taken, budget) / corpus["amounts"].max())
        ratios.append(worth / (optimum(system, corpus, budget) * budget))
    priced = [price_errors(seed) for seed in range(_NUM_PRICED)]
    of_one, of_two = (np.array([error for own in priced for error in own[i]]) for i in (0, 1))
    print(f"{_NUM_SYSTEMS} systems of 2 to 5 bounds over 2,000 documents")
    print(
        f"a bound missed by, in longest documents: at most {max(missed):.3f}, mean {np.mean(missed):.3f}"
    )
    print(f"value over the programme's: at least {min(ratios):.4f}, mean {np.mean(ratios):.4f}")
    print(
        f"slopes of {_NUM_PRICED} systems over {_PRICED_DOCUMENTS:,} documents, bound shifted by {_SHIFT} to both sides: "
        f"{len(of_one)} of one price, error at most {max(of_one):.3f}; {len(of_two)} between two prices, outside of these by "
        f"at most {max(of_two):.3f}"
    )
    print_rare_groups()


if __name__ == "__main__":
    sys.exit(main())
