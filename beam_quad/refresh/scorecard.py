"""The worth of a token of the new shards against the old ones, and the clusters that grew, shrank or moved.

Two measures of worth are computed for the old shards, for the new shards, and as a ratio:

- influence: the token-weighted mean influence of documents. If only some documents of each cluster are scored, cluster means
  are weighted by the tokens of the clusters. The interval covers the sampling of the scored documents.
- selected: the share of selected tokens. It is known exactly; its interval treats shards as a sample of their sources
  (`comparison`), and so covers what further shards like these would be worth.

Ratios have Fieller's interval. There is no ratio if the old worth is not significantly above 0.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.sparse
from scipy import stats

from beam_quad import archives, intervals, seeding
from beam_quad.additive import add_by_key, add_fields
from beam_quad.intervals import Interval
from beam_quad.refresh.comparison import (
    ASSUMED_CORRELATION,
    LEAST_FREEDOM,
    ShardMeans,
    mean_variances,
)
from beam_quad.refresh.scores import ScoreSums, divided

Array = np.ndarray[Any, np.dtype[Any]]

LEAST_GROWTH = 1.25  # ratio of a cluster's shares of the tokens
LEAST_MOVE = 0.3  # radii
# Of the old and of the new documents; the noise of a squared distance is then below a third of LEAST_MOVE squared.
LEAST_VECTORS = 50
_NORMAL = float(stats.norm.isf(0.025))


@dataclasses.dataclass(frozen=True, eq=False)
class WorthSums:
    """Sums of selected documents and of influence by cluster. An additive statistic.

    Attributes:
      documents: Usable documents, int64 [num_clusters].
      tokens: Tokens of the usable documents, int64 [num_clusters].
      squares: Σ tokens² over usable documents, float64 [num_clusters].
      selected_documents: Selected documents, int64 [num_clusters].
      selected_tokens: Tokens of the selected documents, int64 [num_clusters].
      selected_squares: Σ tokens² over selected documents, float64 [num_clusters].
      split_squares: Σ (cluster's tokens in a split)² over splits, float64 [num_clusters].
      split_products: Σ (cluster's tokens in a split) · (tokens of the split), float64 [num_clusters].
      splits: Number of splits with a document, and the sum of their squared tokens, float64 [2].
      shards: Hashes of the shards' names, ascending, uint64 [m].
      shard_tokens: Tokens and selected tokens of each shard, int64 [m, 2].
      scores: Influence of the scored documents.
    """

    documents: Array
    tokens: Array
    squares: Array
    selected_documents: Array
    selected_tokens: Array
    selected_squares: Array
    split_squares: Array
    split_products: Array
    splits: Array
    shards: Array
    shard_tokens: Array
    scores: ScoreSums

    def __add__(self, other: "WorthSums") -> "WorthSums":
        shards, shard_tokens = add_by_key(
            (self.shards, other.shards), (self.shard_tokens, other.shard_tokens)
        )
        sums = {name: getattr(self, name) + getattr(other, name) for name in _ADDED}
        return WorthSums(**sums, shards=shards, shard_tokens=shard_tokens)

    @classmethod
    def zero(cls, num_clusters: int) -> "WorthSums":
        """Sums over no splits."""
        counts = {name: np.zeros(num_clusters, np.int64) for name in _COUNTS}
        sums = {name: np.zeros(num_clusters) for name in _SUMS}
        return cls(
            **counts,
            **sums,
            splits=np.zeros(2),
            shards=np.zeros(0, np.uint64),
            shard_tokens=np.zeros((0, 2), np.int64),
            scores=ScoreSums.zero(num_clusters),
        )

    @classmethod
    def of(
        cls,
        shard: str,
        cluster: Array,
        tokens: Array,
        influence: Array,
        is_selected: Array,
        num_clusters: int,
    ) -> "WorthSums":
        """Sums over the usable documents of a split.

        Args:
          shard: The split's shard.
          cluster: Clusters, int [n], in [0, num_clusters).
          tokens: Tokens, int [n].
          influence: Known or predicted influence, float [n]; nan if neither.
          is_selected: Whether each document is selected, bool [n].
          num_clusters: Number of clusters.

        Raises:
          ValueError: If a cluster is out of range or an influence is infinite.
        """
        scores = ScoreSums.of(cluster, tokens, influence, num_clusters)
        w = np.asarray(tokens, np.float64)

        def by_cluster(column: Array) -> Array:
            # bincount sums in float64, exact for integers below 2**53.
            sums: Array = np.bincount(cluster, column, num_clusters)
            return sums

        own = by_cluster(w)
        return cls(
            documents=by_cluster(np.ones(len(w))).astype(np.int64),
            tokens=own.astype(np.int64),
            selected_documents=by_cluster(is_selected).astype(np.int64),
            selected_tokens=by_cluster(w * is_selected).astype(np.int64),
            squares=by_cluster(w**2),
            selected_squares=by_cluster(w**2 * is_selected),
            split_squares=own**2,
            split_products=own * w.sum(),
            # An empty split says nothing of how splits differ.
            splits=np.array([len(w) > 0, w.sum() ** 2], np.float64),
            shards=seeding.keys([shard]),
            shard_tokens=np.array([[tokens.sum(), tokens[is_selected].sum()]], np.int64),
            scores=scores,
        )

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return len(self.documents)

    def to_bytes(self) -> bytes:
        """Writes the sums as an npz file."""
        own = dataclasses.asdict(self)
        return archives.dump(**{f"score_{k}": v for k, v in own.pop("scores").items()}, **own)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "WorthSums":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        names = [field.name for field in dataclasses.fields(ScoreSums)]
        scores = ScoreSums(**{name: found.pop(f"score_{name}") for name in names})
        return cls(**found, scores=scores)


_COUNTS = ("documents", "tokens", "selected_documents", "selected_tokens")
_SUMS = ("squares", "selected_squares", "split_squares", "split_products")
_ADDED = (*_COUNTS, *_SUMS, "splits", "scores")


@dataclasses.dataclass(frozen=True, eq=False)
class VectorSums:
    """Sums of the embeddings of each cluster. An additive statistic.

    Attributes:
      totals: Sums of unit vectors, float64 [num_clusters, dim].
      documents: Number of vectors, int64 [num_clusters].
    """

    totals: Array
    documents: Array

    def __add__(self, other: "VectorSums") -> "VectorSums":
        if self.totals.shape != other.totals.shape:
            raise ValueError(
                f"cannot add vectors of shapes {self.totals.shape} and {other.totals.shape}; "
                "were they assigned to different centers?"
            )
        return add_fields(self, other)

    @classmethod
    def of(cls, cluster: Array, vectors: Array, num_clusters: int) -> "VectorSums":
        """Sums unit rows, float16 or wider [n, dim], by their clusters, int [n] in [0, num_clusters)."""
        one_hot = scipy.sparse.csr_array(
            (np.ones(len(cluster)), cluster, np.arange(len(cluster) + 1)),
            shape=(len(cluster), num_clusters),
        )
        totals = one_hot.T @ vectors.astype(np.float64)
        return cls(totals, np.bincount(cluster, minlength=num_clusters).astype(np.int64))


def moves(old: VectorSums, new: VectorSums) -> Array:
    """Measures the distance between the means of each cluster's new and old documents, in radii.

    The radius is the root mean square distance of old documents from their mean. The part of the squared distance due to the
    sampling errors of both means is subtracted. The squared distance of a cluster that does not move is therefore 0 on average,
    however few its documents.

    Returns:
      Float64 [num_clusters]; nan if there are fewer than `LEAST_VECTORS` old or new documents.
    """
    means, noises, radii = [], [], []
    for sums in (old, new):
        number = sums.documents[:, None]
        mean = divided(sums.totals, number)
        # The mean squared distance of unit vectors from their mean.
        radius = 1 - (mean**2).sum(axis=1)
        means.append(mean)
        radii.append(radius)
        noises.append(divided(radius, np.maximum(sums.documents - 1, 0)))
    squares = ((means[1] - means[0]) ** 2).sum(axis=1) - noises[0] - noises[1]
    moved = np.sqrt(divided(np.maximum(squares, 0), np.maximum(radii[0], 0)))
    return np.where(np.minimum(old.documents, new.documents) < LEAST_VECTORS, np.nan, moved)


@dataclasses.dataclass(frozen=True)
class Worth:
    """The worth of a token.

    Attributes:
      old: Worth in the old shards; None if unknown.
      new: Worth in the new shards; None if unknown.
      ratio: New over old; None if the old worth is not significantly above 0.
    """

    old: Interval | None
    new: Interval | None
    ratio: Interval | None


@dataclasses.dataclass(frozen=True)
class ClusterChange:
    """Changes of a cluster due to new shards.

    Attributes:
      cluster: Cluster id.
      old_documents: Usable documents of the old shards.
      new_documents: Usable documents of the new shards.
      old_share: The cluster's share of the old shards' tokens.
      new_share: The cluster's share of the new shards' tokens.
      growth: 1 if it grew significantly, -1 if it shrank significantly, else 0.
      moved: Distance moved, in radii; None if unknown.
      influence: Worth of a token by mean influence.
      selected: Worth of a token by the share selected.
    """

    cluster: int
    old_documents: int
    new_documents: int
    old_share: float
    new_share: float
    growth: int
    moved: float | None
    influence: Worth
    selected: Worth


@dataclasses.dataclass(frozen=True)
class Scorecard:
    """The worth of new shards against the old ones; `records.as_json` writes it.

    Attributes:
      old_documents: Usable documents of the old shards.
      new_documents: Usable documents of the new shards.
      old_tokens: Tokens of the old shards.
      new_tokens: Tokens of the new shards.
      influence: Worth of a token by mean influence.
      scored_clusters: Share of the new tokens in clusters with a new document of known influence; `influence` covers only
        these clusters.
      selected: Worth of a token by the share selected.
      clusters: Changes of each cluster with a document, in order of id.
    """

    old_documents: int
    new_documents: int
    old_tokens: int
    new_tokens: int
    influence: Worth
    scored_clusters: float
    selected: Worth
    clusters: tuple[ClusterChange, ...]

    @property
    def grew(self) -> tuple[ClusterChange, ...]:
        """Clusters with a larger share of the new tokens than of the old."""
        return tuple(change for change in self.clusters if change.growth > 0)

    @property
    def shrank(self) -> tuple[ClusterChange, ...]:
        """Clusters with a smaller share of the new tokens than of the old."""
        return tuple(change for change in self.clusters if change.growth < 0)

    @property
    def moved(self) -> tuple[ClusterChange, ...]:
        """Clusters in which the mean of the new documents is at least `LEAST_MOVE` from the mean of the old ones."""
        return tuple(c for c in self.clusters if c.moved is not None and c.moved >= LEAST_MOVE)


def make_scorecard(
    old: WorthSums, new: WorthSums, vectors: tuple[VectorSums, VectorSums] | None = None
) -> Scorecard:
    """Compares the new shards with the old ones.

    Args:
      old: Sums over the old splits.
      new: Sums over the new splits.
      vectors: Sums of the embeddings of the old and the new splits, needed to measure how far clusters moved.

    Raises:
      ValueError: If the numbers of clusters differ.
    """
    if old.num_clusters != new.num_clusters:
        raise ValueError(
            f"{old.num_clusters} clusters in the old shards, {new.num_clusters} in the new; "
            "were they assigned to different centers?"
        )
    moved = np.full(old.num_clusters, np.nan) if vectors is None else moves(*vectors)
    old_shares, new_shares = (divided(s.tokens, s.tokens.sum()) for s in (old, new))
    growth = _growth(old, new)
    selected = [_at_clusters(_selected_parts(sums)) for sums in (old, new)]
    scored = [_at_clusters(_scored_parts(sums)) for sums in (old, new)]
    changes = [
        ClusterChange(
            cluster=c,
            old_documents=int(old.documents[c]),
            new_documents=int(new.documents[c]),
            old_share=float(np.nan_to_num(old_shares[c])),
            new_share=float(np.nan_to_num(new_shares[c])),
            growth=int(growth[c]),
            moved=None if math.isnan(moved[c]) else float(moved[c]),
            influence=_worth(scored[0][c], scored[1][c], _NORMAL),
            selected=_worth(selected[0][c], selected[1][c], _NORMAL),
        )
        for c in np.flatnonzero(old.documents + new.documents).tolist()
    ]
    # A cluster's new documents are judged if any of them was scored.
    is_scored = new.scores.documents > 0
    return Scorecard(
        int(old.documents.sum()),
        int(new.documents.sum()),
        int(old.tokens.sum()),
        int(new.tokens.sum()),
        _worth(_influence(old), _influence(new), _NORMAL),
        float(new.tokens[is_scored].sum() / max(1, new.tokens.sum())),
        _selected(old, new),
        tuple(changes),
    )


def _worth(old: tuple[float, float], new: tuple[float, float], quantile: float) -> Worth:
    """Makes a worth from two values and their variances; an unknown value is nan."""
    found = [
        None if math.isnan(value) else Interval.around(float(value), float(variance), quantile)
        for value, variance in (old, new)
    ]
    ratio = None
    if None not in found:
        # No document is in both, so the two values have no covariance.
        ratio = intervals.ratio(
            float(new[0]), float(old[0]), (float(new[1]), 0.0, float(old[1])), quantile
        )
    return Worth(found[0], found[1], ratio)


def _at_clusters(parts: tuple[Array, Array]) -> list[tuple[float, float]]:
    return list(zip(*(part.tolist() for part in parts), strict=True))


def _influence(sums: WorthSums) -> tuple[float, float]:
    """Computes the mean influence of a token, with clusters weighted by their tokens, and its variance."""
    means, errors = _scored_parts(sums)
    known = ~np.isnan(means)
    if not known.any():
        return math.nan, math.nan
    shares = sums.tokens[known] / sums.tokens[known].sum()
    return float(shares @ means[known]), float(shares**2 @ errors[known])


def _scored_parts(sums: WorthSums) -> tuple[Array, Array]:
    """Computes mean influence by cluster and its variance, which is pooled for a cluster with one scored document."""
    scores = sums.scores
    freedom = np.maximum(scores.documents - 1, 0).sum()
    pooled = scores.deviations.sum() / freedom if freedom else 0.0
    own = scores.mean_variances
    single = pooled * np.where(scores.documents > 0, scores.relative_errors, 0.0)
    return scores.means, np.where(scores.documents > 1, own, single)


def _selected_parts(sums: WorthSums) -> tuple[Array, Array]:
    """Computes the selected share of each cluster's tokens, and its variance if documents are a sample."""
    # For the variance, one selected and one unselected document are added: if all of three documents are selected, the next
    # one need not be.
    mean_tokens = divided(sums.tokens, sums.documents)
    shares = (sums.selected_tokens + mean_tokens) / (sums.tokens + 2 * mean_tokens)
    squares = sums.selected_squares * (1 - 2 * shares) + shares**2 * sums.squares
    tokens = sums.tokens.astype(float)
    return divided(sums.selected_tokens, tokens), divided(squares, tokens**2)


def _selected(old: WorthSums, new: WorthSums) -> Worth:
    means, variances = [], []
    for sums in (old, new):
        some = sums.shard_tokens[:, 0] > 0
        tokens, selected = sums.shard_tokens[some].T
        means.append(ShardMeans(selected.astype(float), tokens))
        share = means[-1].mean
        squares = sums.selected_squares.sum() * (1 - 2 * share) + share**2 * sums.squares.sum()
        # The unit is a token: σ² is defined so that σ² / tokens is the variance due to documents.
        variances.append(float(squares / max(1, tokens.sum())))
    share = float(np.mean([mean.mean for mean in means]))
    assumed = ASSUMED_CORRELATION * share * (1 - share)
    before, after, freedom = (
        mean_variances(means[0], means[1], variances[0], variances[1], assumed)
        if min(mean.number for mean in means)
        else (0.0, 0.0, math.inf)
    )
    quantile = float(stats.t.isf(0.025, freedom))
    return _worth((means[0].mean, before), (means[1].mean, after), quantile)


def _growth(old: WorthSums, new: WorthSums) -> Array:
    """Tests which clusters grew, 1, and shrank, -1, int [num_clusters].

    The change of a cluster's share is tested by Student's t. Its variance is the larger of that between the old splits, if there
    are enough splits, and that between documents. Since most clusters neither grow nor shrink, t is divided by the median of all
    clusters' changes if that is larger than expected (genomic control: Devlin & Roeder, 1999). The level is 5 % for all
    clusters together (Bonferroni).
    """
    there = old.documents + new.documents > 0
    if not (old.tokens.sum() and new.tokens.sum()):
        return np.zeros(old.num_clusters, np.int64)
    shares = [sums.tokens / sums.tokens.sum() for sums in (old, new)]
    variance = sum(sums.squares / sums.tokens.sum() ** 2 for sums in (old, new))
    number, squares = old.splits
    freedom = math.inf
    if number > LEAST_FREEDOM:
        freedom = float(number - 1)
        # Σ (cluster's tokens - share · split's tokens)² over the old splits, expanded so that it follows from sums.
        residuals = (
            old.split_squares - 2 * shares[0] * old.split_products + shares[0] ** 2 * squares
        )
        by_split = residuals / squares * number / freedom
        sizes = sum(sums.splits[1] / sums.tokens.sum() ** 2 for sums in (old, new))
        variance = np.maximum(variance, by_split * sizes)
    t = np.nan_to_num(divided(shares[1] - shares[0], np.sqrt(variance)))
    # Without growth, half of all |t| are above the upper quartile of t.
    inflation = max(1.0, float(np.median(np.abs(t[there])) / stats.t.isf(0.25, freedom)))
    # Half of 5 % for each direction.
    is_certain = np.abs(t) > stats.t.isf(0.025 / there.sum(), freedom) * inflation
    grew = is_certain & (shares[1] >= LEAST_GROWTH * shares[0])
    shrank = is_certain & (shares[0] >= LEAST_GROWTH * shares[1])
    return np.asarray(grew.astype(np.int64) - shrank)
