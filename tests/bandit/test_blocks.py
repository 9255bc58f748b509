import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit import Blocks, block_of, default_samples_per_pull, num_instance_blocks
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


def test_blocks_survive_being_written():
    blocks = some_blocks(3)
    assert Blocks.from_bytes(blocks.to_bytes()).to_bytes() == blocks.to_bytes()


def test_blocks_cut_otherwise_are_refused():
    with pytest.raises(ValueError, match="do not add up"):
        Blocks.zero(COUNTS) + Blocks.zero(np.array([2, 0, 8]))
    with pytest.raises(ValueError, match="block 2 of cluster 0, which has 2 blocks"):
        Blocks.of(COUNTS, np.array([0]), np.array([2]), np.array([5]), np.array([True]))


def test_blocks_that_would_not_nest_are_refused():
    with pytest.raises(ValueError, match=r"power of two.*got 12"):
        num_blocks_of(np.array([100]), np.array([100]), 5, blocks_per_cluster=12)
