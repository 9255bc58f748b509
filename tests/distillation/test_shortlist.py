import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.distillation import Interactions, weigh
from beam_quad.distillation.shortlist import (
    landmark_interactions,
    list_length,
    share_weights,
    solve_list,
)


def test_interactions_of_landmarks_are_those_of_unit_gradients_and_symmetric():
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(5, 9))
    half = generator.normal(size=(9, 9))
    hessian = half @ half.T
    norms = np.linalg.norm(gradients, axis=1)
    unit = gradients / norms[:, None]
    found = landmark_interactions(unit @ hessian @ gradients.T, norms)
    np.testing.assert_allclose(found, unit @ hessian @ unit.T / 5)
    np.testing.assert_allclose(found, found.T)


@given(
    amounts=st.lists(st.integers(1, 9), max_size=20), budget=st.integers(1, 30), times=st.integers(1, 4)
)  # fmt: skip
def test_a_list_ends_with_the_example_in_which_so_many_budgets_end(amounts, budget, times):
    count, filled = 0, 0
    for amount in amounts:
        if filled >= times * budget:
            break
        count, filled = count + 1, filled + amount
    assert list_length(np.array(amounts, np.int64), budget, times) == count


def problem(n=14, seed=0):
    generator = np.random.default_rng(seed)
    influence = -np.sort(-generator.normal(size=n)).astype(np.float32)
    amounts = generator.integers(3, 20, n)
    interactions = Interactions(generator.normal(size=(n, 3)) / 4, np.ones(3))
    return influence, amounts, np.arange(n) < 5, interactions


@pytest.mark.parametrize("steps", [0.0, 0.5, 1.0])
def test_weights_are_optimal_at_steps_that_are_measured_along_the_first_order(steps):
    influence, amounts, is_taken, interactions = problem()
    budget, total = int(amounts[:5].sum()), 40.0
    found = solve_list(influence, amounts, is_taken, interactions, budget, total, steps)

    q = interactions.factors @ interactions.factors.T
    first = weigh(influence[:, None], np.where(is_taken, 0, -1)) * (total / len(influence))
    assert first.sum() == pytest.approx(total)
    assert found.eta == pytest.approx(steps * (influence @ first) / (first @ q @ first))
    w = found.solved.weights
    assert w.sum() == pytest.approx(total)
    # Karush-Kuhn-Tucker of min -pᵀw + (η/2) wᵀQw + (λ/2)||w||²: one multiplier on the support, and no less off it.
    slope = found.eta * q @ w + found.solved.regularization * w - influence
    np.testing.assert_allclose(slope[w > 0], slope[w > 0].mean(), atol=1e-8)
    assert (slope >= slope[w > 0].mean() - 1e-8).all()
    assert set(found.order.tolist()) == set(np.flatnonzero(w > 0).tolist())
    assert (np.diff(w[found.order]) <= 0).all()
    # The first order takes the first five.
    assert found.num_shared == np.count_nonzero(w[:5] > 0)
    assert amounts[found.order].sum() >= budget


def test_targets_give_in_proportion_to_what_they_take_and_sum_to_the_corpus():
    weights = [np.array([4.0, 2.0, 2.0, 1.0]), np.array([9.0, 1.0]), np.array([5.0])]
    law, code, none = share_weights(weights, [3, 1, 0], 200)
    np.testing.assert_allclose(law, [75.0, 37.5, 37.5])
    np.testing.assert_allclose(code, [50.0])
    assert not len(none)
    assert not sum(map(len, share_weights(weights, [0, 0, 0], 200)))
