"""First-order weights: the influence of each selected example above the best example left out.

Without curvature the weights of the n examples of a corpus minimise  -pᵀw + (λ/2)||w||²  subject to  w >= 0, 1ᵀw = n.
The solution is the Euclidean projection of p / λ on the scaled simplex, w = max(0, (p - μ) / λ). With p in descending order,
exactly k weights are positive iff

    (1/n) sum_{i<=k} (p_i - p_k)  <  λ  <=  (1/n) sum_{i<=k} (p_i - p_{k+1}),

so a selection of k is the k largest p and needs no search. This module uses the upper end of the interval, at which
μ = p_{k+1}: a weight is proportional to the excess over the best example left out, and a worker needs only two sums over the
corpus to weight its rows.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np

from beam_quad.distillation.checks import refuse_not_finite, refuse_other_lengths

Array = np.ndarray[Any, np.dtype[Any]]

# A float32 is an integer of 24 bits times 2**e with -172 <= e <= 104 (`frexp`, subnormals included).
_MANTISSA_BITS = 24
_LEAST_EXPONENT = -172
_NUM_EXPONENTS = 277


def project(values: Array, total: float) -> Array:
    """Projects on the scaled simplex: the nearest w with w >= 0 and sum w = `total`.

    Args:
      values: Finite, float64 [n], n >= 1.
      total: Positive.

    Returns:
      w = max(0, values - μ), float64 [n]; equal values get equal weights.

    Raises:
      ValueError: If a value is not finite (names it), there are no values, or `total` is not positive.

    References:
      Duchi, Shalev-Shwartz, Singer & Chandra, Efficient Projections onto the l1-Ball, 2008.
    """
    values = np.asarray(values, np.float64)
    if not values.size or total <= 0:
        raise ValueError(f"cannot spread {total} over {values.size} values")
    refuse_not_finite(values, "values")
    # A shift does not change the projection and keeps the sums below small.
    shifted = values - values.max()
    descending = -np.sort(-shifted)
    multipliers = (np.cumsum(descending) - total) / np.arange(1, values.size + 1)
    # The largest value always exceeds its multiplier, as `total` is positive, so there is a last one.
    last = np.flatnonzero(descending > multipliers)[-1]
    weights: Array = np.maximum(0, shifted - multipliers[last])
    return weights


def regularization(influence: Array, num_selected: int) -> float:
    """Finds the largest λ at which exactly the `num_selected` most influential examples have positive weights.

    Args:
      influence: p of the whole corpus, float [n].
      num_selected: k in [1, n].

    Returns:
      λ, the upper end of the interval: infinite if k = n, and 0 if the first k + 1 examples tie. If p_k and p_{k+1} tie, the
      interval is empty, and at this λ all examples tied with them have weight 0. Use `SelectionWeights` for such a
      selection, in which ties are broken by hash.
    """
    p = np.asarray(influence, np.float64)
    refuse_not_finite(p, "influence")
    if not 1 <= num_selected <= p.size:
        raise ValueError(f"cannot select {num_selected} of {p.size} examples")
    if num_selected == p.size:
        return float("inf")
    descending = -np.sort(-p)
    return float(np.sum(descending[:num_selected] - descending[num_selected]) / p.size)


@dataclasses.dataclass(frozen=True, eq=False)
class TakenSums:
    """Sums over the examples that each target took. An additive statistic, exact in any order of addition.

    Attributes:
      num_examples: Number of examples of the corpus, taken or not.
      counts: Number of examples taken by each target, int64 [num_targets].
      lowest: Lowest influence on the target among its examples, float32 [num_targets]; infinite if it took none.
      mantissas: Sum of the 24-bit mantissas of their influence by binary exponent, int64 [num_targets, 277].
    """

    num_examples: int
    counts: Array
    lowest: Array
    mantissas: Array

    @classmethod
    def zero(cls, num_targets: int) -> "TakenSums":
        """Sums over no examples."""
        return cls(
            0,
            np.zeros(num_targets, np.int64),
            np.full(num_targets, np.inf, np.float32),
            np.zeros((num_targets, _NUM_EXPONENTS), np.int64),
        )

    @classmethod
    def of(cls, influence: Array, taker: Array) -> "TakenSums":
        """Sums over rows.

        Args:
          influence: Float32 [n, num_targets], finite.
          taker: Target that took each example, int [n]; -1 if none did.
        """
        influence = _checked(influence, taker)
        sums = cls.zero(influence.shape[1])
        target = taker[taker >= 0]
        taken = influence[taker >= 0, target]
        # Integer sums per exponent are exact, so weights do not depend on how the corpus was split.
        fraction, exponent = np.frexp(taken)
        integers = np.ldexp(fraction.astype(np.float64), _MANTISSA_BITS).astype(np.int64)
        np.minimum.at(sums.lowest, target, taken)
        np.add.at(sums.counts, target, 1)
        at = exponent - _MANTISSA_BITS - _LEAST_EXPONENT
        np.add.at(sums.mantissas, (target, at), integers)
        return dataclasses.replace(sums, num_examples=len(taker))

    def __add__(self, other: "TakenSums") -> "TakenSums":
        refuse_other_lengths(len(self.counts), counts=other.counts)
        return TakenSums(
            self.num_examples + other.num_examples,
            self.counts + other.counts,
            np.minimum(self.lowest, other.lowest),
            self.mantissas + other.mantissas,
        )

    def total(self, target: int) -> Fraction:
        """Sums the influence of a target's examples exactly."""
        whole = sum(int(units) << i for i, units in enumerate(self.mantissas[target]))
        return Fraction(whole, 1 << -_LEAST_EXPONENT)


