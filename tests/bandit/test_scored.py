import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.bandit import Blocks, PullScores, QuadPolicy, replay
from beam_quad.bandit import scored as of

arms = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))


def scored(rows):
    """Makes columns of rows (cluster, block, round, tokens, influence)."""
    cluster, block, number, tokens, influence = zip(*rows, strict=True)
    return {
        "cluster": np.array(cluster, np.int32),
        "block": np.array(block, np.int32),
        "round": np.array(number),
        "key": np.arange(len(rows), dtype=np.uint64),
        "tokens": np.array(tokens),
        "influence": np.array(influence, np.float64),
    }


ROWS = [
    (1, 0, 0, 30, 3.0),
    (0, 1, 2, 10, -1.0),
    (1, 0, 0, 10, 7.0),
    (2, 3, 1, 5, math.nan),
    (0, 1, 2, 40, math.nan),
    (0, 0, 0, 20, 2.0),
]


@given(pairs=st.lists(arms, min_size=1, max_size=20))
def test_codes_sort_like_the_pairs_and_give_them_back(pairs):
    clusters, blocks = np.array(pairs, np.int32).T
    codes = of.arm_code(clusters, blocks)
    assert [pairs[i] for i in np.argsort(codes, kind="stable")] == sorted(pairs)
    assert list(zip(*(part.tolist() for part in of.arm_of(codes)), strict=True)) == pairs


def test_the_mean_of_a_block_is_weighted_by_tokens_and_leaves_out_what_could_not_be_scored():
    assert of.block_means(scored(ROWS)) == {
        (0, 0): 2.0,
        (0, 1): -1.0,
        (1, 0): (30 * 3 + 10 * 7) / 40,
    }


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 2),
            st.just(0),
            st.integers(1, 99),
            st.one_of(st.just(math.nan), st.floats(-5, 5)),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_block_means_are_those_of_a_loop_over_blocks(rows):
    found = of.block_means(scored(rows))
    for cluster, block in itertools.product(range(3), range(3)):
        own = [(t, x) for c, b, _, t, x in rows if (c, b) == (cluster, block) and x == x]
        if own:
            expected = sum(t * x for t, x in own) / sum(t for t, _ in own)
            assert found[cluster, block] == pytest.approx(expected, abs=1e-12)
        else:
            assert (cluster, block) not in found


def test_pulled_blocks_are_those_with_a_scored_example_and_the_round_of_their_pull():
    blocks = of.pulled_blocks(scored(ROWS))
    assert [tuple(map(int, of.arm_of(code))) for code in blocks["code"]] == [
        (0, 0), (0, 1), (1, 0), (2, 3)
    ]  # fmt: skip
    assert blocks["round"].tolist() == [0, 2, 0, 1]
    np.testing.assert_array_equal(blocks["influence"], [2.0, -1.0, 4.0, np.nan])


@pytest.mark.parametrize(
    ("acceptance", "expected"),
    [("block", [(1, 0, 0, 4.0), (2, 0, 0, 3.0)]), ("instance", [(0, 0, 0, 2.0), (1, 0, 0, 4.0)])],
)
def test_accepted_blocks_are_those_that_gave_something_by_the_mean_of_all_their_scores(
    acceptance, expected
):
    # The mean of block (1, 0) is weighted by tokens; one example of (0, 0) reaches tau, though its mean does not.
    tokens = {0: [10, 10], 1: [30, 10], 2: [10, 10]}
    influence = {0: [0.0, 4.0], 1: [3.0, 7.0], 2: [3.0, 3.0]}
    tau = 3.0 if acceptance == "block" else 3.5
    blocks = Blocks(np.ones(3, np.int32), np.full(3, 2), np.full(3, 40), np.full(3, 2))
    pulls = tuple(
        PullScores(
            c,
            0,
            np.array([2 * c, 2 * c + 1], np.uint64),
            np.array(tokens[c]),
            np.array(influence[c]),
        )
        for c in range(3)
    )
    policy = QuadPolicy(1000, 2, tau=tau, acceptance=acceptance)
    rows = [(c, 0, 0, tokens[c][i], influence[c][i]) for c in range(3) for i in range(2)]
    assert of.accepted_blocks(replay(policy, blocks, [pulls]), scored(rows)) == expected


def test_what_is_not_known_of_a_cluster_is_taken_to_be_the_least_of_the_others():
    assert of.with_least(np.array([2.0, np.nan, -3.0])).tolist() == [2, -3, -3]
    assert of.with_least(np.array([np.nan, np.nan])).tolist() == [0, 0]


def test_examples_are_found_in_blocks_by_cluster_and_block_both():
    found = of.is_in_blocks(scored(ROWS), {(1, 0), (0, 3), (0, 0)})
    assert found.tolist() == [True, False, True, False, False, True]
    assert not of.is_in_blocks(scored(ROWS), set()).any()


def test_a_round_is_cut_where_the_cluster_or_the_block_changes():
    rows = [(0, 1, 0, 2, 1.0), (0, 1, 0, 3, 2.0), (0, 2, 0, 4, 3.0), (1, 2, 0, 5, 4.0)]
    pulls = of.pulls_of(scored(rows), np.ones(4, bool))
    assert [(pull.cluster_id, pull.block) for pull in pulls] == [(0, 1), (0, 2), (1, 2)]
    assert [pull.tokens.tolist() for pull in pulls] == [[2, 3], [4], [5]]
    assert [pull.influence.tolist() for pull in pulls] == [[1, 2], [3], [4]]
    assert [pull.keys.tolist() for pull in pulls] == [[0, 1], [2], [3]]
    nothing = {name: column[:0] for name, column in scored(rows).items()}
    assert of.pulls_of(nothing, np.ones(0, bool)) == ()


def test_a_pull_counts_even_if_none_of_its_examples_does():
    rows = [(0, 1, 0, 2, 1.0), (0, 1, 0, 3, 2.0), (0, 2, 0, 4, 3.0)]
    pulls = of.pulls_of(scored(rows), np.array([False, True, False]))
    assert [pull.tokens.tolist() for pull in pulls] == [[3], []]
    assert [pull.influence.tolist() for pull in pulls] == [[2], []]
