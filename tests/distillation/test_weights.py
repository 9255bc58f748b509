import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from beam_quad import additive
from beam_quad.distillation import (
    BestLeft,
    SelectionWeights,
    TakenSums,
    project,
    regularization,
    weigh,
)


def top(influence, count):
    taker = np.full(len(influence), -1)
    taker[np.argsort(-influence, kind="stable")[:count]] = 0
    return taker


def test_the_projection_is_that_of_a_general_solver():
    values = np.random.default_rng(0).normal(size=12)
    general = optimize.minimize(
        lambda w: 0.5 * ((w - values) ** 2).sum(),
        np.full(12, 0.5),
        jac=lambda w: w - values,
        bounds=[(0, None)] * 12,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 6, "jac": np.ones_like},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(project(values, 6), general.x, atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 49), seed=st.integers(0, 2**31), scale=st.sampled_from([1e-6, 1, 1e6]))
def test_the_regularization_leaves_exactly_the_top_k_with_weights_that_sum_to_n(count, seed, scale):
    p = (scale * np.random.default_rng(seed).normal(size=50)).astype(np.float32)
    taker = top(p, count)
    lam = regularization(p, count)
    weights = weigh(p[:, None], taker)
    np.testing.assert_array_equal(weights > 0, taker == 0)
    assert weights.sum() == pytest.approx(50, rel=1e-12)
    np.testing.assert_allclose(weights, project(p.astype(float) / lam, 50), rtol=1e-5, atol=1e-6)
    # The upper end of the interval: a little more, and the next example comes in.
    assert (project(p.astype(float) / (lam * 1.001), 50) > 0).sum() > count


def test_ties_that_were_cut_by_hash_keep_their_support():
    p = np.array([3, 1, 1, 1, 0], np.float32)
    taker = np.array([0, -1, 0, -1, -1])
    np.testing.assert_allclose(weigh(p[:, None], taker), [3.75, 0, 1.25, 0, 0])


def test_where_nothing_lower_is_left_out_weights_are_uniform():
    p = np.array([3, 1, 1], np.float32)[:, None]
    np.testing.assert_allclose(weigh(p, np.zeros(3, int)), 1)
    np.testing.assert_allclose(weigh(p[1:], np.array([0, -1])), [2, 0])
    assert np.isinf(regularization(p[:, 0], 3))


def test_each_target_weighs_what_it_took_and_gives_in_proportion():
    influence = np.array([[4, 0], [2, 9], [1, 8], [0, 3], [1, 1]], np.float32)
    weights = weigh(influence, np.array([0, 1, 1, -1, -1]))
    # Of 5, a third by the one and two thirds by the two, whose excess over 3 is 6 and 5.
    np.testing.assert_allclose(weights, [5 / 3, 10 / 3 * 6 / 11, 10 / 3 * 5 / 11, 0, 0])


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(0, 80), seed=st.integers(0, 2**31))
def test_workers_weigh_their_rows_alike_to_the_bit(cut, seed):
    generator = np.random.default_rng(seed)
    p = (generator.normal(size=(80, 2)) * 10.0 ** generator.integers(-38, 30, (80, 1))).astype(
        np.float32
    )
    taker = np.where(generator.random(80) < 0.3, generator.integers(0, 2, 80), -1)
    taker[np.argmax(p, axis=0)] = [0, 1]
    parts = [slice(cut, None), slice(0, cut)]
    taken = additive.total([TakenSums.of(p[s], taker[s]) for s in parts], TakenSums.zero(2))
    left = [BestLeft.of(p[s], taker[s], taken.lowest) for s in parts]
    weights = SelectionWeights.from_sums(taken, left[0] + left[1])
    np.testing.assert_array_equal(
        np.concatenate([weights.of(p[s], taker[s]) for s in parts[::-1]]), weigh(p, taker)
    )
    assert float(taken.total(0)) == pytest.approx(p[taker == 0, 0].astype(float).sum(), rel=1e-9)


def test_what_cannot_be_weighed_is_refused():
    p = np.zeros((3, 1), np.float32)
    with pytest.raises(ValueError, match="nothing was taken"):
        weigh(p, np.full(3, -1))
    with pytest.raises(ValueError, match="float32"):
        weigh(p.astype(np.float16), np.zeros(3, int))
    with pytest.raises(ValueError, match="rows 1 are not"):
        weigh(np.array([[0], [np.nan]], np.float32), np.zeros(2, int))
    with pytest.raises(ValueError, match="cannot select 4 of 3"):
        regularization(p[:, 0], 4)
    with pytest.raises(ValueError, match="cannot spread 0"):
        project(p[:, 0], 0)
