"""Sums over the documents of each shard, old or new, compared with the old documents of their clusters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_quad import archives, seeding
from beam_quad.additive import Tally, add_by_key, add_fields
from beam_quad.refresh.comparison import ShardMeans
from beam_quad.refresh.reference import ReferenceSums
from beam_quad.refresh.scores import divided, refuse_bad

Array = np.ndarray[Any, np.dtype[Any]]

_NUM_LENGTHS = 48  # half octaves, up to 2**24 tokens
_COLUMNS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class PairSums:
    """Correlation of influence within clusters, apart from what all documents of a split share. An additive statistic.

    The residual r of a document is its influence less the mean of its cluster's old documents, centered over its split. The
    product of two documents' residuals has mean 0 unless the cluster has shifted, or the split differs within the cluster. All
    arrays are float64 [num_clusters].

    Attributes:
      documents: Scored documents in clusters with an old scored document.
      totals: Σr.
      squares: Σr².
      split_pairs: Number of ordered pairs of documents of the same split.
      split_products: Σrr' over the pairs of the same split.
    """

    documents: Array
    totals: Array
    squares: Array
    split_pairs: Array
    split_products: Array

    def __add__(self, other: "PairSums") -> "PairSums":
        return add_fields(self, other)

    @classmethod
    def zero(cls, num_clusters: int) -> "PairSums":
        """Sums over no documents."""
        return cls(*(np.zeros(num_clusters) for _ in dataclasses.fields(cls)))

    @classmethod
    def of(cls, cluster: Array, residuals: Array, num_clusters: int) -> "PairSums":
        """Sums over the scored documents of a split; `residuals` are finite and not yet centered."""
        # Centering removes the shift that all clusters of a split share, which `drift` tests on its own.
        r = residuals - residuals.mean() if len(residuals) else residuals
        number = np.bincount(cluster, minlength=num_clusters).astype(float)
        totals, squares = (np.bincount(cluster, column, num_clusters) for column in (r, r**2))
        return cls(number, totals, squares, number * (number - 1), totals**2 - squares)

    @property
    def pairs(self) -> Array:
        """Number of ordered pairs of documents, float64 [num_clusters]."""
        pairs: Array = self.documents * (self.documents - 1)
        return pairs

    @property
    def products(self) -> Array:
        """Σrr' over all pairs, float64 [num_clusters]."""
        products: Array = self.totals**2 - self.squares
        return products

    @property
    def concentration(self) -> Array:
        """Σn² / N² over splits, float64 [num_clusters]; 0 without documents."""
        squares: Array = self.split_pairs + self.documents
        return divided(squares, np.maximum(self.documents, 1) ** 2)


