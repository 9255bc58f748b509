import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad import seeding
from beam_quad.bandit import (
    Blocks,
    block_of,
    default_samples_per_pull,
    example_blocks,
    first_drawn,
    highest_draws,
    num_drawn,
    num_groups,
    num_instance_blocks,
)
from beam_quad.bandit import num_blocks as num_blocks_of

COUNTS = np.array([2, 0, 4], dtype=np.int32)


def some_blocks(seed, size=50):
    rng = np.random.default_rng(seed)
    cluster_id = rng.choice([0, 2], size)
    block = rng.integers(0, COUNTS[cluster_id])
    return Blocks.of(
        COUNTS, cluster_id, block, rng.integers(2, 100, size), rng.uniform(size=size) < 0.5
    )


def test_a_pull_is_a_32nd_of_a_cluster_between_4_and_10():
    assert [default_samples_per_pull(n, 60) for n in (7_200, 15_360, 10**6)] == [4, 8, 10]


def test_blocks_hold_a_pull_of_the_reserve_and_twice_a_pull_of_all():
    # With 5 samples: 160 examples fill 16 blocks of 10; 159 only 8; 40 of the reserve 8 blocks of 5; 39 only 4.
    examples = np.array([160, 159, 1000, 1000, 1, 0])
    reserve = np.array([160, 159, 40, 39, 0, 0])
    np.testing.assert_array_equal(num_blocks_of(examples, reserve, 5), [16, 8, 8, 4, 1, 0])


