"""A corpus in clusters with rare groups that shares ask for, of which a bandit knows the clusters' means."""

import dataclasses

import numpy as np

from beam_quad import seeding
from beam_quad.bandit.group_shifts import GroupShifts, draws_of_shares
from beam_quad.distillation import LandmarkDraw, LandmarkDraws
from beam_quad.selection import pack_ranks
from beam_quad.selection.group_cuts import cut_shares
from beam_quad.selection.programme import System

SHARE = 0.1
_BUDGET = 0.05
_SCORED, _DEVIATION = 10, 2.0


@dataclasses.dataclass(frozen=True)
class Selected:
    """A selection by estimated influence, a tenth of it of each rare group.

    Attributes:
      mean: Its true mean influence.
      mean_of_group: That of its part in the groups.
      expected: The mean influence that the programme expects.
      error: Root of the mean squared error of the groups' estimates.
    """

    mean: float
    mean_of_group: float
    expected: float
    error: float


def select(
    seed: int,
    has_draws: bool,
    num_documents: int = 100_000,
    num_clusters: int = 200,
    shift: float = -0.5,
    spread: float = 0.5,
    rarity: float = 0.01,
    num_groups: int = 1,
) -> Selected:
    """Selects by the means of ten documents of each cluster, in units of the spread of the clusters' true means.

    Groups overlap by chance, and what one adds to influence is added to that of another.

    Args:
      seed: Decides all.
      has_draws: Whether the groups get scores of their own.
      num_documents: Documents of the corpus.
      num_clusters: Clusters.
      shift: How far a group lies from its clusters.
      spread: Standard deviation of that from cluster to cluster.
      rarity: A group's part of the corpus.
      num_groups: Groups, each with a share.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.dirichlet(np.ones(num_clusters))
    clusters = rng.choice(num_clusters, num_documents, p=sizes)
    true = rng.normal(size=num_clusters)[clusters]
    groups = np.zeros(num_documents, np.int64)
    for group in range(num_groups):
        odds = (rng.dirichlet(np.full(num_clusters, 0.3)) / sizes)[clusters]
        is_member = rng.random(num_documents) < rarity * odds / odds.mean()
        apart = shift + rng.normal(0, spread, num_clusters)
        true += np.where(is_member, apart[clusters], 0.0)
        groups += is_member << group
    influence = true + rng.normal(0, _DEVIATION, num_documents)
    tokens = rng.integers(50, 500, num_documents)
    keys = seeding.keys(map(str, range(num_documents)))
    members = np.arange(1 << num_groups) >> np.arange(num_groups)[:, None] & 1 > 0
    system = System(members, (">=",) * num_groups, np.full(num_groups, SHARE))
    in_group = groups > 0

    order = np.lexsort((keys, clusters))
    starts = np.searchsorted(clusters[order], np.arange(num_clusters))
    is_scored = np.zeros(num_documents, bool)
    is_scored[order] = np.arange(num_documents) - starts[clusters[order]] < _SCORED
    own = clusters[is_scored], tokens[is_scored]
    sums = np.bincount(own[0], own[1] * influence[is_scored], num_clusters)
    estimate = (sums / np.maximum(np.bincount(*own, num_clusters), 1))[clusters]
    if has_draws:
        number = draws_of_shares([SHARE], int(is_scored.sum()))[0]
        each = [
            LandmarkDraw.of(keys[own[groups] & ~is_scored], seed, number) for own in system.members
        ]
        at = np.flatnonzero(LandmarkDraws(tuple(each)).together().contains(keys))
        shifts = GroupShifts.of(
            (influence - estimate)[at],
            tokens[at],
            clusters[at],
            groups[at],
            system.asked,
            _DEVIATION,
        )
        estimate = estimate + shifts.at(clusters, groups)
    budget = int(_BUDGET * tokens.sum())
    packed = pack_ranks(estimate, keys, seed)
    programme, cuts = cut_shares(system, groups, keys, packed, tokens, estimate, None, budget, seed)
    is_taken = packed >= cuts.floors[groups]
    both = is_taken & in_group
    return Selected(
        float(np.average(true[is_taken], weights=tokens[is_taken])),
        float(np.average(true[both], weights=tokens[both])),
        programme.value,
        float(np.sqrt(np.mean((estimate - true)[in_group] ** 2))),
    )
