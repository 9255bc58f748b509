import math

import numpy as np
import pytest

from beam_quad.bandit import PullScores
from beam_quad.bandit.arms import ArmSums, PullTable


def pull(cluster_id, block, influence, tokens=None, first_key=0):
    size = len(influence)
    return PullScores(
        cluster_id,
        block,
        np.arange(first_key, first_key + size, dtype=np.uint64),
        np.full(size, 10) if tokens is None else np.array(tokens),
        np.array(influence, dtype=np.float64),
    )


def test_means_are_weighted_by_tokens_over_all_pulls_of_an_arm():
    arms = ArmSums(2)
    arms.add(PullTable.of((pull(1, 0, [3.0, 7.0], [30, 10]),)))
    arms.add(PullTable.of((pull(1, 1, [0.0], [40]),)))
    np.testing.assert_array_equal(arms.means, [np.nan, (90 + 70) / 80])
    assert arms.pulls.tolist() == [0, 2]


def test_unscorable_examples_are_left_out_and_an_unscorable_pull_changes_nothing():
    table = PullTable.of((pull(0, 0, [2.0, math.nan]), pull(1, 0, [math.nan])))
    np.testing.assert_array_equal(table.means, [2.0, np.nan])
    arms = ArmSums(2)
    arms.add(table)
    assert arms.pulls.tolist() == [1, 0]


def test_sums_are_exact_where_adding_one_by_one_is_not():
    table = PullTable.of((pull(0, 0, [1e16, 1.0, -1e16, 1.0], [1, 1, 1, 1]),))
    assert table.means.tolist() == [0.5]


def test_a_round_does_not_depend_on_the_order_it_came_in():
    rng = np.random.default_rng(0)
    scores = [
        pull(c, b, rng.normal(size=7), first_key=70 * c + 7 * b) for c in (0, 1) for b in (0, 1)
    ]
    shuffled = []
    for at in rng.permutation(4):
        order = rng.permutation(7)
        p = scores[at]
        shuffled.append(
            PullScores(p.cluster_id, p.block, p.keys[order], p.tokens[order], p.influence[order])
        )
    one, other = PullTable.of(scores), PullTable.of(shuffled)
    np.testing.assert_array_equal(one.keys, other.keys)
    np.testing.assert_array_equal(one.means, other.means)
    assert one.pooled_deviation() == other.pooled_deviation()


def test_deviation_is_pooled_within_pulls():
    # Squares about the means: 4 + 4, 1 + 1, 0; one degree of freedom lost for each of the three pulls.
    table = PullTable.of((pull(0, 0, [3, 7]), pull(1, 0, [101, 103]), pull(2, 0, [5])))
    assert table.pooled_deviation() == math.sqrt(10 / 2)
    assert PullTable.of((pull(0, 0, [3.0]),)).pooled_deviation() == 0.0


def test_scores_that_are_none_are_refused():
    with pytest.raises(ValueError, match="influence inf"):
        PullTable.of((pull(0, 0, [1.0, math.inf]),))
    with pytest.raises(ValueError, match="0 tokens"):
        PullTable.of((pull(0, 0, [1.0], tokens=[0]),))
    with pytest.raises(ValueError, match="2 keys, 3 token counts"):
        pull(0, 0, [1.0, 2.0], tokens=[1, 2, 3])
