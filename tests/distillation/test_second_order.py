import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from beam_quad.distillation import Interactions, project, solve, solve_for_budget


def problem(n, rank, seed, negative=0):
    generator = np.random.default_rng(seed)
    signs = np.where(np.arange(rank) < negative, -1.0, 1.0)
    interactions = Interactions(generator.normal(size=(n, rank)), signs)
    return generator.normal(size=n), interactions


def dense(interactions):
    return interactions.factors @ np.diag(interactions.signs) @ interactions.factors.T


def general_solution(p, r, total):
    n = len(p)
    found = optimize.minimize(
        lambda w: -p @ w + 0.5 * w @ r @ w,
        np.full(n, total / n),
        jac=lambda w: r @ w - p,
        bounds=[(0, None)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - total, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return found.x


def assert_optimal(p, r, weights, total):
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(total)
    gradient = r @ weights - p
    multiplier = gradient[weights > 0].mean()
    scale = np.abs(r).max() * weights.max() + np.abs(p).max()
    np.testing.assert_allclose(gradient[weights > 0], multiplier, atol=1e-8 * scale)
    assert gradient.min() >= multiplier - 1e-8 * scale


@pytest.mark.parametrize(("eta", "lam"), [(0.1, 1.0), (1.0, 0.1), (3.0, 2.0)])
def test_weights_are_those_of_a_general_solver(eta, lam):
    p, interactions = problem(15, 4, seed=3)
    expected = general_solution(p, eta * dense(interactions) + lam * np.eye(15), 15)
    found = solve(p, interactions, eta, lam, 15)
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)
    assert not found.was_raised


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    eta=st.floats(1e-3, 1e3),
    lam=st.floats(1e-3, 1e3),
    rank=st.integers(1, 50),
)
def test_weights_are_optimal(seed, eta, lam, rank):
    p, interactions = problem(40, rank, seed, negative=rank // 3)
    found = solve(p, interactions, eta, lam, 40)
    r = eta * dense(interactions) + found.regularization * np.eye(40)
    assert_optimal(p, r, found.weights, 40)


def test_active_sets_that_cycle_are_followed_by_single_changes_to_the_optimum():
    p, interactions = problem(150, 30, seed=0)
    found = solve(p, interactions, 10.0, 0.01, 150)
    assert found.num_changes > 0
    r = 10 * dense(interactions) + 0.01 * np.eye(150)
    assert_optimal(p, r, found.weights, 150)


def test_without_curvature_it_is_the_first_order():
    p, interactions = problem(40, 6, seed=1)
    found = solve(p, interactions, eta=0, regularization=0.3, total=40)
    np.testing.assert_allclose(found.weights, project(p / 0.3, 40), atol=1e-12)


def test_two_that_are_alike_share_a_weight_that_the_first_order_gives_twice():
    p = np.array([1.0, 1.0, 0.9])
    alike = Interactions(np.array([[1.0, 0], [1, 0], [0, 1]]), np.ones(2))
    weights = solve(p, alike, eta=1.0, regularization=0.1, total=3).weights
    assert weights[0] == pytest.approx(weights[1])
    assert weights[2] > 1.5 * weights[0]


def test_an_indefinite_problem_is_mended_and_said_or_refused():
    p, interactions = problem(20, 5, seed=0, negative=2)
    least = np.linalg.eigvalsh(dense(interactions)).min()
    found = solve(p, interactions, 2.0, 0.5, 20)
    assert found.was_raised
    assert found.regularization == pytest.approx(-1.1 * 2 * least)
    with pytest.raises(ValueError, match=r"indefinite with regularization 0\.5"):
        solve(p, interactions, 2.0, 0.5, 20, raise_regularization=False)


def test_interactions_propagate_from_landmarks():
    generator = np.random.default_rng(0)
    coefficients, half = generator.normal(size=(30, 8)), generator.normal(size=(8, 8))
    landmark_interactions = half + half.T
    interactions = Interactions.propagate(coefficients, landmark_interactions, 300)
    expected = 8 / 300 * coefficients @ landmark_interactions @ coefficients.T
    np.testing.assert_allclose(dense(interactions), expected, atol=1e-12)
    w = generator.normal(size=30)
    np.testing.assert_allclose(interactions.times(w), expected @ w, atol=1e-12)
    least, largest = interactions.extreme_eigenvalues
    eigenvalues = np.linalg.eigvalsh(expected)
    np.testing.assert_allclose([least, largest], eigenvalues[[0, -1]])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), order=st.randoms())
def test_the_order_of_examples_does_not_matter(seed, order):
    p, interactions = problem(30, 5, seed)
    shuffled = list(range(30))
    order.shuffle(shuffled)
    moved = Interactions(interactions.factors[shuffled], interactions.signs)
    found, again = solve(p, interactions, 0.5, 0.2, 30), solve(p[shuffled], moved, 0.5, 0.2, 30)
    np.testing.assert_allclose(again.weights, found.weights[shuffled], atol=1e-10)


def test_the_support_is_made_to_hold_a_budget():
    p, interactions = problem(200, 8, seed=5)
    tokens = np.random.default_rng(5).integers(10, 90, 200)
    found = solve_for_budget(p, interactions, 0.1, tokens, 2000, total=200)
    less = solve(p, interactions, 0.1, found.regularization * 0.99, 200)
    assert tokens[found.weights > 0].sum() >= 2000 > tokens[less.weights > 0].sum()
    everything = solve_for_budget(p, interactions, 0.1, tokens, tokens.sum(), total=200)
    assert (everything.weights > 0).all()


def test_what_cannot_be_solved_is_refused():
    p, interactions = problem(20, 5, seed=0)
    with pytest.raises(ValueError, match="regularization and total positive"):
        solve(p, interactions, 1.0, 0.0, 20)
    with pytest.raises(ValueError, match="influence must have 20 rows, got 19"):
        solve(p[1:], interactions, 1.0, 1.0, 20)
    with pytest.raises(ValueError, match="less than the budget of 21"):
        solve_for_budget(p, interactions, 1.0, np.ones(20), 21, 20)
    with pytest.raises(ValueError, match="symmetric"):
        Interactions.propagate(np.ones((4, 2)), np.array([[1.0, 2.0], [0.0, 1.0]]), 4)
    with pytest.raises(ValueError, match="not over the same landmarks"):
        Interactions.propagate(np.ones((4, 2)), np.eye(3), 4)
