"""Tests for drift of new shards against old ones: far documents, influence within clusters, lengths, rejections.

Two passes compute sums. The first pass covers only the old splits (`ReferenceSums`): for each cluster, the distances of documents
from their center and their influence. The second pass covers all splits, old and new separately (`DriftSums`). It assigns all
documents to the old centers and compares each with the first pass: whether it is farther from its center than nearly all old
documents of its cluster, and how far its influence is from their mean. `find_drift` compares the old with the new splits.

A document's center is the nearest one, so a document far from it is far from all centers. Its rank among the old documents of
its cluster is a smoothed conformal p-value (Vovk et al., equation 2.20). With `b` of n old documents farther and `t` in the same
bin of cosines (an old document does not count itself),

    p = (b + U (t + 1)) / (n + 1),      U uniform in [0, 1), a hash of the document,

is uniform without drift, for any bins and any cluster size, for old and for new documents. A document is far if p < .01, so
without drift 1 % of old and of new documents are far. Five hypotheses are tested at 5 % in all (Holm), each with the shard as
its unit (`comparison`). A significant difference that is too small to matter (`LEAST_...`) raises no alarm.

References:
  Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005 (smoothed conformal predictors).
  Bross, How to Use Ridit Analysis, 1958 (ranks of binned values against a reference distribution).
  Donner & Klar, Design and Analysis of Cluster Randomization Trials in Health Research, 2000.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from beam_quad import archives, seeding
from beam_quad.additive import Tally, add_by_bucket, add_fields
from beam_quad.refresh.comparison import (
    ASSUMED_CORRELATION,
    LEAST_FREEDOM,
    Difference,
    ShardMeans,
    compare,
    compare_shares,
    holm,
)
from beam_quad.refresh.scores import ScoreSums, divided, refuse_bad

Array = np.ndarray[Any, np.dtype[Any]]

FAR_SHARE = 0.01
LEVEL = 0.05
# A smaller difference raises no alarm, however significant.
LEAST_FAR = 0.005  # of the documents
LEAST_SHIFT = 0.1  # standard deviations within clusters
LEAST_LENGTH = 0.02  # probability beyond 1/2 that a new document is longer; 5 % longer if lengths are log-normal
LEAST_REJECTED = 0.005  # of the documents
# With fewer documents nothing is tested: at 1 %, only two would be far.
LEAST_DOCUMENTS = 200
LEAST_SCORED = 50
LEAST_CLUSTERS = 20

_BINS = 256  # bins of 1/128 in cosine, a tenth of the spread of a cluster
_NUM_LENGTHS = 48  # half octaves, up to 2**24 tokens
_COLUMNS = 5


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
        mine, theirs = (self.buckets, self.amounts), (other.buckets, other.amounts)
        return ReferenceSums(*add_by_bucket(mine, theirs), self.scores + other.scores)

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
        in_bin = np.append(self.buckets, -1)[at] == buckets
        starts = self._sums[np.searchsorted(self.buckets, _BINS * np.arange(self.num_clusters + 1))]
        farther = self._sums[at] - starts[cluster]
        # An old document is itself in its bin and its cluster, and does not count.
        ties = self._sums[at + in_bin] - self._sums[at] - is_old
        others = np.diff(starts)[cluster] - is_old
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
        # Centering removes the shift that all clusters of a split share, which `_influence` tests.
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
        shards, at = np.unique(np.concatenate([self.shards, other.shards]), return_inverse=True)
        counts = np.zeros((len(shards), self.counts.shape[1]), np.int64)
        residuals = np.zeros((len(shards), 2))
        np.add.at(counts, at, np.concatenate([self.counts, other.counts]))
        np.add.at(residuals, at, np.concatenate([self.residuals, other.residuals]))
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


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one test for drift.

    Attributes:
      name: far, influence, influence_by_cluster, lengths or rejected.
      old: For the old documents, in the order of the names: the share of far documents; 0; 0; mean tokens; the share of
        rejected rows.
      new: For the new documents: the share of far documents; the shift of influence within clusters, in standard deviations;
        the root mean square of the clusters' own shifts, in standard deviations; mean tokens; the share of rejected rows.
      p_value: The p-value adjusted for all tests (Holm); None if there are too few documents.
      is_by_shards: Whether the variance between shards without drift is estimated; it is assumed if there are too few shards.
      is_alarm: Whether the difference is significant and large enough to matter.
    """

    name: str
    old: float | None
    new: float | None
    p_value: float | None = None
    is_by_shards: bool = True
    is_alarm: bool = False


