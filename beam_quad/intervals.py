"""Values with 95 % intervals, and the interval of a ratio.

References:
  Fieller, Some Problems in Interval Estimation, 1954.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval.

    Attributes:
      value: The estimate.
      low: The lower end.
      high: The upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, variance: float, quantile: float) -> "Interval":
        """Makes an interval of `quantile` standard errors to either side."""
        half = quantile * math.sqrt(max(0.0, variance))
        return cls(value, value - half, value + half)

    def is_above(self, value: float) -> bool:
        """Returns whether the whole interval is above a value."""
        return self.low > value

    def is_below(self, value: float) -> bool:
        """Returns whether the whole interval is below a value."""
        return self.high < value


def ratio(
    numerator: float, denominator: float, variances: tuple[float, float, float], quantile: float
) -> Interval | None:
    """Computes Fieller's interval: all r for which numerator - r denominator may be 0.

    Args:
      numerator: Estimate of the numerator.
      denominator: Estimate of the denominator.
      variances: Variance of numerator - r denominator, as coefficients of 1, r and r².
      quantile: Standard errors to either side.

    Returns:
      The ratio; None if the denominator is not above 0 by more than the noise, because the interval is then unbounded.
    """
    square = quantile**2
    constant, linear, quadratic = variances
    # (numerator - r denominator)² <= square (constant + linear r + quadratic r²)
    a = denominator**2 - square * quadratic
    b = -2 * numerator * denominator - square * linear
    c = numerator**2 - square * constant
    if a <= 0 or denominator <= 0:
        return None
    root = math.sqrt(max(0.0, b**2 - 4 * a * c))
    return Interval(numerator / denominator, (-b - root) / (2 * a), (-b + root) / (2 * a))
