import importlib

import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.clustering import Centers, assign

# The package exports a function of the module's name.
module = importlib.import_module("beam_quad.clustering.assign")


def unit(num_rows, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def single(vectors):
    return Centers(vectors, np.ones(len(vectors), np.int32))


def keys(num_points):
    return seeding.keys(str(i) for i in range(num_points))


def test_the_largest_dot_product_wins():
    points, vectors = unit(200, 16, 0), unit(30, 16, 1)
    cluster_id, similarity = assign(points, keys(200), single(vectors), seed=0)
    for point, cluster, value in zip(points.astype(float), cluster_id, similarity, strict=True):
        products = [float(point @ vector) for vector in vectors.astype(float)]
        assert cluster == products.index(max(products))
        assert value == pytest.approx(max(products), abs=1e-6)


@pytest.mark.parametrize("chunk_scores", [1, 1000, 1 << 20])
def test_chunks_and_company_change_no_bit(chunk_scores, monkeypatch):
    points, vectors = unit(300, 16, 0), unit(40, 16, 1)
    expected = assign(points, keys(300), single(vectors), seed=0)
    monkeypatch.setattr(module, "_CHUNK_SCORES", chunk_scores)
    monkeypatch.setattr(module, "_CHUNK_PAIRS", 7)
    for found, wanted in zip(
        assign(points[100:], keys(300)[100:], single(vectors), seed=0), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted[100:])


def test_ties_go_to_the_lowest_center():
    vectors = np.repeat(unit(3, 8, 0), 2, axis=0)
    cluster_id, _ = assign(vectors, keys(6), single(vectors), seed=0)
    assert cluster_id.tolist() == [0, 0, 2, 2, 4, 4]


def test_hash_parts_follow_the_key_and_the_offsets():
    centers = Centers(np.eye(3, dtype=np.float32), np.array([1, 4, 1], np.int32))
    points = np.tile(np.eye(3, dtype=np.float32)[[0, 1, 2]], (1000, 1))
    cluster_id, _ = assign(points, keys(3000), centers, seed=0)
    assert set(cluster_id[0::3]) == {0}
    assert set(cluster_id[1::3]) == {1, 2, 3, 4}
    assert set(cluster_id[2::3]) == {5}
    assert np.bincount(cluster_id)[1:5].min() > 200
    reverse, _ = assign(points[::-1], keys(3000)[::-1], centers, seed=0)
    np.testing.assert_array_equal(reverse[::-1], cluster_id)


def test_centers_of_another_embedder_are_refused():
    with pytest.raises(ValueError, match="another embedder"):
        assign(unit(2, 8, 0), keys(2), single(unit(2, 16, 0)), seed=0)


def test_no_points_give_no_clusters():
    cluster_id, similarity = assign(unit(0, 8, 0), keys(0), single(unit(2, 8, 0)), seed=0)
    assert (cluster_id.shape, similarity.shape) == ((0,), (0,))
