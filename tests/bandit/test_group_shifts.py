"""Scores of its own tell a rare group from its clusters."""

import numpy as np

from beam_quad.bandit.group_shifts import GroupShifts, draws_of_shares
from tests.bandit.rare_group import select

IS_ASKED = np.array([False, True, True])


def test_a_group_that_differs_from_its_clusters_is_estimated_and_selected_better():
    before, after = (
        [select(seed, has_draws, 40_000, 100, spread=1.0) for seed in range(6)]
        for has_draws in (False, True)
    )
    for name, least in (("error", -0.15), ("mean_of_group", 0.05), ("mean", 0.005)):
        was, is_now = (np.mean([getattr(own, name) for own in runs]) for runs in (before, after))
        assert (is_now - was) * np.sign(least) > abs(least), name


def test_many_draws_of_a_cluster_count_alone_and_few_are_shrunk_towards_the_group():
    rng = np.random.default_rng(0)
    number = 500
    clusters = np.repeat([0, 1, 2], [number, number, 2])
    true = np.array([1.0, -1.0, 1.0])
    differences = true[clusters] + rng.normal(0, 0.1, len(clusters))
    # Those of cluster 2 are as far off as their error, of 5, allows.
    shifts = GroupShifts.of(
        differences, np.full(len(clusters), 7), clusters, np.ones(len(clusters), int), IS_ASKED, 5.0
    )
    found = shifts.at(np.array([0, 1, 2, 3, 0]), np.array([1, 1, 1, 1, 0]))
    np.testing.assert_allclose(found[:2], true[:2], atol=0.1)
    assert abs(found[2]) < 0.2
    # Where nothing was drawn the group's mean holds, and a group that no share asks for has no shift.
    np.testing.assert_allclose(found[3:], [np.average(differences), 0])


def test_a_group_of_few_draws_is_shrunk_towards_all_draws_which_stand_for_one_without():
    rng = np.random.default_rng(0)
    number, means = 400, np.array([0.0, 1.0, 1.5, -9.0])
    groups = np.repeat([1, 2, 3], [number, number, 1])
    differences = means[groups] + rng.normal(0, 0.1, len(groups))
    one = np.ones(len(groups), np.int64)
    shifts = GroupShifts.of(differences, one, 0 * one, groups, np.arange(5) > 0, 10.0)
    # The error of a mean is 10 over the root of its draws: groups 1 and 2 do not surely differ, and group 3 says nothing.
    found = shifts.at(np.zeros(5, int), np.arange(5))
    np.testing.assert_allclose(found, [0, *[differences.mean()] * 4])
    shifts = GroupShifts.of(differences, one, 0 * one, groups, np.arange(5) > 0, 1.0)
    found = shifts.at(np.zeros(5, int), np.arange(5))
    np.testing.assert_allclose(found[1:3], means[1:3], atol=0.05)
    assert -8 < found[3] < 0
    np.testing.assert_allclose(found[[0, 4]], [0, differences.mean()])


def test_few_draws_of_each_of_many_groups_do_not_mislead_where_groups_do_not_differ():
    flags = {"num_documents": 40_000, "num_clusters": 100, "shift": 0.0, "num_groups": 4}
    was, is_now = (
        np.mean([select(seed, has_draws, spread=0.0, **flags).error for seed in range(4)])
        for has_draws in (False, True)
    )
    # Four bounds make 16 groups. Unshrunk, the means of their draws add 0.1 to an error of 0.7.
    assert is_now < was + 0.02


def test_a_share_gets_half_of_its_part_of_the_pilot_and_64_draws_at_least():
    assert draws_of_shares([0.001, 0.1, 1.0], 10_000) == [64, 500, 5000]


def test_a_draw_without_a_score_does_not_count():
    one = np.ones(2, np.int64)
    shifts = GroupShifts.of(np.array([np.nan, 0.5]), one, one, one, IS_ASKED, 1.0)
    assert shifts.at(np.array([1, 5]), np.array([1, 1])).tolist() == [0.5, 0.5]
    nothing = GroupShifts.of(np.array([np.nan, np.nan]), one, one, one, IS_ASKED, 1.0)
    assert nothing.at(np.array([1, 5]), np.array([1, 2])).tolist() == [0.0, 0.0]