@dataclasses.dataclass(frozen=True)
class Drift:
    """The results of all tests for drift.

    Attributes:
      documents: Number of new documents.
      shards: Number of new shards.
      findings: The finding of each test by name.
      reasons: Shares of the old and of the new rows rejected for each reason.
    """

    documents: int
    shards: int
    findings: dict[str, Finding]
    reasons: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def is_alarm(self) -> bool:
        """Whether any test raises an alarm."""
        return any(finding.is_alarm for finding in self.findings.values())


@dataclasses.dataclass(frozen=True)
class _Test:
    finding: Finding
    p_value: float | None = None
    matters: bool = False


def find_drift(reference: ReferenceSums, old: DriftSums, new: DriftSums) -> Drift:
    """Compares the new shards with the old ones.

    Args:
      reference: The first pass, over the old splits.
      old: The second pass, over the old splits.
      new: The second pass, over the new splits.

    Returns:
      A finding for each test. Without drift, the probability that any of them is an alarm is at most 5 %.
    """
    tests = [
        _far(old, new),
        _influence(reference, old, new),
        _influence_by_cluster(old, new),
        *_lengths(old, new),
        _rejected(old, new),
    ]
    asked = [test for test in tests if test.p_value is not None]
    adjusted = iter(holm([test.p_value for test in asked if test.p_value is not None]))
    findings: dict[str, Finding] = {}
    for test in tests:
        found = test.finding
        if test.p_value is not None:
            p_value = next(adjusted)
            found = dataclasses.replace(
                found, p_value=p_value, is_alarm=test.matters and p_value <= LEVEL
            )
        # The two tests of lengths give one finding, an alarm if either is, else the lower p-value.
        before = findings.get(found.name)
        if before is None or (found.is_alarm, -(found.p_value or 0)) > (
            before.is_alarm,
            -(before.p_value or 0),
        ):
            findings[found.name] = found
    rows = [max(1, sums.rejected().number) for sums in (old, new)]
    reasons = {
        reason: (old.reasons[reason] / rows[0], new.reasons[reason] / rows[1])
        for reason in sorted({*old.reasons.counts, *new.reasons.counts})
    }
    return Drift(new.documents, len(new.shards), findings, reasons)


def _means(totals: Array, documents: Array) -> ShardMeans:
    some = documents > 0
    return ShardMeans(totals[some].astype(float), documents[some])


def _buckets(cluster: Array, cosine: Array) -> Array:
    cosine = np.asarray(cosine, np.float64)
    if not np.isfinite(cosine).all():
        raise ValueError(f"cosine of row {int((~np.isfinite(cosine)).argmax())} is not finite")
    bins = np.clip(np.floor((cosine + 1) * (_BINS / 2)), 0, _BINS - 1).astype(np.int64)
    return np.asarray(cluster, np.int64) * _BINS + bins


def _of_means(name: str, old: ShardMeans, new: ShardMeans) -> Finding:
    before, after = (means.mean if means.number else None for means in (old, new))
    return Finding(name, before, after)


def _are_few(old: ShardMeans, new: ShardMeans, least: int) -> bool:
    return min(old.number, new.number) < least


def _far(old: DriftSums, new: DriftSums) -> _Test:
    before, after = old.far(), new.far()
    finding = _of_means("far", before, after)
    if _are_few(before, after, LEAST_DOCUMENTS):
        return _Test(finding)
    difference, p_above, _ = compare_shares(before, after)
    return _Test(_by_unit(finding, difference), p_above, difference.value >= LEAST_FAR)


def _rejected(old: DriftSums, new: DriftSums) -> _Test:
    before, after = old.rejected(), new.rejected()
    finding = _of_means("rejected", before, after)
    if _are_few(before, after, LEAST_DOCUMENTS):
        return _Test(finding)
    difference, p_above, p_below = compare_shares(before, after)
    p_value = min(1.0, 2 * min(p_above, p_below))
    return _Test(_by_unit(finding, difference), p_value, abs(difference.value) >= LEAST_REJECTED)


