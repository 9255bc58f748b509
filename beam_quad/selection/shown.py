"""The sample of scored examples shown in the report."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class ShownScores:
    """Scored examples for people to look at: a uniform sample, and the best and the worst of all. An additive statistic.

    Attributes:
      columns: Columns of one length by name: `influence` and `key` among them, and whether a row `is_drawn` for the sample.
      num_extremes: How many of the best and of the worst are kept.
    """

    columns: dict[str, Array]
    num_extremes: int

    @classmethod
    def of(cls, columns: Mapping[str, Array], num_extremes: int) -> "ShownScores":
        """Makes the statistic of some examples, whose influence is finite."""
        return cls._of({name: np.asarray(column) for name, column in columns.items()}, num_extremes)

    def __add__(self, other: "ShownScores") -> "ShownScores":
        joined = {n: np.concatenate([self.columns[n], other.columns[n]]) for n in self.columns}
        return self._of(joined, self.num_extremes)

    @classmethod
    def _of(cls, columns: dict[str, Array], num_extremes: int) -> "ShownScores":
        # Sorted by key first, so that ties among the extremes do not depend on row order.
        order = np.argsort(columns["key"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        best, worst = extremes(columns["influence"], num_extremes)
        # A copy: the extremes are kept too, but do not become part of the sample.
        kept = columns["is_drawn"].astype(bool)
        kept[best] = kept[worst] = True
        return cls({name: column[kept] for name, column in columns.items()}, num_extremes)


def extremes(influence: Array, number: int) -> tuple[Array, Array]:
    """Finds the examples of the highest and of the lowest influence.

    Args:
      influence: Float [n]; values that are not finite are left out.
      number: How many are wanted of each.

    Returns:
      Positions of the highest, best first, and of the lowest, worst first, int64 [at most number]. Of equal examples
      the last is the best, and the first the worst.
    """
    finite = np.flatnonzero(np.isfinite(influence))
    order = finite[np.argsort(influence[finite], kind="stable")]
    return order[::-1][:number], order[:number]


def highest(values: Array, number: int) -> Array:
    """Finds the highest values, best first, of equals the first: positions, int64 [at most number]."""
    return np.argsort(-values, kind="stable")[:number]
