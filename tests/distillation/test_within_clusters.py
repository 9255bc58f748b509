import numpy as np
import pytest

from beam_quad.distillation import KernelRidge
from beam_quad.distillation.within_clusters import (
    MIN_LANDMARKS,
    RIDGE,
    ClusterRegression,
    fit_by_cluster,
    predict_by_cluster,
)


def scored(count, seed=0):
    """Draws embeddings, influence that they tell something of, tokens and keys, the latter ascending."""
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(count, 3))
    influence = embeddings[:, 0] + generator.normal(size=count) / 4
    keys = np.sort(generator.integers(0, 2**63, count).astype(np.uint64))
    return embeddings, influence, generator.integers(5, 90, count), keys


def test_a_few_scored_examples_say_their_mean_per_token_of_every_other():
    embeddings, influence, tokens, keys = scored(MIN_LANDMARKS - 1)
    fitted = ClusterRegression.fit(embeddings, influence, tokens, keys, seed=0)
    expected = np.average(influence, weights=tokens)
    assert fitted.regression is None
    assert fitted.mean == pytest.approx(expected)
    assert fitted.predict(np.ones((2, 3))) == pytest.approx([expected, expected])


@pytest.mark.parametrize("count", [1, 2, 5, MIN_LANDMARKS - 1])
def test_one_of_a_few_is_predicted_by_the_mean_of_the_others(count):
    embeddings, influence, tokens, keys = scored(count)
    found = ClusterRegression.fit(embeddings, influence, tokens, keys, 0).held_out(
        influence, tokens
    )
    for i in range(count):
        others = np.arange(count) != i
        if count > 1:
            expected = np.average(influence[others], weights=tokens[others])
            assert found[i] == pytest.approx(expected)
        else:
            assert np.isnan(found[i])


def test_enough_scored_examples_predict_by_a_ridge_regression_on_their_embeddings():
    embeddings, influence, tokens, keys = scored(MIN_LANDMARKS)
    fitted = ClusterRegression.fit(embeddings, influence, tokens, keys, seed=3)
    other = np.random.default_rng(1).normal(size=(5, 3))
    # The equations themselves: t̄ + k(x)ᵀ (K + ridge·I)⁻¹ (t - t̄).
    width = KernelRidge.fit(embeddings, influence[:, None], keys, seed=3).bandwidth

    def kernel(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * width**2))

    system = kernel(embeddings, embeddings) + RIDGE * np.eye(MIN_LANDMARKS)
    duals = np.linalg.solve(system, influence - influence.mean())
    expected = influence.mean() + kernel(other, embeddings) @ duals
    np.testing.assert_allclose(fitted.predict(other), expected, atol=1e-6)


def test_a_prediction_does_not_depend_on_which_examples_come_with_it():
    fitted = ClusterRegression.fit(*scored(40), seed=0)
    other = np.random.default_rng(1).normal(size=(33, 3))
    alone = np.concatenate([fitted.predict(row[None]) for row in other])
    np.testing.assert_array_equal(fitted.predict(other), alone)


def test_with_a_regression_each_is_predicted_by_one_without_it():
    embeddings, influence, tokens, keys = scored(12)
    fitted = ClusterRegression.fit(embeddings, influence, tokens, keys, seed=0)
    width = fitted.regression.bandwidth
    expected = []
    for i in range(12):
        others = np.arange(12) != i
        # The mean is that of all: it is not fitted.
        residuals = influence - influence.mean()
        squares = ((embeddings[others, None] - embeddings[None, others]) ** 2).sum(-1)
        system = np.exp(-squares / (2 * width**2)) + RIDGE * np.eye(11)
        k = np.exp(-((embeddings[others] - embeddings[i]) ** 2).sum(1) / (2 * width**2))
        expected.append(influence.mean() + k @ np.linalg.solve(system, residuals[others]))
    np.testing.assert_allclose(fitted.held_out(influence, tokens), expected, rtol=1e-6)


def test_a_regression_is_fitted_to_each_cluster_alone_whatever_the_order():
    embeddings, influence, tokens, keys = scored(30)
    clusters = np.random.default_rng(2).choice([4, 1, 7], 30, p=[0.5, 0.4, 0.1])
    order = np.random.default_rng(3).permutation(30)
    found = list(
        fit_by_cluster(
            clusters[order], embeddings[order], influence[order], tokens[order], keys[order], 0
        )
    )
    assert [cluster for cluster, _, _ in found] == [1, 4, 7]
    for cluster, own, fitted in found:
        alone = np.flatnonzero(clusters == cluster)
        assert order[own].tolist() == alone.tolist()
        expected = ClusterRegression.fit(
            embeddings[alone], influence[alone], tokens[alone], keys[alone], 0
        )
        assert fitted.mean == expected.mean
        np.testing.assert_array_equal(fitted.predict(embeddings), expected.predict(embeddings))


def test_of_a_cluster_without_a_regression_only_pulled_blocks_are_predicted():
    many = ClusterRegression.fit(*scored(20), seed=0)
    few = ClusterRegression.fit(*scored(3), seed=0)
    clusters = np.array([0, 0, 1, 1, 2, -1])
    is_pulled = np.array([True, False, True, False, True, True])
    other = np.random.default_rng(1).normal(size=(6, 3))
    found = predict_by_cluster({0: many, 1: few}.get, clusters, is_pulled, other)
    expected = [*many.predict(other[:2]), few.mean, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(found, expected)
