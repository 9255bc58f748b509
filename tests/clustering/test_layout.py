import numpy as np
import pytest

from beam_quad.clustering import layout


def blobs(num: int, dim: int = 32) -> np.ndarray:
    """Unit vectors around four directions, by turns."""
    rng = np.random.default_rng(0)
    vectors = np.eye(4, dim)[np.arange(num) % 4] + rng.normal(scale=0.05, size=(num, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("num", [8, 60])
def test_neighbours_stay_neighbours(num):
    vectors = blobs(num)
    plane = layout(vectors, 0)
    apart = np.linalg.norm(plane[:, None] - plane, axis=2) + np.diag(np.full(num, np.inf))
    assert (apart.argmin(axis=1) % 4 == np.arange(num) % 4).all()
    np.testing.assert_array_equal(layout(vectors, 0), plane)


def test_three_centers_keep_their_distances():
    vectors = blobs(3)
    plane = layout(vectors, 0)
    np.testing.assert_allclose(
        np.linalg.norm(plane[:, None] - plane, axis=2),
        np.linalg.norm(vectors[:, None] - vectors, axis=2),
        atol=1e-6,
    )


@pytest.mark.parametrize("vectors", [np.ones((1, 5)), np.ones((40, 5)), np.ones((2, 1))])
def test_centers_that_are_all_the_same_are_placed_too(vectors):
    plane = layout(vectors.astype(np.float32), 0)
    assert plane.shape == (len(vectors), 2)
    assert np.isfinite(plane).all()
