"""Similarity of points to a query set: the mean cosine to its points, or the cosine to the nearest.

References:
  Mizrahi et al., Language Models Improve When Pretraining Data Matches Target Tasks (BETR), 2025, arXiv:2507.12466.
  Ivison et al., Large-Scale Data Selection for Instruction Tuning (RDS+), 2025, arXiv:2503.01807.
"""

import dataclasses

import numpy as np

from beam_quad import archives
from beam_quad.clustering.assign import nearest


@dataclasses.dataclass(frozen=True)
class PointSum:
    """Sum of unit vectors. An additive statistic.

    Attributes:
      total: Sum of the vectors, float64 [dim].
      count: Number of vectors.
    """

    total: np.ndarray
    count: int

    def __add__(self, other: "PointSum") -> "PointSum":
        if self.total.shape != other.total.shape:
            raise ValueError(
                f"cannot add points of dimension {len(self.total)} and {len(other.total)}; "
                "were they made by different embedders?"
            )
        return PointSum(self.total + other.total, self.count + other.count)

    @classmethod
    def zero(cls, dim: int) -> "PointSum":
        """The sum of no points."""
        return cls(np.zeros(dim), 0)

    @classmethod
    def of(cls, points: np.ndarray) -> "PointSum":
        """Sums unit rows, float16 or wider [n, dim]."""
        return cls(points.astype(np.float64).sum(axis=0), len(points))

    def mean(self) -> np.ndarray:
        """Computes the mean vector, float64 [dim], of norm at most 1.

        Raises:
          ValueError: If there are no points.
        """
        if not self.count:
            raise ValueError("the query set has no point, so nothing is alike to it")
        mean: np.ndarray = self.total / self.count
        return mean

    def to_bytes(self) -> bytes:
        """Writes the sum as an npz file."""
        return archives.dump(total=self.total, count=self.count)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "PointSum":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        return cls(found["total"], int(found["count"]))


def mean_similarity(points: np.ndarray, query: PointSum) -> np.ndarray:
    """Computes the mean cosine of each point to all points of a query set, for which the query set's mean is enough.

    Args:
      points: Unit rows, float16 or wider [n, dim].
      query: Sum of the query set's unit rows.

    Returns:
      Float64 [n], in [-1, 1]; a value does not depend on the other rows.
    """
    # `einsum` sums every row in the same order; the order of a matrix product depends on the number of rows.
    similarity: np.ndarray = np.einsum("nd,d->n", points.astype(np.float64), query.mean())
    return similarity


def best_similarity(points: np.ndarray, query_points: np.ndarray) -> np.ndarray:
    """Computes the cosine of each point to the nearest point of a query set, in chunks.

    Args:
      points: Unit rows, float32 [n, dim].
      query_points: Unit rows of the query set, float32 [num_queries, dim].

    Returns:
      Float32 [n], in [-1, 1]; a value does not depend on the other rows.

    Raises:
      ValueError: If there is no query point, or the dimensions differ.
    """
    if not len(query_points):
        raise ValueError("the query set has no point, so nothing is alike to it")
    return nearest(points, query_points)[1]
