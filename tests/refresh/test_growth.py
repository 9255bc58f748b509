import numpy as np
import pytest

from beam_quad.clustering import Centers
from beam_quad.clustering.assign import nearest
from beam_quad.refresh.growth import grow_centers, num_new_centers

DIM = 32
SIZES = np.array([50, 100, 400, 0])  # of the old clusters: the median one has 100


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def around(rng, center, number, noise=0.1):
    return unit(center + noise * rng.normal(size=(number, DIM)))


def old_centers(rng):
    return Centers(unit(rng.normal(size=(3, DIM))), np.array([1, 2, 1], np.int32))


def ends(rng, centers, number):
    """Points far from their center, and nearer to it than to anything else."""
    at = rng.integers(0, len(centers.vectors), number)
    return unit(centers.vectors[at] + 0.25 * rng.normal(size=(number, DIM)))


@pytest.mark.parametrize("seed", range(3))
def test_a_new_topic_gets_a_center_of_its_own_and_scattered_documents_none(seed):
    rng = np.random.default_rng(seed)
    centers = old_centers(rng)
    topics = unit(rng.normal(size=(3, DIM)))
    sizes = (150, 300, 60)  # the last is smaller than the median old cluster
    far = np.concatenate(
        [around(rng, topic, size) for topic, size in zip(topics, sizes, strict=True)]
        + [ends(rng, centers, 300)]
    )
    grown = grow_centers(centers, far, len(far), SIZES, seed=1)
    assert len(grown.vectors) == 5
    # The small topic may pull one of them a little, as its documents have no other place.
    assert nearest(topics[:2], grown.vectors[3:])[1].min() > 0.93
    index, _ = nearest(far, grown.vectors)
    assert np.bincount(index, minlength=len(grown.vectors))[3:].min() >= 100


def test_old_centers_stay_to_the_bit_and_new_ids_follow_theirs():
    rng = np.random.default_rng(0)
    centers = old_centers(rng)
    far = around(rng, unit(rng.normal(size=(1, DIM))), 150)
    grown = grow_centers(centers, far, len(far), SIZES, seed=1)
    assert grown.vectors[:3].tobytes() == centers.vectors.tobytes()
    assert grown.parts.tolist() == [1, 2, 1, 1]
    assert grown.offsets.tolist() == [0, 1, 3, 4]


def test_the_order_of_the_sample_changes_nothing_and_a_half_of_it_little():
    rng = np.random.default_rng(2)
    centers = old_centers(rng)
    topics = unit(rng.normal(size=(2, DIM)))
    far = np.concatenate([around(rng, topic, 400) for topic in topics])
    grown = grow_centers(centers, far, len(far), SIZES, seed=1)
    shuffled = grow_centers(centers, rng.permutation(far), len(far), SIZES, seed=1)
    assert grown.to_bytes() == shuffled.to_bytes()
    half = grow_centers(centers, far[::2], len(far), SIZES, seed=1)
    assert nearest(topics, half.vectors[3:])[1].min() > 0.98
    assert np.all(np.bincount(nearest(far, half.vectors)[0], minlength=4)[3:] >= 80)


def test_scattered_documents_and_few_ones_open_no_cluster():
    rng = np.random.default_rng(3)
    centers = old_centers(rng)
    assert grow_centers(centers, ends(rng, centers, 500), 500, SIZES, seed=1) is centers
    few = around(rng, unit(rng.normal(size=(1, DIM))), 99)
    assert grow_centers(centers, few, 99, SIZES, seed=1) is centers
    # 99 that stand for twice as many are enough.
    assert len(grow_centers(centers, few, 198, SIZES, seed=1).vectors) == 4
    assert grow_centers(centers, few[:0], 0, SIZES, seed=1) is centers


def test_as_many_may_open_as_the_median_cluster_goes_into_what_is_far():
    assert [num_new_centers(n, SIZES) for n in (99, 100, 350)] == [0, 1, 3]
    with pytest.raises(ValueError, match="no old cluster has a document"):
        num_new_centers(10, np.zeros(3, np.int64))


def test_more_in_the_sample_than_it_is_of_is_refused():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="num_far is 5, but the sample alone has 9"):
        grow_centers(old_centers(rng), ends(rng, old_centers(rng), 9), 5, SIZES, seed=1)
