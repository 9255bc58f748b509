import math

import numpy as np
import pytest

from beam_quad import additive, seeding
from beam_quad.scoring.sample import SAMPLED_SCORES, ScoreSample


def keys_of(count):
    return seeding.mix(0, "key", np.arange(count, dtype=np.uint64))


def test_of_a_small_corpus_every_finite_score_of_a_usable_row_is_in_the_sample():
    scores = np.array([1.0, math.nan, 9.0, 5.0, -math.inf])[:, None]
    usable = np.array([True, True, False, True, True])
    sample = ScoreSample.of(scores, usable, keys_of(5), 0, 4)
    assert sample.values.tolist() == [[1.0], [5.0]]
    assert (sample.scored, sample.unscorable) == (2, 2)
    assert sample.median(np.ones(1)) == 3.0


def test_no_score_has_a_median_of_zero():
    none = np.zeros((0, 1))
    sample = ScoreSample.of(none, none[:, 0] > 0, keys_of(0), 0, 1)
    assert sample.median(np.ones(1)) == 0.0


def test_the_sample_of_a_large_corpus_is_bounded_does_not_depend_on_splits_and_keeps_the_median():
    num = 200_000
    scores = np.random.default_rng(0).exponential(size=(num, 1))
    usable, keys = np.ones(num, bool), keys_of(num)
    parts = [slice(0, 70_000), slice(70_000, num)]
    sample = additive.total(
        [ScoreSample.of(scores[at], usable[at], keys[at], 3, num) for at in parts],
        ScoreSample(np.zeros((0, 1)), 0, 0),
    )
    whole = ScoreSample.of(scores, usable, keys, 3, num)
    np.testing.assert_array_equal(sample.values, whole.values)
    assert sample.scored == num
    assert len(sample.values) == pytest.approx(SAMPLED_SCORES, rel=0.05)
    assert sample.median(np.ones(1)) == pytest.approx(math.log(2), rel=0.03)


def test_weights_are_over_the_spread_of_the_sample_in_whatever_order_it_came():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(1000, 2)) * [1.0, 4.0]
    usable, keys = np.ones(1000, bool), keys_of(1000)
    parts = [
        ScoreSample.of(scores[at], usable[at], keys[at], 3, 1000)
        for at in np.split(np.arange(1000), 4)
    ]
    one, other = (additive.total(order[1:], order[0]) for order in (parts, parts[::-1]))
    weights = one.weights((2.0, 3.0))
    assert weights.tobytes() == other.weights((2.0, 3.0)).tobytes()
    np.testing.assert_allclose(weights, (2.0, 3.0) / scores.std(axis=0))
    assert one.weights((5.0,)).tolist() == [1.0]
