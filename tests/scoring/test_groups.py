import math
import statistics

import numpy as np

from beam_quad.scoring.groups import combine_scores, standardised_weights


def test_scores_of_every_group_spread_in_proportion_to_its_weight():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(500, 3)) * [1e-6, 1.0, 1e3] + [5e-6, -2.0, 0.0]
    weights = standardised_weights((1.0, 2.0, 0.5), scores)
    np.testing.assert_allclose((scores * weights).std(axis=0), [1.0, 2.0, 0.5])


def test_a_weight_is_divided_by_the_deviation_of_its_own_group():
    scores = np.array([[1.0, 10.0], [3.0, 50.0], [5.0, 30.0]])
    expected = [1 / statistics.pstdev([1, 3, 5]), 3 / statistics.pstdev([10, 50, 30])]
    np.testing.assert_allclose(standardised_weights((1.0, 3.0), scores), expected)


def test_an_example_without_a_finite_score_in_every_group_does_not_count():
    scores = np.array([[1.0, 10.0], [3.0, 50.0], [math.nan, 1e9], [1e9, math.inf]])
    np.testing.assert_allclose(standardised_weights((1.0, 1.0), scores), [1.0, 1 / 20])


def test_a_group_that_does_not_vary_keeps_its_weight():
    scores = np.array([[1.0, 7.0], [3.0, 7.0]])
    assert standardised_weights((2.0, 3.0), scores).tolist() == [2.0, 3.0]
    assert standardised_weights((2.0, 3.0), scores[:1]).tolist() == [2.0, 3.0]
    assert standardised_weights((2.0, 3.0), scores[:0]).tolist() == [2.0, 3.0]


def test_scores_are_added_by_weight_and_what_is_not_finite_is_nan():
    scores = np.array([[1.0, 10.0], [math.nan, 1.0], [math.inf, 0.0]])
    combined = combine_scores(scores, np.array([2.0, 0.5]))
    np.testing.assert_array_equal(combined, [7.0, np.nan, np.nan])