def test_instance_blocks_hold_about_a_pull_and_are_capped_in_all():
    examples = reserve = np.array([3200, 130, 32, 1, 0])
    np.testing.assert_array_equal(num_instance_blocks(examples, reserve, 32), [128, 4, 1, 1, 0])
    capped = num_instance_blocks(examples, reserve, 32, max_blocks=70)
    np.testing.assert_array_equal(capped, [64, 4, 1, 1, 0])


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(0, 5))
def test_blocks_nest(seed, power):
    rng = np.random.default_rng(seed)
    u, cluster_id = rng.uniform(size=100), np.zeros(100, dtype=np.int64)
    coarse = block_of(cluster_id, u, np.array([2**power]))
    fine = block_of(cluster_id, u, np.array([2 ** (power + 1)]))
    np.testing.assert_array_equal(fine // 2, coarse)


def test_every_example_is_counted_in_its_block():
    blocks = Blocks.of(
        COUNTS,
        cluster_id=np.array([0, 2, 2, 0]),
        block=np.array([1, 3, 3, 0]),
        tokens=np.array([5, 7, 11, 13]),
        in_reserve=np.array([True, False, True, False]),
    )
    assert list(blocks) == [(0, 0, 1, 13, 0), (0, 1, 1, 5, 1), (2, 3, 2, 18, 1)]
    assert blocks.pullable.tolist() == [1, 5]
    assert blocks.pullable_starts.tolist() == [0, 1, 1, 2]
    assert np.flatnonzero(blocks.is_unreachable).tolist() == [0]
    assert blocks.per_cluster(blocks.tokens).tolist() == [18, 0, 18]


def test_blocks_add_up_and_zero_is_neutral():
    a, b = some_blocks(1), some_blocks(2)
    total = Blocks.zero(COUNTS) + a + b
    np.testing.assert_array_equal(total.tokens, a.tokens + b.tokens)
    assert (b + a).to_bytes() == total.to_bytes()


def test_blocks_survive_being_written_and_sent():
    blocks = some_blocks(3)
    for read in (Blocks.from_bytes(blocks.to_bytes()), pickle.loads(pickle.dumps(blocks))):
        assert read.to_bytes() == blocks.to_bytes()
    assert (read + blocks).to_bytes() == (blocks + blocks).to_bytes()


def test_what_is_sent_of_a_split_does_not_grow_with_the_blocks_that_it_has_nothing_of():
    few, many = (
        Blocks.of(
            np.array([size], np.int32),
            np.zeros(5, int),
            np.arange(5),
            np.full(5, 9),
            np.ones(5, bool),
        )
        for size in (8, 2**17)
    )
    assert len(pickle.dumps(many)) == len(pickle.dumps(few))


def test_blocks_cut_otherwise_are_refused():
    with pytest.raises(ValueError, match="do not add up"):
        Blocks.zero(COUNTS) + Blocks.zero(np.array([2, 0, 8]))
    with pytest.raises(ValueError, match="block 2 of cluster 0, which has 2 blocks"):
        Blocks.of(COUNTS, np.array([0]), np.array([2]), np.array([5]), np.array([True]))


def test_blocks_that_would_not_nest_are_refused():
    with pytest.raises(ValueError, match=r"power of two.*got 12"):
        num_blocks_of(np.array([100]), np.array([100]), 5, blocks_per_cluster=12)


def test_an_example_is_in_the_block_that_its_own_hash_falls_into():
    keys = seeding.keys(f"part-0#{i}" for i in range(400))
    clusters = np.arange(400) % 3
    num = np.array([1, 4, 16], np.int32)
    draws = seeding.uniform(5, "block", keys)
    expected = [int(u * num[c]) for u, c in zip(draws, clusters, strict=True)]
    assert example_blocks(5, keys, clusters, num).tolist() == expected
    order = np.random.default_rng(0).permutation(400)
    assert example_blocks(5, keys[order], clusters[order], num).tolist() == [
        expected[i] for i in order
    ]
    assert example_blocks(6, keys, clusters, num).tolist() != expected


@pytest.mark.parametrize("samples", [1, 4, 10])
def test_hardly_a_block_lacks_a_candidate_below_its_highest_draw(samples):
    draws = seeding.mix(0, "candidate", np.arange(200_000, dtype=np.uint64)).reshape(1000, 200)
    (highest,) = highest_draws(np.array([200]), samples)
    below = (draws <= highest).sum(axis=1)
    assert (below < samples).mean() < 0.01
    assert below.mean() == pytest.approx(num_drawn(samples), rel=0.03)


def test_every_draw_counts_where_a_block_has_few_candidates_or_is_scored_whole():
    draws = np.array([0, 2**64 - 2**12], np.uint64)
    assert (draws <= highest_draws(np.array([0, 5]), 4)[:, None]).all()
    assert highest_draws(np.array([10**6]), None).tolist() == [2**64 - 1]


def test_a_pull_scores_the_lowest_draws_of_its_block_and_keys_decide_between_equals():
    clusters = np.array([1, 0, 1, 1, 1, 0])
    blocks = np.array([0, 2, 0, 1, 0, 2])
    draws = np.array([9, 3, 4, 7, 4, 1], np.uint64)
    keys = np.array([10, 11, 13, 14, 12, 15], np.uint64)
    assert first_drawn(clusters, blocks, draws, keys, None).tolist() == [5, 1, 4, 2, 0, 3]
    assert first_drawn(clusters, blocks, draws, keys, 2).tolist() == [5, 1, 4, 2, 3]
    assert first_drawn(clusters, blocks, draws, keys, 1).tolist() == [5, 4, 3]


def test_a_group_of_arms_holds_two_thousand_candidates_and_there_are_at_most_256():
    # 1,000 blocks of 3 candidates and 1,000 of more than the 10 that are kept.
    candidates = np.repeat([3, 50], 1000)
    assert num_groups(candidates, 10) == 13_000 // 2048
    assert num_groups(candidates[:5], 10) == 1
    assert num_groups(np.full(200_000, 50), 10) == 256


def test_blocks_without_a_part_lose_its_tokens_and_keep_their_candidates():
    whole, part = some_blocks(1), some_blocks(2, 5)
    left = (whole + part).without(part)
    np.testing.assert_array_equal(left.tokens, whole.tokens)
    np.testing.assert_array_equal(left.candidates, whole.candidates + part.candidates)
    np.testing.assert_array_equal(left.examples, whole.examples + part.examples)
