import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.clustering import ClusterSums


def rows(num_rows, seed=0):
    generator = np.random.default_rng(seed)
    return (
        generator.integers(-1, 5, num_rows),
        generator.integers(2, 900, num_rows),
        generator.random(num_rows) < 0.3,
        generator.random(num_rows).astype(np.float32),
    )


def sums_of(columns):
    return ClusterSums.of(*columns, valid=columns[0] >= 0, num_clusters=5)


def test_sums_count_valid_rows_by_cluster():
    sums = ClusterSums.of(
        cluster_id=np.array([0, 2, 2, -1]),
        tokens=np.array([10, 20, 30, 40]),
        in_reserve=np.array([True, False, True, True]),
        similarity=np.array([0.5, 0.25, 0.75, np.nan]),
        valid=np.array([True, True, True, False]),
        num_clusters=3,
    )
    assert sums.examples.tolist() == [1, 0, 2]
    assert sums.tokens.tolist() == [10, 0, 50]
    assert sums.reserve.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(sums.cohesion, [0.5, np.nan, 0.5])


@given(cut=st.integers(0, 100), seed=st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_the_split(cut, seed):
    columns = rows(100, seed)
    parts = sums_of([column[cut:] for column in columns]) + sums_of([c[:cut] for c in columns])
    whole = sums_of(columns) + ClusterSums.zero(5)
    assert parts.to_bytes() == whole.to_bytes()
    assert ClusterSums.from_bytes(whole.to_bytes()).to_bytes() == whole.to_bytes()


def test_sums_over_other_centers_are_refused():
    with pytest.raises(ValueError, match="different centers"):
        ClusterSums.zero(1) + ClusterSums.zero(5)


def test_a_cluster_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"not all in \[0, 4\)"):
        ClusterSums.of(*rows(100), valid=rows(100)[0] >= 0, num_clusters=4)
