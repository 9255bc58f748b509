import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.refresh.scores import ScoreSums
from beam_quad.refresh.shrinkage import GenerationVariance, allocate_pilot


def draw(num_clusters, samples, between, within, seed=0):
    """Clusters of two generations, whose true means differ; returns their sums, the scores, and the new true means."""
    rng = np.random.default_rng(seed)
    mu = 3 + 2 * rng.normal(size=num_clusters)
    nu = mu + math.sqrt(between) * rng.normal(size=num_clusters)
    rows = []
    for mean, largest in zip((mu, nu), samples, strict=True):
        number = rng.integers(1, largest + 1, num_clusters)
        cluster = np.repeat(np.arange(num_clusters), number)
        scores = mean[cluster] + math.sqrt(within) * rng.normal(size=len(cluster))
        rows.append((cluster, rng.integers(50, 1_000, len(cluster)), scores))
    return *(ScoreSums.of(*each, num_clusters) for each in rows), rows, nu


@pytest.mark.parametrize("between", [0.0, 0.1, 1.0])
def test_the_variances_are_those_that_the_scores_were_drawn_with(between):
    old, new, _, _ = draw(20_000, (20, 6), between, within=1.5)
    found = GenerationVariance.of(old, new)
    assert found.within == pytest.approx(1.5, rel=0.02)
    assert found.between == pytest.approx(between, rel=0.05, abs=0.02)


def test_posterior_means_are_those_of_a_dense_solve():
    """The joint normal of (μ, ν) and the two means, with a flat prior of μ, by a grid-free linear solve."""
    old, new, rows, _ = draw(6, (9, 4), 0.3, within=1.5)
    variance = GenerationVariance(0.3, 1.5)
    found = variance.posterior(old, new)
    for cluster in range(6):
        precision, information = np.array([[1.0, -1.0], [-1.0, 1.0]]) / 0.3, np.zeros(2)
        for at, (own, tokens, scores) in enumerate(rows):
            w, x = tokens[own == cluster].astype(float), scores[own == cluster]
            error = 1.5 * (w @ w) / w.sum() ** 2
            precision[at, at] += 1 / error
            information[at] += (w @ x) / w.sum() / error
        covariance = np.linalg.inv(precision)
        assert found.means[cluster] == pytest.approx((covariance @ information)[1])
        assert found.variances[cluster] == pytest.approx(covariance[1, 1])


def test_posterior_means_are_the_closest_to_the_true_means():
    old, new, _, nu = draw(5_000, (20, 6), 0.2, within=1.5)
    variance = GenerationVariance.of(old, new)

    def error(means):
        return float(np.mean((means - nu) ** 2))

    least = error(variance.posterior(old, new).means)
    assert least < 0.92 * min(error(old.means), error(new.means), error((old + new).means))
    for factor in (0.3, 3.0):
        other = GenerationVariance(factor * variance.between, variance.within)
        assert error(other.posterior(old, new).means) > least


def test_generations_that_do_not_differ_are_pooled():
    rng = np.random.default_rng(1)
    cluster, tokens = np.repeat(np.arange(4), 5), np.full(20, 10)
    old = ScoreSums.of(cluster, tokens, rng.normal(size=20), 4)
    new = ScoreSums.of(cluster[::2], tokens[::2], rng.normal(size=10), 4)
    pooled = (old + new).means
    np.testing.assert_allclose(GenerationVariance(0.0, 2.0).posterior(old, new).means, pooled)
    # Nor does a lack of any variance divide by 0.
    np.testing.assert_allclose(GenerationVariance(0.0, 0.0).posterior(old, new).means, pooled)


def test_generations_that_differ_much_speak_for_themselves_and_without_scores_the_cluster_does():
    old = ScoreSums.of(np.array([0, 1, 1]), np.array([5, 5, 5]), np.array([1.0, 2, 4]), 4)
    new = ScoreSums.of(np.array([0, 2]), np.array([7, 7]), np.array([9.0, 8]), 4)
    found = GenerationVariance(1e12, 1.0).posterior(old, new)
    np.testing.assert_allclose(found.means, [9, 3, 8, np.nan])
    np.testing.assert_allclose(found.own, [1, 0, 1, 0])
    assert found.variances[1] == pytest.approx(1e12)
    assert math.isinf(found.variances[3])


def test_without_a_second_document_in_a_cluster_nothing_is_known_of_generations():
    old = ScoreSums.of(np.array([0, 1]), np.array([5, 5]), np.array([1.0, 2]), 2)
    new = ScoreSums.of(np.array([0, 1]), np.array([5, 5]), np.array([3.0, 9]), 2)
    variance = GenerationVariance.of(old, new)
    assert variance == GenerationVariance(0.0, 0.0)
    np.testing.assert_allclose(variance.posterior(old, new).means, [2, 5.5])


def test_clusters_without_variance_of_their_own_tell_the_generations_exactly():
    old = ScoreSums.of(np.array([0, 0, 1, 1]), np.full(4, 5), np.array([1.0, 1, 2, 2]), 2)
    new = ScoreSums.of(np.array([0, 1]), np.full(2, 5), np.array([4.0, 6]), 2)
    variance = GenerationVariance.of(old, new)
    assert variance == GenerationVariance(12.5, 0.0)
    np.testing.assert_allclose(variance.posterior(old, new).means, [4, 6])


@given(
    documents=st.lists(st.integers(0, 10**12), min_size=1, max_size=30),
    budget=st.integers(0, 10**7),
)
def test_a_pilot_is_in_proportion_to_the_new_documents(documents, budget):
    documents = np.array(documents, np.int64)
    found = allocate_pilot(documents, budget)
    assert found.sum() == min(budget, documents.sum())
    assert np.all(found <= documents)
    quotas = documents * min(1.0, budget / max(1, documents.sum()))
    assert np.all(np.abs(found - quotas) < 1 + 1e-6)


def test_remainders_go_to_the_largest_and_then_to_the_lowest_cluster():
    assert allocate_pilot(np.array([1, 1, 0, 1]), 2).tolist() == [1, 1, 0, 0]
    assert allocate_pilot(np.array([10, 16, 14]), 4).tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="at least 0"):
        allocate_pilot(np.array([1]), -1)
