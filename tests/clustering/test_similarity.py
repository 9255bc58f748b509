import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.clustering import PointSum, best_similarity, mean_similarity


def unit_rows(number, seed, dim=16):
    rows = np.random.default_rng(seed).normal(size=(number, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


POINTS, QUERY = unit_rows(40, 0), unit_rows(7, 1)


def test_similarities_are_the_mean_and_the_largest_of_all_cosines():
    cosines = POINTS.astype(float) @ QUERY.astype(float).T
    found = mean_similarity(POINTS, PointSum.of(QUERY))
    np.testing.assert_allclose(found, cosines.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(best_similarity(POINTS, QUERY), cosines.max(axis=1), atol=1e-6)


@given(cut=st.integers(0, 40))
def test_similarities_depend_on_nothing_but_the_point(cut):
    query = PointSum.of(QUERY[:3]) + PointSum.zero(16) + PointSum.of(QUERY[3:])
    parts = [POINTS[:cut], POINTS[cut:]]
    np.testing.assert_array_equal(
        np.concatenate([mean_similarity(part, query) for part in parts]),
        mean_similarity(POINTS, PointSum.from_bytes(query.to_bytes())),
    )
    np.testing.assert_array_equal(
        np.concatenate([best_similarity(part, QUERY) for part in parts]),
        best_similarity(POINTS, QUERY),
    )


def test_what_has_no_query_point_is_refused():
    with pytest.raises(ValueError, match="no point"):
        mean_similarity(POINTS, PointSum.zero(16))
    with pytest.raises(ValueError, match="no point"):
        best_similarity(POINTS, QUERY[:0])
    with pytest.raises(ValueError, match="dimension"):
        best_similarity(POINTS, QUERY[:, :8])
    with pytest.raises(ValueError, match="different embedders"):
        PointSum.zero(16) + PointSum.zero(8)
