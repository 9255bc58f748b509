"""Sums of influence by cluster, from which drift, worth and shrinkage are computed."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import archives
from beam_quad.additive import add_fields

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreSums:
    """Sums over the scored documents of each cluster. An additive statistic.

    w is the number of tokens of a document, its weight, and x its influence. All arrays are float64 [num_clusters].

    Attributes:
      documents: Number of scored documents.
      weights: Σw.
      squared_weights: Σw².
      totals: Σx.
      squares: Σx².
      weighted: Σwx.
      twice_weighted: Σw²x.
      weighted_squares: Σw²x².
    """

    documents: Array
    weights: Array
    squared_weights: Array
    totals: Array
    squares: Array
    weighted: Array
    twice_weighted: Array
    weighted_squares: Array

    def __add__(self, other: "ScoreSums") -> "ScoreSums":
        if len(self.documents) != len(other.documents):
            raise ValueError(
                f"cannot add scores of {len(self.documents)} and {len(other.documents)} clusters; "
                "were they assigned to different centers?"
            )
        return add_fields(self, other)

    @classmethod
    def zero(cls, num_clusters: int) -> "ScoreSums":
        """Sums over no documents."""
        return cls(*(np.zeros(num_clusters) for _ in dataclasses.fields(cls)))

    @classmethod
    def of(cls, cluster: Array, tokens: Array, influence: Array, num_clusters: int) -> "ScoreSums":
        """Sums over documents.

        Args:
          cluster: Clusters, int [n], in [0, num_clusters).
          tokens: Tokens, int [n].
          influence: Influence, float [n]; nan if a document is not scored.
          num_clusters: Number of clusters.

        Raises:
          ValueError: If a cluster is out of range or an influence is infinite.
        """
        refuse_bad(cluster, influence, num_clusters)
        scored = ~np.isnan(influence)
        at, w, x = cluster[scored], tokens[scored].astype(float), influence[scored].astype(float)
        # Moments up to the second, plain and weighted by tokens: means and their errors follow from them.
        columns = (np.ones(len(x)), w, w**2, x, x**2, w * x, w**2 * x, (w * x) ** 2)
        return cls(*(np.bincount(at, column, num_clusters) for column in columns))

    @property
    def means(self) -> Array:
        """Token-weighted mean influence, float64 [num_clusters]; nan without a scored document."""
        return divided(self.weighted, self.weights)

    @property
    def relative_errors(self) -> Array:
        """Variance of `means` relative to one document, Σw² / (Σw)², float64 [num_clusters]; inf without scored documents."""
        errors = divided(self.squared_weights, self.weights**2)
        return np.where(np.isnan(errors), np.inf, errors)

    @property
    def mean_variances(self) -> Array:
        """Variance of `means` as ratios of sums, float64 [num_clusters]; nan with fewer than two scored documents."""
        n, means = self.documents, self.means
        # Σ w² (x - mean)², expanded so that it follows from sums.
        squares = (
            self.weighted_squares
            - 2 * means * self.twice_weighted
            + means**2 * self.squared_weights
        )
        freedom = divided(n, np.maximum(n - 1, 0))
        variances: Array = np.maximum(squares, 0) / np.where(n > 0, self.weights, 1) ** 2 * freedom
        return variances

    @property
    def plain_means(self) -> Array:
        """Unweighted mean influence of documents, float64 [num_clusters]; nan without scored documents."""
        return divided(self.totals, self.documents)

    @property
    def deviations(self) -> Array:
        """Sum of squared deviations from `plain_means`, float64 [num_clusters]; 0 without scored documents."""
        squares = self.squares - self.totals**2 / np.maximum(self.documents, 1)
        return np.maximum(squares, 0)

    def to_bytes(self) -> bytes:
        """Writes the sums as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "ScoreSums":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(raw))


def divided(numerators: Array, denominators: Array) -> Array:
    """Divides elementwise, float64; nan if the denominator is 0."""
    quotients = np.full(np.broadcast_shapes(numerators.shape, denominators.shape), np.nan)
    np.divide(numerators, denominators, out=quotients, where=denominators != 0)
    return quotients


def refuse_bad(cluster: Array, influence: Array, num_clusters: int) -> None:
    """Refuses clusters out of range and infinite influence.

    Raises:
      ValueError: If a cluster is out of range or an influence is infinite.
    """
    if len(cluster) and not (cluster.min() >= 0 and cluster.max() < num_clusters):
        raise ValueError(
            f"cluster ids {cluster.min()} to {cluster.max()} are not all in [0, {num_clusters})"
        )
    if np.isinf(influence).any():
        raise ValueError(
            f"influence of row {int(np.isinf(influence).argmax())} is infinite; "
            "a scorer gives nan for what it cannot score"
        )