@dataclasses.dataclass(frozen=True, eq=False)
class BestLeft:
    """The best influence on each target among the examples left out. An additive statistic.

    Only examples strictly below every example of the target count. An example that ties with the last one taken is thus
    ignored, and every example taken gets a positive weight.

    Attributes:
      highest: Float32 [num_targets]; minus infinity if no example counts.
    """

    highest: Array

    @classmethod
    def of(cls, influence: Array, taker: Array, lowest: Array) -> "BestLeft":
        """Finds the best rows left out.

        Args:
          influence: Float32 [n, num_targets], finite.
          taker: Target that took each example, int [n]; -1 if none did.
          lowest: `TakenSums.lowest` of the whole corpus, float32 [num_targets].
        """
        influence = _checked(influence, taker)
        counts = (taker < 0)[:, None] & (influence < lowest)
        nothing = np.float32(-np.inf)
        return cls(np.where(counts, influence, nothing).max(axis=0, initial=nothing))

    def __add__(self, other: "BestLeft") -> "BestLeft":
        refuse_other_lengths(len(self.highest), highest=other.highest)
        return BestLeft(np.maximum(self.highest, other.highest))


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionWeights:
    """Computes the weights of selected examples row by row. The weights of the corpus sum to its number of examples.

    Each target weights its examples by their influence on it, and its total weight is in proportion to the number of its
    examples. If no lower example was left out, the interval of λ has no upper end and the target's weights are uniform.

    Attributes:
      thresholds: μ, float64 [num_targets]; 0 if the weights are uniform.
      regularization: λ, float64 [num_targets]; infinite if the weights are uniform.
      uniform: Weight of every example of a target with uniform weights, else 0, float64 [num_targets].
    """

    thresholds: Array
    regularization: Array
    uniform: Array

    @classmethod
    def from_sums(cls, taken: TakenSums, left: BestLeft) -> "SelectionWeights":
        """Finds μ and λ of each target from sums over the corpus.

        Raises:
          ValueError: If nothing was taken.
        """
        num_taken = int(taken.counts.sum())
        if not num_taken:
            raise ValueError("nothing was taken, so there is nothing to weigh")
        thresholds = np.where(np.isfinite(left.highest), left.highest, 0).astype(np.float64)
        regularization = np.full(len(thresholds), np.inf)
        for target in np.flatnonzero(np.isfinite(left.highest) & (taken.counts > 0)):
            count = int(taken.counts[target])
            # Fractions keep the sums exact up to a single rounding, so λ has the same bits on every worker.
            excess = taken.total(int(target)) - count * Fraction(float(thresholds[target]))
            share = Fraction(taken.num_examples * count, num_taken)
            regularization[target] = float(excess / share)
        is_uniform = np.isinf(regularization)
        uniform = np.where(is_uniform, taken.num_examples / num_taken, 0.0)
        return cls(np.where(is_uniform, 0.0, thresholds), regularization, uniform)

    def of(self, influence: Array, taker: Array) -> Array:
        """Computes the weights of rows.

        Args:
          influence: Float32 [n, num_targets], finite.
          taker: Target that took each example, int [n]; -1 if none did.

        Returns:
          Float64 [n]: 0 if no target took the example, else positive.
        """
        influence = _checked(influence, taker)
        is_taken = taker >= 0
        target = taker[is_taken]
        # A target has either a λ or a uniform weight: with an infinite λ the first term is 0.
        excess = influence[is_taken, target].astype(np.float64) - self.thresholds[target]
        weights = np.zeros(len(taker))
        weights[is_taken] = excess / self.regularization[target] + self.uniform[target]
        return weights


@dataclasses.dataclass(frozen=True)
class WeightSums:
    """Summary of how unequal weights are. An additive statistic.

    Attributes:
      lowest: Lowest weight; infinite without weights.
      highest: Highest weight.
      total: Sum of the weights.
      squares: Sum of their squares.
    """

    lowest: float = math.inf
    highest: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, weights: Array) -> "WeightSums":
        """Sums positive weights, float64 [n]."""
        if not len(weights):
            return cls()
        return cls(*map(float, (weights.min(), weights.max(), weights.sum(), weights @ weights)))

    def __add__(self, other: "WeightSums") -> "WeightSums":
        return WeightSums(
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def effective_number(self) -> float:
        """Effective sample size (Σw)² / Σw²: the number of equal weights whose mean has the same variance; 0 without weights.

        References:
          Kish, Survey Sampling, 1965.
        """
        return self.total**2 / self.squares if self.squares else 0.0


def weigh(influence: Array, taker: Array) -> Array:
    """Computes the weights of a selection in memory, float64 [n], summing to n. Arguments as for `SelectionWeights.of`."""
    taken = TakenSums.of(influence, taker)
    left = BestLeft.of(influence, taker, taken.lowest)
    return SelectionWeights.from_sums(taken, left).of(influence, taker)


def _checked(influence: Array, taker: Array) -> Array:
    influence = np.asarray(influence)
    if influence.ndim != 2 or influence.dtype != np.float32:
        raise ValueError(
            f"influence must be float32 [n, num_targets], got {influence.dtype} {influence.shape}"
        )
    refuse_other_lengths(len(influence), taker=taker)
    refuse_not_finite(influence, "influence")
    return influence
