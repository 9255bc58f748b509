"""The rankings that are compared with influence, and what a priority of 0 means."""

import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.selection import (
    NUM_LEVELS,
    BudgetSearch,
    amounts_of,
    even_ranks,
    is_reached,
    nearest_ranks,
    pack_ranks,
    random_ranks,
    rank_usable,
    ranks_from,
)


def keys_of(count):
    return seeding.keys(f"part-0#{i}" for i in range(count))


def test_equal_ranks_are_taken_in_the_order_of_the_draw_by_which_blocks_are_cut():
    keys = keys_of(200)
    ranks = np.arange(200) // 50 * 1.0
    packed = pack_ranks(ranks, keys, seed=3)
    np.testing.assert_array_equal(
        np.argsort(~packed), np.lexsort((seeding.mix(3, "cut", keys), -ranks))
    )
    assert (pack_ranks(ranks, keys, seed=4) != packed).any()


def test_a_row_that_cannot_be_used_or_is_too_long_has_no_priority_and_is_not_unscorable():
    ranks = np.array([1.0, np.nan, np.nan, 2.0, -np.inf, 3.0])
    usable = np.array([True, True, False, False, True, True])
    candidates = np.array([True, True, False, False, True, False])
    packed, unscorable = rank_usable(ranks, usable, candidates, keys_of(6), seed=0)
    assert (packed > 0).tolist() == [True, False, False, False, False, False]
    assert unscorable.tolist() == [False, True, False, False, True, False]


def test_the_lowest_priority_is_taken_itself_and_zero_never():
    packed = np.array([0, 4, 5, 6], np.uint64)
    assert is_reached(packed, np.uint64(5)).tolist() == [False, False, True, True]
    assert is_reached(packed, np.uint64(0)).tolist() == [False, True, True, True]


def test_an_example_takes_its_amount_if_it_is_in_any_ranking():
    packed = np.array([[0, 0], [0, 7], [7, 0], [7, 7]], np.uint64)
    assert amounts_of(packed, np.array([1, 20, 300, 4000])).tolist() == [0, 20, 300, 4000]


def test_influence_is_ranked_down_to_tau_itself():
    influence = np.array([0.5, 0.25, 0.125, np.nan])
    np.testing.assert_array_equal(ranks_from(influence, 0.25), [0.5, 0.25, np.nan, np.nan])
    assert ranks_from(influence, None) is influence


def test_values_nearest_to_the_center_are_ranked_highest_from_either_side():
    ranks = nearest_ranks(np.array([1.0, 4.0, 5.5, 9.0, np.nan]), 5.0)
    assert ranks[:4].tolist() == [-4.0, -1.0, -0.5, -4.0]
    assert np.isnan(ranks[4])


def test_a_random_ranking_takes_every_example_equally_often():
    keys = keys_of(40)
    taken = np.zeros(40)
    for seed in range(500):
        taken[np.argsort(-random_ranks(seed, keys))[:10]] += 1
    assert taken.sum() == 5000
    assert (np.abs(taken - 125) < 5 * np.sqrt(125 * 0.75)).all()


def test_even_ranks_take_equal_tokens_from_clusters_of_unequal_size():
    clusters = np.repeat([0, 1, 2], [9000, 3000, 600])
    tokens = np.random.default_rng(0).integers(5, 15, len(clusters))
    sums = np.bincount(clusters, weights=tokens).astype(np.int64)
    ranks = even_ranks(0, keys_of(len(clusters)), clusters, sums)
    order = np.argsort(-ranks)
    taken = order[np.cumsum(tokens[order]) <= 15_000]
    by_cluster = np.bincount(clusters[taken], weights=tokens[taken])
    np.testing.assert_allclose(by_cluster, 5000, rtol=0.12)
    # The smallest cluster is used up, and the others share what it lacks.
    taken = order[np.cumsum(tokens[order]) <= 40_000]
    by_cluster = np.bincount(clusters[taken], weights=tokens[taken])
    assert by_cluster[2] == sums[2]
    assert by_cluster[0] == pytest.approx(by_cluster[1], rel=0.1)


def test_an_example_without_a_cluster_has_no_even_rank():
    ranks = even_ranks(0, keys_of(3), np.array([-1, 0, -1]), np.array([10]))
    assert np.isnan(ranks).tolist() == [True, False, True]


@pytest.mark.parametrize(("budget", "missing"), [(59, 0), (60, 0), (61, 1), (100, 40)])
def test_what_is_missing_to_a_budget_is_what_the_ranking_holds_too_little_of(budget, missing):
    packed = pack_ranks(np.array([3.0, 1.0, 2.0, np.nan]), keys_of(4), seed=0)[:, None]
    amounts = amounts_of(packed, np.array([10, 20, 30, 40]))
    search = BudgetSearch.start(1, budget)
    for _ in range(NUM_LEVELS):
        search = search.narrowed(search.count(packed, amounts))
    assert search.missing(budget) == missing
