"""Second-order weights, which also account for interactions between the examples' gradients in the target's loss.

    min_w  -pᵀw + (η/2) wᵀQw + (λ/2)||w||²     subject to  w >= 0,  1ᵀw = n

is solved by a primal-dual active set on R = ηQ + λI. Q is never formed: it is given by low-rank factors, and every solve uses
the Woodbury identity, O(n·rank²).

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
  Hintermüller, Ito & Kunisch, The Primal-Dual Active Set Strategy as a Semismooth Newton Method, 2002.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg

from beam_quad.distillation.checks import refuse_not_finite, refuse_other_lengths
from beam_quad.errors import IntegrityError

Array = np.ndarray[Any, np.dtype[Any]]

_MAX_ACTIVE_SETS = 50
_CHANGES_PER_EXAMPLE = 20
# If λ is below exp(-20) times the λ that spreads the weights over all examples, R is too ill-conditioned to solve.
_SEARCHED_LOGS = 20
# λ is raised to this multiple of the value at which R is singular.
_DEFINITE_MARGIN = 1.1
_ALMOST_SINGULAR = 1 + 1e-6
# Eigenvalues of Q_L below this share of the largest are rounding.
_RANK_TOLERANCE = 1e-13


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """The interaction Q of pairs of examples in factored form, Q = V diag(signs) Vᵀ.

    Attributes:
      factors: V, float64 [n, rank].
      signs: 1 or -1, float64 [rank].
    """

    factors: Array
    signs: Array

    @classmethod
    def propagate(
        cls, coefficients: Array, landmark_interactions: Array, num_examples: int
    ) -> "Interactions":
        """Propagates the exact interactions of landmarks: Q = (l/n) C Q_L Cᵀ.

        Args:
          coefficients: C of the examples to be weighted (`KernelRidge.coefficients`), float64 [m, l].
          landmark_interactions: Q_L = (1/l) G_L H_T G_Lᵀ, symmetric up to rounding, float64 [l, l], in the same order.
          num_examples: n, the number of examples of the whole corpus, of which m are weighted.

        Raises:
          ValueError: If Q_L is not symmetric, shapes do not fit, or a number is not finite (names its row).
        """
        num_landmarks = len(landmark_interactions)
        if coefficients.ndim != 2 or landmark_interactions.shape != 2 * (coefficients.shape[1],):
            raise ValueError(
                f"coefficients {coefficients.shape} and landmark interactions {landmark_interactions.shape} "
                "are not over the same landmarks"
            )
        refuse_not_finite(coefficients, "coefficients")
        refuse_not_finite(landmark_interactions, "interactions of landmarks")
        asymmetry = np.abs(landmark_interactions - landmark_interactions.T).max()
        if asymmetry > 1e-3 * np.abs(landmark_interactions).max():
            raise ValueError(
                f"interactions of landmarks must be symmetric, but differ by {asymmetry:.3g} from their transpose"
            )
        symmetric = (landmark_interactions + landmark_interactions.T) / 2
        eigenvalues, vectors = np.linalg.eigh(symmetric.astype(np.float64))
        # Eigenvalues that are rounding would add a column each to the factors, and every solve is quadratic in these.
        kept = np.abs(eigenvalues) > _RANK_TOLERANCE * np.abs(eigenvalues).max()
        scale = np.sqrt(np.abs(eigenvalues[kept]) * num_landmarks / num_examples)
        return cls(coefficients @ (vectors[:, kept] * scale), np.sign(eigenvalues[kept]))

    def times(self, w: Array) -> Array:
        """Multiplies Q by a vector, float64 [n]."""
        product: Array = self.factors @ (self.signs * (self.factors.T @ w))
        return product

    @functools.cached_property
    def extreme_eigenvalues(self) -> tuple[float, float]:
        """The least and the largest eigenvalue of Q, clipped to at most 0 and at least 0."""
        # V S Vᵀ and B S Bᵀ with BᵀB = VᵀV have the same non-zero eigenvalues, and B is rank × rank.
        squares, vectors = np.linalg.eigh(self.factors.T @ self.factors)
        b = np.sqrt(np.maximum(squares, 0))[:, None] * vectors.T
        eigenvalues = np.linalg.eigvalsh((b * self.signs) @ b.T)
        return float(min(0.0, eigenvalues.min(initial=0))), float(eigenvalues.max(initial=0))


@dataclasses.dataclass(frozen=True, eq=False)
class SecondOrderWeights:
    """Second-order weights and statistics of the solver.

    Attributes:
      weights: Float64 [n], at least 0, with the requested sum.
      regularization: The λ used.
      was_raised: Whether λ was raised above the requested one to make R positive definite.
      num_active_sets: Number of active sets tried.
      num_changes: Number of single-example changes made after the active sets cycled; 0 if they did not.
    """

    weights: Array
    regularization: float
    was_raised: bool
    num_active_sets: int
    num_changes: int


def solve(
    influence: Array,
    interactions: Interactions,
    eta: float,
    regularization: float,
    total: float,
    raise_regularization: bool = True,
) -> SecondOrderWeights:
    """Finds the weights that minimise -pᵀw + (η/2) wᵀQw + (λ/2)||w||² on the scaled simplex.

    Args:
      influence: p, finite, float [n].
      interactions: Q over the same examples.
      eta: η >= 0; 0 is the first order.
      regularization: λ > 0.
      total: Sum of the weights: the number of examples of the corpus.
      raise_regularization: Whether λ is raised if negative eigenvalues of Q make R = ηQ + λI indefinite. An exact Hessian
        has negative eigenvalues, a Gauss-Newton product has none.

    Raises:
      ValueError: If a number is out of range or not finite, lengths differ, or R is indefinite and λ may not be raised.
    """
    p = np.asarray(influence, np.float64)
    refuse_other_lengths(len(interactions.factors), influence=p)
    refuse_not_finite(p, "influence")
    if eta < 0 or regularization <= 0 or total <= 0:
        raise ValueError(
            f"eta must be at least 0, regularization and total positive; got {eta}, {regularization} and {total}"
        )
    # The sum of w is fixed, so a constant in p does not change the solution; without it p rounds less.
    problem = _Problem(p - p.mean(), interactions, eta, regularization, float(total))
    problem = problem.made_definite(raise_regularization)
    weights, num_active_sets, is_right = problem.by_active_sets()
    num_changes = 0
    if not is_right:
        weights, num_changes = problem.by_single_changes(weights)
    was_raised = problem.regularization > regularization
    return SecondOrderWeights(
        weights, problem.regularization, was_raised, num_active_sets, num_changes
    )


def solve_for_budget(
    influence: Array,
    interactions: Interactions,
    eta: float,
    amounts: Array,
    budget: float,
    total: float,
) -> SecondOrderWeights:
    """Finds the weights at the least λ whose support fills a budget, to within a thousandth of λ.

    A larger λ spreads the weights over more examples. Unlike in the first order, no formula gives λ from the size of the
    support, so λ is found by bisection on log λ. If the support exceeds the budget, the caller drops the lowest weights.

    Args:
      influence: p, float [n].
      interactions: Q over the same examples.
      eta: η >= 0.
      amounts: Share of the budget that each example takes: its tokens, or 1; [n].
      budget: In the unit of `amounts`.
      total: Sum of the weights.

    Raises:
      ValueError: If all examples together do not fill the budget, or as `solve`.
    """
    refuse_other_lengths(len(influence), amounts=amounts)
    if np.sum(amounts) < budget:
        raise ValueError(f"all examples hold {np.sum(amounts)}, less than the budget of {budget}")

    def attempt(log_regularization: float) -> SecondOrderWeights:
        return solve(influence, interactions, eta, math.exp(log_regularization), total)

    def holds(attempted: SecondOrderWeights) -> bool:
        return bool(np.sum(amounts[attempted.weights > 0]) >= budget)

    # At this λ neither influence nor curvature moves a weight by more than the mean weight: nearly all weights are positive.
    spread = float(np.ptp(influence)) * len(influence) / total
    spread += eta * interactions.extreme_eigenvalues[1]
    if not spread:
        # All examples have the same influence and no curvature, so all weights are equal at any λ.
        return SecondOrderWeights(
            np.full(len(amounts), total / len(amounts)), math.inf, False, 0, 0
        )
    # The search needs an upper end whose support is large enough; the estimate above may be a little low.
    high = math.log(max(spread, np.finfo(float).tiny)) + 1
    found = attempt(high)
    while not holds(found):
        high += 2
        found = attempt(high)
    low = high - _SEARCHED_LOGS
    while high - low > 1e-3:
        middle = (low + high) / 2
        attempted = attempt(middle)
        if holds(attempted):
            found, high = attempted, middle
        else:
            low = middle
    return found


def newton_step(influence: Array, interactions: Interactions, weights: Array) -> float:
    """Finds the η at which a step along the weights lowers the target's loss the most, pᵀw / wᵀQw.

    Args:
      influence: p, float [n].
      interactions: Q over the same examples.
      weights: w, float [n].

    Returns:
      η; 0 if the loss does not fall along w, or if its fall is unbounded.
    """
    slope = float(np.asarray(influence, np.float64) @ weights)
    curvature = float(weights @ interactions.times(weights))
    return slope / curvature if slope > 0 and curvature > 0 else 0.0


def cut_support(amounts: Sequence[Array], allowances: Sequence[int], budget: int) -> list[int]:
    """Decides how many examples of its support each target takes, in proportion to the allowances, until a budget is met.

    Args:
      amounts: For each target, the budget taken by each of its examples in order, int64 [n].
      allowances: Allowance of each target, positive. Together the allowances fill the budget, except for the example in which
        it ends.
      budget: Budget of all targets together.

    Returns:
      The number of examples of each target. In total they meet the budget to within one example, and each target meets its
      allowance to within one example if its support is large enough.
    """
    if not amounts:
        return []
    owner = np.repeat(np.arange(len(amounts)), [len(own) for own in amounts])
    # Examples of all targets are taken in order of the share of its allowance that a target has used before each.
    before = [np.cumsum(own) - own for own in amounts]
    shares = [own / allowance for own, allowance in zip(before, allowances, strict=True)]
    order = np.lexsort((owner, np.concatenate(shares)))
    amount = np.concatenate(amounts)[order]
    filled = np.cumsum(amount)
    # The allowances may exceed the budget by the example in which it ends; that example is taken.
    is_taken = (filled - amount < budget) | (filled <= sum(allowances))
    counts: list[int] = np.bincount(owner[order][is_taken], minlength=len(amounts)).tolist()
    return counts


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    p: Array
    q: Interactions
    eta: float
    regularization: float
    total: float

    def made_definite(self, may_raise: bool) -> "_Problem":
        least = self.eta * self.q.extreme_eigenvalues[0]
        if self.regularization > -_ALMOST_SINGULAR * least:
            return self
        if not may_raise:
            raise ValueError(
                f"eta Q has an eigenvalue of {least:.3g}, so R is indefinite with regularization {self.regularization:.3g}; "
                f"use more than {-least:.3g}, a smaller eta, or the Gauss-Newton product for Q"
            )
        return dataclasses.replace(self, regularization=-_DEFINITE_MARGIN * least)

    def times(self, w: Array) -> Array:
        """R w."""
        return self.eta * self.q.times(w) + self.regularization * w

    def tolerance(self, weights: Array) -> float:
        """Rounding error allowed in a multiplier."""
        curvature = self.regularization + self.eta * self.q.extreme_eigenvalues[1]
        return 1e-13 * float(np.abs(self.p).max() + curvature * np.abs(weights).max())

    def by_active_sets(self) -> tuple[Array, int, bool]:
        """Iterates active sets, starting with all weights free.

        If R is ill-conditioned (λ below a thousandth of ηQ), the sets may cycle.

        Returns:
          The weights, the number of sets tried, and whether the last set is optimal.
        """
        free = np.ones(len(self.p), bool)
        seen = set()
        for tried in range(1, _MAX_ACTIVE_SETS + 1):
            seen.add(np.packbits(free).tobytes())
            weights, multiplier = self.on_free_set(free)
            slack = self.times(weights) - self.p + multiplier
            # Negative free weights move to the bound; weights at the bound with a multiplier of the wrong sign become free.
            next_free = np.where(free, weights >= 0, slack < -self.tolerance(weights))
            if np.array_equal(next_free, free):
                return weights, tried, True
            free = next_free
            # The next set depends only on the current one, so a set that comes back starts a cycle.
            if np.packbits(free).tobytes() in seen:
                break
        return weights, tried, False

    def by_single_changes(self, start: Array) -> tuple[Array, int]:
        """Changes the free set one example at a time, starting from feasible weights.

        The objective falls with every change, so this converges even if the active sets cycle.

        References:
          Nocedal & Wright, Numerical Optimization, 2006, algorithm 16.3.
        """
        weights = np.maximum(start, 0)
        weights *= self.total / weights.sum()
        free = weights > 0
        for tried in range(1, _CHANGES_PER_EXAMPLE * len(self.p) + 1):
            aim, multiplier = self.on_free_set(free)
            blocked = np.flatnonzero(free & (aim < 0))
            if blocked.size:
                # Steps towards the solution on the free set until the first weight reaches 0, and fixes it there.
                lengths = weights[blocked] / (weights[blocked] - aim[blocked])
                weights = np.maximum(weights + lengths.min() * (aim - weights), 0)
                free[blocked[lengths.argmin()]] = False
                continue
            weights = aim
            slack = np.where(free, np.inf, self.times(aim) - self.p + multiplier)
            if slack.min() >= -self.tolerance(aim):
                return weights, tried
            free[slack.argmin()] = True
        raise IntegrityError(
            f"no weights of the second order were found in {tried} changes with eta {self.eta:.3g} and "
            f"regularization {self.regularization:.3g}; use a larger regularization"
        )

    def on_free_set(self, free: Array) -> tuple[Array, float]:
        """Solves R w = p - ν 1 and 1ᵀw = total on the free set, with w = 0 elsewhere, and returns w and ν."""
        right = np.stack([self.p[free], np.ones(int(free.sum()))], axis=1)
        inverse = self._solve(self.q.factors[free], right)
        multiplier = (inverse[:, 0].sum() - self.total) / inverse[:, 1].sum()
        weights = np.zeros(len(self.p))
        weights[free] = inverse[:, 0] - multiplier * inverse[:, 1]
        return weights, float(multiplier)

    def _solve(self, v: Array, right: Array) -> Array:
        """Solves (η V S Vᵀ + λI) x = b, by the Woodbury identity if there are more examples than factors."""
        signed = self.eta * self.q.signs
        if len(v) <= v.shape[1]:
            dense = (v * signed) @ v.T
            dense[np.diag_indices(len(v))] += self.regularization
            # Positive definite: `made_definite` has seen to it.
            exact: Array = scipy.linalg.solve(dense, right, assume_a="pos")
            return exact
        if not self.eta or not v.shape[1]:
            return right / self.regularization
        factor = scipy.linalg.lu_factor(np.diag(self.regularization / signed) + v.T @ v)

        def once(b: Array) -> Array:
            inner: Array = v @ scipy.linalg.lu_solve(factor, v.T @ b)
            return (b - inner) / self.regularization

        # One step of iterative refinement: if λ is much less than ηQ, `once` loses digits to cancellation.
        x = once(right)
        return x + once(right - v @ (signed[:, None] * (v.T @ x)) - self.regularization * x)
