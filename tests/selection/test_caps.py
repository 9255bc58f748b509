import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.selection import cap_clusters, is_reached, pack_ranks, search_budget


def greedy(ranks, clusters, tokens, cap, budget):
    """Takes the best example of a cluster that has not given its cap, until the budget is met."""
    given, taken = dict.fromkeys(range(clusters.max() + 1), 0), []
    for i in np.argsort(-ranks):
        if sum(given.values()) >= budget:
            break
        if given[clusters[i]] < cap:
            given[clusters[i]] += tokens[i]
            taken.append(i)
    return sorted(taken)


@pytest.mark.parametrize("cap", [1, 40, 200, 100_000])
def test_the_best_within_caps_are_what_a_greedy_walk_takes(cap):
    rng = np.random.default_rng(cap)
    ranks, clusters = rng.permutation(400).astype(float), rng.integers(0, 7, 400) % 5
    tokens = rng.integers(1, 20, 400)
    packed = pack_ranks(ranks, seeding.keys(map(str, range(400))), seed=0)
    capped = cap_clusters(packed, clusters, tokens, cap)
    search = search_budget(capped[:, None], np.where(capped > 0, tokens, 0), 700)
    found = np.flatnonzero(is_reached(capped, search.floors[0]))
    assert found.tolist() == greedy(ranks, clusters, tokens, cap, 700)


def test_what_cannot_be_taken_fills_no_cap():
    packed = np.array([0, 9, 8, 7], np.uint64) << np.uint64(40)
    clusters, tokens = np.array([3, 3, 3, 3]), np.array([50, 10, 10, 10])
    assert (cap_clusters(packed, clusters, tokens, 15) > 0).tolist() == [False, True, True, False]