def _influence(reference: ReferenceSums, old: DriftSums, new: DriftSums) -> _Test:
    before, after = old.influence(), new.influence()
    deviation = _deviation(old)
    if _are_few(before, after, LEAST_SCORED) or not deviation > 0:
        return _Test(Finding("influence", 0.0, None))
    # The old mean subtracted from a cluster's new documents is itself an estimate with an error.
    shares = new.pairs.documents / after.number
    old_error = deviation**2 * divided(shares**2, reference.scores.documents)
    difference = compare(before, after, deviation**2, float(np.nansum(old_error)))
    shift = difference.value / deviation
    finding = _by_unit(Finding("influence", 0.0, shift), difference)
    return _Test(finding, difference.p_value, abs(shift) >= LEAST_SHIFT)


def _deviation(old: DriftSums) -> float:
    """The standard deviation of influence within clusters."""
    freedom = old.pairs.documents.sum() - (old.pairs.documents > 0).sum()
    return math.sqrt(old.residuals[:, 1].sum() / freedom) if freedom > 0 else math.nan


def _influence_by_cluster(old: DriftSums, new: DriftSums) -> _Test:
    """Tests whether clusters have shifted, each in its own direction.

    If a cluster has shifted by d, the product of residuals of a pair of its new documents is d² on average. Two terms are
    subtracted: the error of the cluster's old mean, s² / n + ω² Σn_i²/n², and for pairs of one split the variance ω² that a
    split adds, estimated from pairs of the old splits. The standard error of the sum over clusters is computed from its own
    squares, so that heavy tails of influence raise no alarm.
    """
    nothing = Finding("influence_by_cluster", 0.0, None)
    known = (old.pairs.documents >= 2) & (new.pairs.documents >= 2)
    deviation = _deviation(old)
    if int(known.sum()) < LEAST_CLUSTERS or not deviation > 0:
        return _Test(nothing)
    is_by_shards = len(old.shards) + len(new.shards) - 2 >= LEAST_FREEDOM
    a, b = _where(old.pairs, known), _where(new.pairs, known)
    noise = a.squares / (a.documents - 1) / a.documents
    # Old documents are part of the mean subtracted from them, so products of two are lower by the error of the mean.
    own = a.split_products + a.split_pairs * noise
    scale = a.split_pairs * (1 - np.minimum(a.concentration, 0.5))
    shared = max(0.0, float(own.sum() / scale.sum())) if scale.sum() else 0.0
    if not is_by_shards:
        shared = max(shared, ASSUMED_CORRELATION * deviation**2)
    shared_error = math.sqrt(((own - shared * scale) ** 2).sum()) / max(scale.sum(), 1)
    expected = b.split_pairs + b.pairs * a.concentration
    moved = b.products - b.pairs * noise - shared * expected
    # The noise of a sum over pairs grows with the square root of their number, so all clusters get equal noise.
    weights = 1 / np.sqrt(b.pairs)
    error = math.hypot(
        math.sqrt(((weights * moved) ** 2).sum()), shared_error * float((weights * expected).sum())
    )
    shift = math.sqrt(max(0.0, float(moved.sum() / b.pairs.sum()))) / deviation
    p_value = float(stats.norm.sf((weights * moved).sum() / error)) if error > 0 else 1.0
    finding = dataclasses.replace(nothing, new=shift, is_by_shards=is_by_shards)
    return _Test(finding, p_value, shift >= LEAST_SHIFT)


def _where(pairs: PairSums, known: Array) -> PairSums:
    return PairSums(*(getattr(pairs, f.name)[known] for f in dataclasses.fields(pairs)))


def _lengths(old: DriftSums, new: DriftSums) -> list[_Test]:
    """Tests whether documents are longer or shorter, and whether lengths vary more or less."""
    finding = Finding("lengths", old.mean_tokens, new.mean_tokens)
    lengths = old.lengths
    if min(old.documents, new.documents) < LEAST_DOCUMENTS:
        return [_Test(finding)]
    shares = lengths / lengths.sum()
    # The share of shorter old documents plus half of the equally long ones, 1/2 on average (ridit).
    location = np.cumsum(shares) - shares / 2
    tests = []
    for ranks in (location, 2 * np.abs(location - 0.5)):
        variance = float(shares @ ranks**2 - (shares @ ranks) ** 2)
        difference = compare(old.ridits(ranks), new.ridits(ranks), variance)
        matters = abs(difference.value) >= LEAST_LENGTH
        tests.append(_Test(_by_unit(finding, difference), difference.p_value, matters))
    return tests


def _by_unit(finding: Finding, difference: Difference) -> Finding:
    return dataclasses.replace(finding, is_by_shards=difference.is_by_shards)
