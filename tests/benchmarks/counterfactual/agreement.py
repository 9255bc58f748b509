"""How well a prediction ranks: rank correlations with intervals, and areas under the curve."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from beam_quad import seeding

_NUM_RESAMPLES = 500

# Of predictions and measurements, both [..., num_groups, m], to [..., m].
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, replicates: np.ndarray) -> "Estimate":
        """Takes the interval from the percentiles of the replicates."""
        low, high = np.percentile(replicates, [2.5, 97.5])
        return cls(value, float(low), float(high))

    def rounded(self) -> dict[str, float]:
        """Returns the numbers for JSON."""
        return {name: round(value, 4) for name, value in dataclasses.asdict(self).items()}


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes Spearman's correlation along the last but one axis: [..., n, m] twice to [..., m]."""
    a, b = (stats.rankdata(values, axis=-2) for values in (x, y))
    a, b = (ranks - ranks.mean(-2, keepdims=True) for ranks in (a, b))
    correlation: np.ndarray = (a * b).sum(-2) / np.sqrt((a * a).sum(-2) * (b * b).sum(-2))
    return correlation


def gain(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Computes what the tenth of the rows with the best predictions gave: [..., n, m] twice to [..., m].

    Returns:
      Their mean measurement, on a scale from 0, the mean of all rows, to 1, the mean of the best tenth itself.
    """
    num_best = max(1, round(predicted.shape[-2] / 10))
    chosen = _mean_of_best(predicted, measured, num_best)
    mean = measured.mean(-2)
    share: np.ndarray = (chosen - mean) / (_mean_of_best(measured, measured, num_best) - mean)
    return share


def _mean_of_best(by: np.ndarray, values: np.ndarray, num_best: int) -> np.ndarray:
    best = np.argsort(-by, axis=-2, kind="stable")[..., :num_best, :]
    mean: np.ndarray = np.take_along_axis(values, best, axis=-2).mean(-2)
    return mean


class Agreement:
    """How predictions agree with what was measured on groups: means over queries and seeds.

    Intervals come from drawing domains, with all their groups, again with replacement: groups of one domain are
    not independent. All predictions are held against the same draws, so that two of them can be compared.

    Args:
      measured: What training did, by seed, float64 [num_groups, num_queries] each.
      domains: Domain of each group, int64 [num_groups].
      statistic: `rank_correlation` or `gain`.
    """

    def __init__(
        self,
        measured: Sequence[np.ndarray],
        domains: np.ndarray,
        statistic: Statistic = rank_correlation,
    ) -> None:
        self._measured = np.concatenate(measured, axis=1)
        self._statistic = statistic
        generator = seeding.generator(0, "resamples")
        names = np.unique(domains)
        drawn = names[generator.integers(len(names), size=(_NUM_RESAMPLES, len(names)))]
        rows = np.stack([np.flatnonzero(domains == name) for name in names])
        self._rows = rows[drawn].reshape(_NUM_RESAMPLES, -1)

    def replicates(self, predicted: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        """Holds predictions, by seed, against the measurements: the statistic, and the same of every resample."""
        x = np.concatenate(predicted, axis=1)
        again = self._statistic(x[self._rows], self._measured[self._rows])
        return float(self._statistic(x, self._measured).mean()), again.mean(1)

    def estimate(self, predicted: Sequence[np.ndarray]) -> Estimate:
        """Computes the statistic with an interval."""
        return Estimate.of(*self.replicates(predicted))


def group_means(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Means scores of documents over groups: [num_documents, m] to [num_groups, m]."""
    means: np.ndarray = scores[groups].mean(axis=1)
    return means


def area_under_curve(scores: np.ndarray, is_own: np.ndarray) -> float:
    """Computes how often a document of the own domain scores above another: 0.5 by chance.

    Args:
      scores: float64 [n].
      is_own: bool [n].
    """
    ranks = stats.rankdata(scores)
    own, others = int(is_own.sum()), int((~is_own).sum())
    return float((ranks[is_own].sum() - own * (own + 1) / 2) / (own * others))


def share_on_top(scores: np.ndarray, is_own: np.ndarray) -> float:
    """Computes the share of the own domain among the best scores, as many as it has documents."""
    best = np.argsort(-scores, kind="stable")[: int(is_own.sum())]
    return float(is_own[best].mean())
