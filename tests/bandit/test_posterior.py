import math

import numpy as np
import pytest

from beam_quad.bandit.arms import PullScores, PullTable
from beam_quad.bandit.posterior import VarianceComponents, relative_errors


def table_of(cluster_id, tokens, influence):
    """A pull of each cluster."""
    return PullTable.of(
        [
            PullScores(
                int(c), 0, np.flatnonzero(cluster_id == c).astype(np.uint64),
                tokens[cluster_id == c], influence[cluster_id == c],
            )
            for c in np.unique(cluster_id)
        ]
    )  # fmt: skip


def draw(num_clusters, samples, between, within, seed=0):
    """Clusters with normal means, and a pull of each; returns the pulls and the true means."""
    rng = np.random.default_rng(seed)
    true = 3.0 + math.sqrt(between) * rng.normal(size=num_clusters)
    cluster_id = np.repeat(np.arange(num_clusters), samples)
    noise = math.sqrt(within) * rng.normal(size=cluster_id.size)
    tokens = rng.integers(50, 1_000, cluster_id.size)
    return table_of(cluster_id, tokens, true[cluster_id] + noise), true


@pytest.mark.parametrize("between", [0.05, 0.3, 2.0])
def test_the_components_are_those_that_the_scores_were_drawn_with(between):
    pilot, _ = draw(20_000, 5, between, within=1.0)
    found = VarianceComponents.of(pilot)
    assert found.mean == pytest.approx(3.0, abs=0.03)
    assert found.within == pytest.approx(1.0, rel=0.02)
    assert found.between == pytest.approx(between, rel=0.05, abs=0.01)
    correlation = between / (between + 1)
    assert found.intra_cluster_correlation == pytest.approx(correlation, rel=0.05, abs=0.01)


def test_with_equal_tokens_the_components_are_those_of_the_analysis_of_variance():
    rng = np.random.default_rng(1)
    influence = rng.normal(size=(6, 4)) + rng.normal(size=(6, 1))
    pilot = table_of(np.repeat(np.arange(6), 4), np.full(24, 10), influence.ravel())
    mean_square_within = influence.var(axis=1, ddof=1).mean()
    mean_square_between = 4 * influence.mean(axis=1).var(ddof=1)
    found = VarianceComponents.of(pilot)
    assert found.within == pytest.approx(mean_square_within)
    assert found.between == pytest.approx((mean_square_between - mean_square_within) / 4)


def test_two_clusters_of_a_small_unit_have_the_components_of_the_analysis_of_variance_too():
    influence = 1e-3 * np.array([[1.0, 2.0], [4.0, 6.0]])
    found = VarianceComponents.of(table_of(np.repeat([0, 1], 2), np.full(4, 10), influence.ravel()))
    within = influence.var(axis=1, ddof=1).mean()
    between = influence.mean(axis=1).var(ddof=1) - within / 2
    assert found.between == pytest.approx(between)
    assert found.intra_cluster_correlation == pytest.approx(between / (between + within))


def test_posterior_means_are_the_closest_to_the_true_means():
    pilot, true = draw(5_000, 4, between=0.1, within=1.0)
    components, errors = VarianceComponents.of(pilot), relative_errors([pilot], 5_000)
    means = pilot.means
    shrunk = components.posterior_means(means, errors)

    def error(estimate):
        return float(np.mean((estimate - true) ** 2))

    assert error(shrunk) < 0.9 * error(np.full(5_000, means.mean())) < error(means)
    # Shrinking by more or by less is worse: no other strength comes closer.
    for factor in (0.5, 2.0):
        other = VarianceComponents(components.mean, components.between * factor, components.within)
        assert error(other.posterior_means(means, errors)) > error(shrunk)


def test_errors_are_those_of_token_weighted_means_over_all_rounds():
    first = table_of(np.array([0, 0, 2]), np.array([30, 10, 7]), np.ones(3))
    second = table_of(np.array([0]), np.array([20]), np.ones(1))
    errors = relative_errors([first, second], 4)
    np.testing.assert_allclose(errors, [1400 / 60**2, math.inf, 1.0, math.inf])


def test_what_is_not_known_has_the_mean_of_all():
    components = VarianceComponents(mean=2.0, between=1.0, within=3.0)
    found = components.posterior_means(np.array([6.0, np.nan]), np.array([1 / 3, np.inf]))
    np.testing.assert_allclose(found, [4.0, 2.0])
    flat = VarianceComponents(mean=2.0, between=0.0, within=0.0)
    assert flat.posterior_means(np.array([2.0]), np.array([0.5])).tolist() == [2.0]
    assert math.isnan(flat.intra_cluster_correlation)
    nothing = VarianceComponents.of(table_of(np.array([0]), np.array([3]), np.array([np.nan])))
    assert math.isnan(nothing.mean)
