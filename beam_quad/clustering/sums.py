"""Sums over the clusters of an assigned corpus."""

import dataclasses

import numpy as np

from beam_quad import archives

# 2**-20 is far below the spread of similarities, and 2**43 rows fit into 64 bits.
_FIXED_POINT = 1 << 20


@dataclasses.dataclass(frozen=True)
class ClusterSums:
    """Sums over the examples of each cluster, in integers, so that they are exact in any order of addition.

    Attributes:
      examples: Number of examples, int64 [num_clusters].
      tokens: Number of tokens, int64 [num_clusters].
      reserve: Number of examples with text in the reserve, int64 [num_clusters].
      similarity: Sum of similarities to the center, each rounded to units of 2**-20, int64 [num_clusters].
    """

    examples: np.ndarray
    tokens: np.ndarray
    reserve: np.ndarray
    similarity: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            array = getattr(self, field.name)
            if array.dtype != np.int64 or array.shape != (len(self.examples),):
                raise ValueError(
                    f"{field.name} must be int64 [{len(self.examples)}], got {array.dtype} {array.shape}"
                )

    def __add__(self, other: "ClusterSums") -> "ClusterSums":
        if self.num_clusters != other.num_clusters:
            raise ValueError(
                f"cannot add sums over {self.num_clusters} and {other.num_clusters} clusters; "
                "were they assigned to different centers?"
            )
        return ClusterSums(
            self.examples + other.examples,
            self.tokens + other.tokens,
            self.reserve + other.reserve,
            self.similarity + other.similarity,
        )

    @classmethod
    def zero(cls, num_clusters: int) -> "ClusterSums":
        """Sums over no examples."""
        return cls(*(np.zeros(num_clusters, np.int64) for _ in dataclasses.fields(cls)))

    @classmethod
    def of(
        cls,
        cluster_id: np.ndarray,
        tokens: np.ndarray,
        in_reserve: np.ndarray,
        similarity: np.ndarray,
        valid: np.ndarray,
        num_clusters: int,
    ) -> "ClusterSums":
        """Sums over rows.

        Args:
          cluster_id: Clusters, int [num_rows]; any value in invalid rows.
          tokens: Tokens, int [num_rows].
          in_reserve: Whether the row's text is in the reserve, bool [num_rows].
          similarity: Similarity to the center, float [num_rows].
          valid: Whether the row counts, bool [num_rows].
          num_clusters: Number of clusters.

        Raises:
          ValueError: If a valid row's cluster is out of range.
        """
        # Checked here, because `bincount` would silently return a longer array.
        chosen = np.asarray(cluster_id)[valid]
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < num_clusters):
            raise ValueError(
                f"cluster ids {chosen.min()} to {chosen.max()} are not all in [0, {num_clusters})"
            )
        fixed = np.rint(np.asarray(similarity, np.float64)[valid] * _FIXED_POINT)
        columns = (np.ones(len(chosen)), tokens[valid], in_reserve[valid], fixed)
        # bincount sums in float64, exact for integers below 2**53.
        return cls(
            *(
                np.bincount(chosen, weights=column, minlength=num_clusters).astype(np.int64)
                for column in columns
            )
        )

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return len(self.examples)

    @property
    def cohesion(self) -> np.ndarray:
        """Mean similarity to the center, float64 [num_clusters]; nan for a cluster without examples."""
        means = np.full(self.num_clusters, np.nan)
        np.divide(
            self.similarity, self.examples * float(_FIXED_POINT), out=means, where=self.examples > 0
        )
        return means

    def to_bytes(self) -> bytes:
        """Writes the sums as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "ClusterSums":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(raw))
