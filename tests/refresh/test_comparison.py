import numpy as np
import pytest
from scipy import stats

from beam_quad.refresh.comparison import ShardMeans, compare, compare_shares, holm


def test_of_shards_of_one_size_that_differ_it_is_students_test_of_their_means():
    rng = np.random.default_rng(0)
    old, new = rng.normal(0, 1, 8), rng.normal(0.5, 1, 3)
    means = [ShardMeans(50 * values, np.full(len(values), 50)) for values in (old, new)]
    # A document's variance below what the shards' means show.
    found = compare(*means, variance=0.5)
    expected = stats.ttest_ind(new, old)
    assert found.value / found.error == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.is_by_shards


def test_of_shards_that_do_not_differ_the_documents_alone_make_the_error():
    means = [ShardMeans(np.full(n, 5.0), np.full(n, 10)) for n in (6, 2)]
    found = compare(*means, variance=4.0)
    assert found.error == pytest.approx(np.sqrt(4 / 60 + 4 / 20))


def test_the_error_is_that_of_means_of_unequal_shards():
    rng = np.random.default_rng(1)
    sizes = [np.array([10, 400, 30, 90, 200, 50, 60]), np.array([300, 20])]
    values, errors = [], []
    for _ in range(4_000):
        means = [
            ShardMeans(n * 0.2 * rng.normal(size=len(n)) + np.sqrt(n) * rng.normal(size=len(n)), n)
            for n in sizes
        ]
        found = compare(*means, variance=1.0)
        values.append(found.value)
        errors.append(found.error**2)
    assert np.mean(errors) == pytest.approx(np.var(values), rel=0.06)


def test_what_few_shards_differ_by_is_assumed():
    """A twentieth of the standard deviation of documents, whatever the shards show."""
    means = [ShardMeans(np.array([30.0, 900.0]), np.array([10, 90])), ShardMeans(np.array([0.0]), np.array([50]))]  # fmt: skip
    found = compare(*means, variance=4.0)
    assert not found.is_by_shards
    assert found.error**2 == pytest.approx(4 / 100 + 4 / 50 + 0.01 * (0.82 + 1))


def test_few_counts_are_compared_by_fishers_test():
    old, new = (ShardMeans(np.array([k]), np.array([n])) for k, n in ((2.0, 300), (5.0, 100)))
    difference, above, _ = compare_shares(old, new)
    exact = stats.fisher_exact([[5, 95], [2, 298]], alternative="greater").pvalue
    assert above == pytest.approx(exact)
    assert above > difference.p_above
    _, _, below = compare_shares(new, old)
    assert below == pytest.approx(exact)


def test_holm_multiplies_by_how_many_are_left():
    np.testing.assert_allclose(holm([0.03, 0.01, 0.9, 0.02]), [0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
