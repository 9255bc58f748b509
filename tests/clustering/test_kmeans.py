import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from beam_quad import seeding
from beam_quad.clustering import (
    Centers,
    assign,
    default_num_clusters,
    fit_centers,
    kmeans,
    sample_rate,
)


def planted(num_clusters, num_points, dim=32, noise=0.5, seed=0):
    """Unit points around random directions, and the direction of each."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(num_clusters, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    labels = generator.integers(num_clusters, size=num_points)
    points = directions[labels] + noise * generator.normal(size=(num_points, dim)) / dim**0.5
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32), labels


def keys(num_points):
    return seeding.keys(str(i) for i in range(num_points))


def test_planted_directions_are_found():
    points, labels = planted(20, 4000)
    centers, report = fit_centers(points, 20, seed=0, max_cluster_share=0.2)
    cluster_id, similarity = assign(points, keys(4000), centers, seed=0)
    assert normalized_mutual_info_score(labels, cluster_id) > 0.9
    np.testing.assert_allclose(np.linalg.norm(centers.vectors, axis=1), 1, rtol=1e-5)
    assert report.inertia == pytest.approx(np.sum(2 - 2 * similarity.astype(float)))


def test_neither_order_nor_threads_change_a_bit():
    points, _ = planted(12, 3000)
    with threadpool_limits(1):
        centers, report = fit_centers(points, 12, seed=3, max_cluster_share=0.1)
    shuffled = points[np.random.default_rng(1).permutation(len(points))]
    other_centers, other_report = fit_centers(shuffled, 12, seed=3, max_cluster_share=0.1)
    assert centers.to_bytes() == other_centers.to_bytes()
    assert report == other_report


def test_another_seed_is_another_fit():
    points, _ = planted(12, 2000)
    one, _ = fit_centers(points, 30, seed=0, max_cluster_share=1)
    other, _ = fit_centers(points, 30, seed=1, max_cluster_share=1)
    assert one.to_bytes() != other.to_bytes()


def test_a_giant_is_split_again_by_direction():
    # Four directions for four centers, the first with 85 % of the points; the limit is 2 / 4.
    giant, _ = planted(1, 3400, noise=0.1)
    others, _ = planted(3, 600, noise=0.1, seed=1)
    points = np.concatenate([giant, others])
    _, before = fit_centers(points, 4, seed=0, max_cluster_share=1)
    centers, report = fit_centers(points, 4, seed=0, max_cluster_share=0.1)
    cluster_id, _ = assign(points, keys(4000), centers, seed=0)
    assert (before.resplit, report.resplit, report.hash_split) == (0, 1, 0)
    assert np.bincount(cluster_id).max() / 4000 <= 0.5
    assert report.inertia < before.inertia


def test_copies_of_one_text_are_split_by_hash():
    points = np.tile(planted(1, 1)[0], (2000, 1))
    centers, report = fit_centers(points, 8, seed=0, max_cluster_share=0.05)
    assert centers.parts.tolist() == [4]  # the limit is never below 2 / 8
    assert (report.num_distinct, report.resplit, report.hash_split) == (1, 1, 1)
    counts = np.bincount(assign(points, keys(2000), centers, seed=0)[0])
    assert len(counts) == 4
    assert counts.min() > 400


def test_no_more_centers_than_distinct_points():
    points = np.repeat(planted(3, 5, noise=1)[0], 10, axis=0)
    centers, report = fit_centers(points, 20, seed=0, max_cluster_share=1)
    assert report.num_distinct == 5
    assert len(centers.vectors) == 5
    assert report.inertia == pytest.approx(0, abs=1e-4)


def test_many_centers_are_initialised_in_groups(monkeypatch):
    monkeypatch.setattr(kmeans, "_INIT_GROUP", 8)
    points, labels = planted(30, 3000, noise=0.3)
    centers, _ = fit_centers(points, 60, seed=0, max_cluster_share=1)
    cluster_id, _ = assign(points, keys(3000), centers, seed=0)
    owners = [np.bincount(labels[cluster_id == c]).max() for c in np.unique(cluster_id)]
    assert sum(owners) / 3000 > 0.9


@pytest.mark.parametrize(
    ("points", "num_clusters", "share", "match"),
    [
        (np.eye(3, dtype=np.float32), 0, 1, "num_clusters"),
        (np.eye(3, dtype=np.float32), 2, 0, "max_cluster_share"),
        (np.eye(3), 2, 1, "float32"),
        (np.zeros((0, 3), np.float32), 2, 1, "float32"),
        (2 * np.eye(3, dtype=np.float32), 2, 1, "norm 1"),
        (np.full((3, 3), np.nan, np.float32), 2, 1, "finite"),
    ],
)
def test_bad_input_is_refused(points, num_clusters, share, match):
    with pytest.raises(ValueError, match=match):
        fit_centers(points, num_clusters, 0, share)


def test_the_default_number_of_clusters_is_clamped():
    assert [default_num_clusters(n) for n in (1, 5, 100, 7200, 10**9)] == [1, 5, 8, 60, 10_000]


def test_centers_survive_their_bytes():
    centers = Centers(np.eye(3, dtype=np.float32), np.array([1, 3, 1], np.int32))
    again = Centers.from_bytes(centers.to_bytes())
    np.testing.assert_array_equal(again.vectors, centers.vectors)
    assert again.offsets.tolist() == [0, 1, 4]
    assert again.num_clusters == 5


def test_a_sample_hardly_ever_has_too_few_points_a_cluster():
    for num_clusters, num_examples in ((8, 10_000), (100, 10**6)):
        expected = sample_rate(num_clusters, num_examples) * num_examples
        spread = np.sqrt(expected)
        assert expected - spread > 256 * num_clusters > expected - 0.06 * expected
