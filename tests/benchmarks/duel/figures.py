"""From losses to gains, with intervals.

Two policies are compared text by text and order by order, as every policy is trained in the same orders (seeds). The
difference of their losses has two sources of noise: the order of training (with what a policy itself draws by the seed), and the
held-out texts, which are a sample of their source. Its variance is

    s²_orders / number of orders  +  the sampling variance of the mean over texts (of orders' means, a ratio of sums),

where s²_orders, which two or three orders tell badly, is pooled over the domains and policies that one of them, random
texts or the default, is compared with. The 95 % interval is Student's t with the pooled degrees of freedom. With a single
order it speaks of the texts alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from beam_quad.proof import Losses

# The orders of one policy.
Runs = Sequence[Losses]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean difference of losses, nats per token.

    Attributes:
      value: The mean.
      half: Half the 95 % interval.
    """

    value: float
    half: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether it is positive with its whole interval."""
        return self.value > self.half


def by_order(a: Runs, b: Runs) -> np.ndarray:
    """Subtracts b's loss from a's, order by order, nats per token, float64 [num_orders]."""
    return np.array([x.mean - y.mean for x, y in zip(a, b, strict=True)])


def sampling_variance(a: Runs, b: Runs) -> float:
    """Computes the variance that the mean difference owes to the draw of held-out texts.

    The loss per token is a ratio of sums over texts, whose variance is that of the residuals, to first order.
    """
    counts = a[0].counts
    sums = np.mean([x.sums - y.sums for x, y in zip(a, b, strict=True)], axis=0)
    num = len(counts)
    if num < 2:
        return 0.0
    residuals = sums - sums.sum() / counts.sum() * counts
    return float(num / (num - 1) * (residuals**2).sum() / counts.sum() ** 2)


@dataclasses.dataclass(frozen=True)
class Noise:
    """What the order of training does to a difference.

    Attributes:
      variance: Of one order's difference, nats²; 0 where there is but one order.
      freedom: Degrees of freedom it was found with.
    """

    variance: float
    freedom: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[Runs, Runs]]) -> "Noise":
        """Pools the orders' variance over pairs of policies."""
        squares, freedom = 0.0, 0
        for a, b in pairs:
            found = by_order(a, b)
            squares += float(((found - found.mean()) ** 2).sum())
            freedom += len(found) - 1
        return cls(squares / freedom if freedom else 0.0, freedom)

    def difference(self, a: Runs, b: Runs) -> Difference:
        """Compares two policies: positive if b's loss is the lower."""
        found = by_order(a, b)
        variance = self.variance / len(found) + sampling_variance(a, b)
        quantile = stats.t.ppf(0.975, self.freedom) if self.freedom else stats.norm.ppf(0.975)
        return Difference(float(found.mean()), float(quantile * np.sqrt(variance)))


def gains(runs: Mapping[str, Runs], reference: str, noise: Noise) -> dict[str, Difference]:
    """Compares all policies of a domain with the reference: by how much is their loss lower?"""
    return {name: noise.difference(runs[reference], own) for name, own in runs.items()}


def way(gain: Mapping[str, Difference], own: str) -> dict[str, float | None]:
    """Puts gains on a scale from 0, the reference, to 1, the domain itself.

    Returns:
      (reference - policy) / (reference - domain itself) by policy; None where the domain itself gains nothing that
      stands out of the noise, or does not exist.
    """
    if own not in gain or not gain[own].is_beyond_noise:
        return dict.fromkeys(gain)
    return {name: found.value / gain[own].value for name, found in gain.items()}


def mean(differences: Sequence[Difference]) -> Difference:
    """Means independent differences, such as those of several domains."""
    values = [found.value for found in differences]
    halves = [found.half for found in differences]
    return Difference(float(np.mean(values)), float(np.linalg.norm(halves) / len(halves)))
