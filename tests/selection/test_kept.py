import math

import numpy as np
import pytest

from beam_quad.selection import (
    Kept,
    Taken,
    keep_accepted,
    keep_for_targets,
    keep_predicted,
    keep_ranked,
    known_influence,
    or_estimate,
)

NAN = math.nan

# Eight rows of a split; the sixth was rejected, and has neither key nor cluster.
KEYS = np.array([50, 10, 70, 30, 20, 0, 60, 40], np.uint64)
CLUSTERS = np.array([2, 0, 2, 0, 0, -1, 2, 2], np.int32)
BLOCKS = np.array([1, 0, 1, 0, 1, -1, 1, 0], np.int64)
# Keys 10 and 70 were scored, 60 could not be; key 0 is of a row of another split.
SCORED = {
    "key": np.array([0, 10, 60, 70], np.uint64),
    "influence": np.array([9.0, 0.5, NAN, 0.25]),
}
ACCEPTED = {
    "cluster": np.array([0, 2]),
    "block": np.array([0, 1]),
    "round": np.array([3, 1]),
    "block_influence": np.array([0.75, 0.125]),
    "highest_draw": np.array([2**64 - 1, 500], np.uint64),
}
DRAWS = np.array([500, 2**63, 501, 1, 1, 1, 1, 1], np.uint64)
ALL = np.ones(8, bool)


def columns_of(kept):
    names = ("rows", "cluster", "block", "round", "influence", "block_influence")
    return [getattr(kept, name).tolist() for name in names]


def check(kept, *expected):
    for found, wanted in zip(columns_of(kept), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_influence_is_known_of_rows_that_count_and_were_scored():
    influence, has_score = known_influence(SCORED, KEYS, CLUSTERS >= 0)
    np.testing.assert_array_equal(influence, [NAN, 0.5, 0.25, NAN, NAN, NAN, NAN, NAN])
    assert np.flatnonzero(has_score).tolist() == [1, 2, 6]


def test_rows_of_accepted_blocks_are_kept_up_to_the_draw_at_which_a_block_is_cut():
    kept = keep_accepted(ACCEPTED, SCORED, CLUSTERS, BLOCKS, KEYS, DRAWS, ALL)
    # Row 2 is drawn one too late, and row 6 has no finite score.
    check(kept, [0, 1, 3], [2, 0, 0], [1, 0, 0], [1, 3, 3], [NAN, 0.5, NAN], [0.125, 0.75, 0.75])
    assert kept.unscorable.tolist() == [6]


def test_of_instances_only_those_that_were_accepted_are_kept():
    only = np.array([30, 50, 60], np.uint64)
    kept = keep_accepted(ACCEPTED, SCORED, CLUSTERS, BLOCKS, KEYS, DRAWS, ALL, only)
    assert kept.rows.tolist() == [0, 3]


def test_what_is_no_candidate_is_not_kept_with_its_block():
    is_candidate = np.arange(8) != 1
    kept = keep_accepted(ACCEPTED, SCORED, CLUSTERS, BLOCKS, KEYS, DRAWS, is_candidate)
    assert kept.rows.tolist() == [0, 3]


def test_nothing_is_kept_if_no_block_was_accepted():
    nothing = {name: column[:0] for name, column in ACCEPTED.items()}
    kept = keep_accepted(nothing, SCORED, CLUSTERS, BLOCKS, KEYS, DRAWS, ALL)
    assert not len(kept.rows)
    assert kept.unscorable.tolist() == [6]


def test_rows_of_the_highest_ranks_are_kept_with_their_cluster_and_influence():
    packed = np.array([5, 9, 4, 0, 7], np.uint64)
    unscorable = np.array([False, False, False, True, False])
    clusters = np.array([3, 1, 2, 0, 4], np.int32)
    influence = np.array([0.5, 0.9, 0.4, NAN, 0.7])
    kept = keep_ranked(packed, np.uint64(5), unscorable, clusters, influence)
    check(kept, [0, 1, 4], [3, 1, 4], [-1] * 3, [-1] * 3, [0.5, 0.9, 0.7], [NAN] * 3)
    assert kept.unscorable.tolist() == [3]
    # Without clusters or influence there are none; a cut at 0 takes all that can be taken.
    check(
        keep_ranked(packed, np.uint64(0), unscorable),
        [0, 1, 2, 4], [-1] * 4, [-1] * 4, [-1] * 4, [NAN] * 4, [NAN] * 4,
    )  # fmt: skip


def test_predicted_rows_are_kept_with_what_is_known_of_their_block():
    places = np.array([0, 1, 0, 1, -1, -1, 0, -1])
    pulled = {"round": np.array([4, 6]), "influence": np.array([0.25, NAN])}
    predicted = np.array([0.3, 0.5, 0.25, 0.1, 0.2, NAN, NAN, 0.15])
    packed = np.array([7, 9, 6, 2, 5, 0, 0, 3], np.uint64)
    kept = keep_predicted(
        packed, np.uint64(5), predicted, pulled, SCORED, CLUSTERS.astype(np.int64), BLOCKS, places, KEYS
    )  # fmt: skip
    check(
        kept,
        [0, 1, 2, 4], [2, 0, 2, 0], [1, 0, 1, 1], [4, 6, 4, -1],
        [NAN, 0.5, 0.25, NAN], [0.25, NAN, 0.25, NAN],
    )  # fmt: skip
    np.testing.assert_array_equal(kept.predicted, [0.3, NAN, NAN, 0.2])
    assert kept.unscorable.tolist() == [6]


def test_a_row_that_a_target_takes_has_that_targets_influence():
    influence = np.array([[0.5, 8.0], [0.25, 4.0], [0.125, 2.0], [1.0, 16.0]], np.float32)
    takers = np.array([1, -1, 0, 1])
    keys = np.array([4, 3, 2, 1], np.uint64)
    kept = keep_for_targets(
        influence, takers, keys, np.array([3, 2], np.uint64), np.array([False, True, False, False]), ["code", "law"]
    )  # fmt: skip
    assert kept.rows.tolist() == [0, 2, 3]
    assert kept.target == ["law", "code", "law"]
    np.testing.assert_array_equal(kept.influence, [NAN, 0.125, NAN])
    np.testing.assert_array_equal(kept.predicted, [8.0, NAN, 16.0])
    assert kept.unscorable.tolist() == [1]
    assert (kept.cluster == -1).all()
    assert (kept.block == -1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_single_target_takes_what_is_kept_and_could_take_what_is_usable(dtype):
    none = np.full(2, -1)
    kept = Kept(np.array([0, 3]), none, none, none, none, none, np.array([2]))
    usable = np.array([True, True, True, True, False])
    taken = Taken.by_one_target(np.array([0.5, 0.25, NAN, -1.0, 7.0], dtype), kept, usable)
    assert taken.takers.tolist() == [0, -1, -1, 0, -1]
    assert taken.is_example.tolist() == [True, True, False, True, False]
    assert taken.influence.tolist() == [[0.5], [0.25], [0.0], [-1.0], [0.0]]
    assert taken.influence.dtype == np.float32
    assert usable.tolist() == [True, True, True, True, False]


def test_an_estimate_stands_in_where_influence_is_not_finite():
    influence = np.array([0.5, NAN, 0.0, math.inf], np.float32)
    assert or_estimate(influence, np.array([1.0, 2.0, 3.0, 4.0])).tolist() == [0.5, 2.0, 0.0, 4.0]
