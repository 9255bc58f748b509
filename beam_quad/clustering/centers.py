"""Centers on the unit sphere and statistics of their fit."""

import dataclasses

import numpy as np

from beam_quad import archives


@dataclasses.dataclass(frozen=True)
class Centers:
    """Cluster centers; a point belongs to the nearest one.

    If a cluster is too large and k-means cannot split it, its center is split into hash parts. Cluster ids are consecutive:
    part p of center c is cluster `offsets[c] + p`.

    Attributes:
      vectors: Unit rows, float32 [num_centers, dim].
      parts: Hash parts of each center, usually 1, int32 [num_centers].
    """

    vectors: np.ndarray
    parts: np.ndarray

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.parts.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"centers need vectors [num_centers, dim] and parts [num_centers], got "
                f"{self.vectors.shape} and {self.parts.shape}"
            )
        if not len(self.parts) or self.parts.min() < 1:
            raise ValueError("centers need at least one center, and every center at least one part")

    @property
    def num_clusters(self) -> int:
        """Number of clusters; every hash part counts as one."""
        return int(self.parts.sum())

    @property
    def offsets(self) -> np.ndarray:
        """First cluster id of each center, int32 [num_centers]."""
        offsets: np.ndarray = np.cumsum(self.parts) - self.parts
        return offsets.astype(np.int32)

    def to_bytes(self) -> bytes:
        """Writes the centers as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Centers":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(raw))


@dataclasses.dataclass(frozen=True)
class FitReport:
    """Statistics of a fit, for the report.

    Attributes:
      requested: Number of clusters requested.
      num_points: Number of points in the sample.
      num_distinct: Number of distinct points, which limits the number of centers.
      empty_dropped: Centers dropped because no point of the sample was nearest to them.
      resplit: Clusters above the maximum share that were split again by k-means.
      hash_split: Centers still above the maximum share, which are split by hash.
      inertia: Sum over the sample of the squared distance to the nearest center, 2 - 2 cos.
    """

    requested: int
    num_points: int
    num_distinct: int
    empty_dropped: int
    resplit: int
    hash_split: int
    inertia: float
