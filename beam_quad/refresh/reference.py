"""The old documents by cluster: how far they are from their centers, and who is farther than nearly all of them.

A document's center is the nearest one, so a document far from it is far from all centers. Its rank among the old documents of
its cluster is a smoothed conformal p-value (Vovk et al., equation 2.20). With `b` of n old documents farther and `t` in the same
bin of cosines (an old document does not count itself),

    p = (b + U (t + 1)) / (n + 1),      U uniform in [0, 1), a hash of the document,

is uniform without drift, for any bins and any cluster size, for old and for new documents. A document is far if p < .01, so
without drift 1 % of old and of new documents are far.

References:
  Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005 (smoothed conformal predictors).
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from beam_quad import archives, seeding
from beam_quad.additive import add_by_key
from beam_quad.refresh.scores import ScoreSums

Array = np.ndarray[Any, np.dtype[Any]]

FAR_SHARE = 0.01
_BINS = 256  # bins of 1/128 in cosine, a tenth of the spread of a cluster


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceSums:
    """Distances and influence of old documents by cluster: the first pass. An additive statistic.

    10,000 clusters take some 8 MB: 16 bytes for each bin with a document, about 40 bins for each cluster.

    Attributes:
      buckets: cluster · 256 + bin of the cosine to the center, ascending, int64 [m].
      amounts: Number of documents in each bucket, int64 [m].
      scores: Influence of the scored documents.
    """

    buckets: Array
    amounts: Array
    scores: ScoreSums

    def __add__(self, other: "ReferenceSums") -> "ReferenceSums":
        buckets, amounts = add_by_key((self.buckets, other.buckets), (self.amounts, other.amounts))
        return ReferenceSums(buckets, amounts, self.scores + other.scores)

    @classmethod
    def zero(cls, num_clusters: int) -> "ReferenceSums":
        """Sums over no documents."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, ScoreSums.zero(num_clusters))

    @classmethod
    def of(
        cls, cluster: Array, cosine: Array, tokens: Array, influence: Array, num_clusters: int
    ) -> "ReferenceSums":
        """Sums over the usable documents of an old split.

        Args:
          cluster: Clusters, int [n], in [0, num_clusters).
          cosine: Cosine to the cluster's center, float [n].
          tokens: Tokens, int [n].
          influence: Influence, float [n]; nan if a document is not scored.
          num_clusters: Number of clusters.

        Raises:
          ValueError: If a cluster is out of range, a cosine is not finite, or an influence is infinite.
        """
        scores = ScoreSums.of(cluster, tokens, influence, num_clusters)
        buckets, amounts = np.unique(_buckets(cluster, cosine), return_counts=True)
        return cls(buckets, amounts.astype(np.int64), scores)

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return len(self.scores.documents)

    def ranks(self, cluster: Array, cosine: Array, keys: Array, *, is_old: bool) -> Array:
        """Ranks documents by distance to the center among the old documents of their cluster.

        Args:
          cluster: Clusters, int [n].
          cosine: Cosine to the cluster's center, float [n].
          keys: Keys of the examples (`seeding.keys`), uint64 [n], whose hashes break ties within a bin.
          is_old: Whether the documents are included in these sums; each is then ranked among the others.

        Returns:
          The smoothed share of farther old documents, float64 [n] in [0, 1), uniform for documents like the old ones.

        Raises:
          ValueError: If a cosine is not finite.
        """
        buckets = _buckets(cluster, cosine)
        at = np.searchsorted(self.buckets, buckets)
        # Past the last bucket there is none; -1 is equal to no bucket.
        in_bin = np.append(self.buckets, -1)[at] == buckets
        starts = self._sums[np.searchsorted(self.buckets, _BINS * np.arange(self.num_clusters + 1))]
        farther = self._sums[at] - starts[cluster]
        # An old document is itself in its bin and its cluster, and does not count.
        ties = self._sums[at + in_bin] - self._sums[at] - is_old
        others = np.diff(starts)[cluster] - is_old
        # A fixed seed: runs of any seed, and the stages that measure drift and open clusters, agree on who is far.
        draws = seeding.uniform(0, "far", keys)
        ranks: Array = (farther + draws * (ties + 1)) / (others + 1)
        return ranks

    def is_far(self, cluster: Array, cosine: Array, keys: Array, *, is_old: bool) -> Array:
        """Finds documents farther from every center than 99 % of the old documents of their cluster.

        The arguments are those of `ranks`. Returns bool [n], true for 1 % of documents like the old ones.
        """
        return np.asarray(self.ranks(cluster, cosine, keys, is_old=is_old) < FAR_SHARE)

    @functools.cached_property
    def _sums(self) -> Array:
        return np.concatenate([[0], np.cumsum(self.amounts)])

    def to_bytes(self) -> bytes:
        """Writes the sums as an npz file."""
        return archives.dump(
            buckets=self.buckets, amounts=self.amounts, **dataclasses.asdict(self.scores)
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> "ReferenceSums":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        return cls(found.pop("buckets"), found.pop("amounts"), ScoreSums(**found))


def _buckets(cluster: Array, cosine: Array) -> Array:
    cosine = np.asarray(cosine, np.float64)
    if not np.isfinite(cosine).all():
        raise ValueError(f"cosine of row {int((~np.isfinite(cosine)).argmax())} is not finite")
    bins = np.clip(np.floor((cosine + 1) * (_BINS / 2)), 0, _BINS - 1).astype(np.int64)
    return np.asarray(cluster, np.int64) * _BINS + bins