@dataclasses.dataclass(frozen=True, eq=False)
class DriftSums:
    """Sums over the documents of each shard, compared with `ReferenceSums`: the second pass. An additive statistic.

    The shard is the unit, because shards are what is new. A shard takes 440 bytes, whatever its number of splits.

    Attributes:
      shards: Hashes of the shards' names, ascending, uint64 [m].
      counts: For each shard, the number of documents, tokens, far documents, rejected rows and scored documents, and the
        documents by half octave of tokens, int64 [m, 53].
      residuals: For each shard, the sum of influence less the cluster's old mean, and of its square, float64 [m, 2].
      pairs: Sums of the residuals by cluster.
      reasons: Rejected rows by reason.
    """

    shards: Array
    counts: Array
    residuals: Array
    pairs: PairSums
    reasons: Tally

    def __add__(self, other: "DriftSums") -> "DriftSums":
        shards, counts, residuals = add_by_key(
            (self.shards, other.shards),
            (self.counts, other.counts),
            (self.residuals, other.residuals),
        )
        return DriftSums(
            shards, counts, residuals, self.pairs + other.pairs, self.reasons + other.reasons
        )

    @classmethod
    def zero(cls, num_clusters: int) -> "DriftSums":
        """Sums over no splits."""
        return cls(
            np.zeros(0, np.uint64),
            np.zeros((0, _COLUMNS + _NUM_LENGTHS), np.int64),
            np.zeros((0, 2)),
            PairSums.zero(num_clusters),
            Tally(),
        )

    @classmethod
    def of(
        cls,
        reference: ReferenceSums,
        shard: str,
        cluster: Array,
        cosine: Array,
        tokens: Array,
        influence: Array,
        keys: Array,
        rejected: Mapping[str, int],
        *,
        is_old: bool,
    ) -> "DriftSums":
        """Sums over the usable documents of a split.

        Args:
          reference: Sums over all old splits.
          shard: The split's shard.
          cluster: Clusters, int [n].
          cosine: Cosine to the cluster's center, float [n].
          tokens: Tokens, int [n].
          influence: Influence, float [n]; nan if a document is not scored.
          keys: Keys of the examples (`seeding.keys`), uint64 [n].
          rejected: Number of unusable rows by reason.
          is_old: Whether `reference` includes the split.

        Raises:
          ValueError: If a cluster is out of range, a cosine is not finite, or an influence is infinite.
        """
        # Before the lookup, which would read cluster -1 as the last cluster.
        refuse_bad(cluster, influence, reference.num_clusters)
        residuals = influence - reference.scores.plain_means[cluster]
        scored = ~np.isnan(residuals)
        residuals = residuals[scored]
        is_far = reference.is_far(cluster, cosine, keys, is_old=is_old)
        lengths = np.floor(2 * np.log2(np.maximum(tokens, 1))).astype(np.int64)
        counts = np.concatenate(
            [
                [len(tokens), tokens.sum(), is_far.sum(), sum(rejected.values()), scored.sum()],
                np.bincount(np.minimum(lengths, _NUM_LENGTHS - 1), minlength=_NUM_LENGTHS),
            ]
        )
        return cls(
            seeding.keys([shard]),
            counts.astype(np.int64)[None],
            np.array([[residuals.sum(), (residuals**2).sum()]]),
            PairSums.of(cluster[scored], residuals, reference.num_clusters),
            Tally(dict(rejected)),
        )

    @property
    def documents(self) -> int:
        """Number of usable documents."""
        return int(self.counts[:, 0].sum())

    @property
    def mean_tokens(self) -> float | None:
        """Mean tokens of a document; None without documents."""
        return float(self.counts[:, 1].sum() / self.documents) if self.documents else None

    @property
    def lengths(self) -> Array:
        """Number of documents by half octave of tokens, int64 [48]."""
        lengths: Array = self.counts[:, _COLUMNS:].sum(axis=0)
        return lengths

    def far(self) -> ShardMeans:
        """The share of far documents."""
        return _means(self.counts[:, 2], self.counts[:, 0])

    def rejected(self) -> ShardMeans:
        """The share of rejected rows among all rows."""
        return _means(self.counts[:, 3], self.counts[:, 0] + self.counts[:, 3])

    def influence(self) -> ShardMeans:
        """Mean influence less the cluster's old mean."""
        return _means(self.residuals[:, 0], self.counts[:, 4])

    def ridits(self, ranks: Array) -> ShardMeans:
        """The mean rank of document lengths, with `ranks` of the half octaves, float64 [48]."""
        return _means(self.counts[:, _COLUMNS:] @ ranks, self.counts[:, 0])

    def to_bytes(self) -> bytes:
        """Writes the sums as an npz file."""
        return archives.dump(
            shards=self.shards,
            counts=self.counts,
            residuals=self.residuals,
            reasons=np.array(list(self.reasons.counts), dtype=str),
            rejected=np.array(list(self.reasons.counts.values()), np.int64),
            **dataclasses.asdict(self.pairs),
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> "DriftSums":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        shards, counts, residuals = (found.pop(k) for k in ("shards", "counts", "residuals"))
        names, numbers = found.pop("reasons").tolist(), found.pop("rejected").tolist()
        reasons = Tally(dict(zip(names, numbers, strict=True)))
        return cls(shards, counts, residuals, PairSums(**found), reasons)


def _means(totals: Array, documents: Array) -> ShardMeans:
    some = documents > 0
    return ShardMeans(totals[some].astype(float), documents[some])
