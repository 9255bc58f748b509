"""Tests for drift of new shards against old ones: far documents, influence within clusters, lengths, rejections.

Two passes compute sums. The first pass covers only the old splits (`reference`): for each cluster, the distances of documents
from their center and their influence. The second pass covers all splits, old and new separately (`drift_sums`). It assigns all
documents to the old centers and compares each with the first pass: whether it is farther from its center than nearly all old
documents of its cluster, and how far its influence is from their mean. `find_drift` compares the old with the new splits.

Five hypotheses are tested at 5 % in all (Holm), each with the shard as its unit (`comparison`). A significant difference that
is too small to matter (`LEAST_...`) raises no alarm.

References:
  Bross, How to Use Ridit Analysis, 1958 (ranks of binned values against a reference distribution).
  Donner & Klar, Design and Analysis of Cluster Randomization Trials in Health Research, 2000.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from beam_quad.refresh.comparison import (
    ASSUMED_CORRELATION,
    LEAST_FREEDOM,
    Difference,
    ShardMeans,
    compare,
    compare_shares,
    holm,
)
from beam_quad.refresh.drift_sums import DriftSums, PairSums
from beam_quad.refresh.reference import ReferenceSums
from beam_quad.refresh.scores import divided

Array = np.ndarray[Any, np.dtype[Any]]

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
    # Tests without enough documents do not count: they would only make Holm stricter for the others.
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
    # One-sided: new documents nearer to the centers than the old ones need no new cluster.
    difference, p_above, _ = compare_shares(before, after)
    return _Test(_by_unit(finding, difference), p_above, difference.value >= LEAST_FAR)


def _rejected(old: DriftSums, new: DriftSums) -> _Test:
    before, after = old.rejected(), new.rejected()
    finding = _of_means("rejected", before, after)
    if _are_few(before, after, LEAST_DOCUMENTS):
        return _Test(finding)
    difference, p_above, p_below = compare_shares(before, after)
    # Two-sided: if fewer rows are rejected, the files have changed as well.
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
    # A cluster without old scored documents has no mean to subtract, and no document in these sums: 0 / 0 is nan.
    difference = compare(before, after, deviation**2, float(np.nansum(old_error)))
    shift = difference.value / deviation
    finding = _by_unit(Finding("influence", 0.0, shift), difference)
    return _Test(finding, difference.p_value, abs(shift) >= LEAST_SHIFT)


def _deviation(old: DriftSums) -> float:
    """The standard deviation of influence within clusters."""
    # Of old documents alone: what drifts must not widen the unit it is measured in.
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
    # The noise of the clusters averages out over them; the error of ω², which they share, does not.
    error = math.hypot(
        math.sqrt(((weights * moved) ** 2).sum()), shared_error * float((weights * expected).sum())
    )
    shift = math.sqrt(max(0.0, float(moved.sum() / b.pairs.sum()))) / deviation
    # One-sided: a shift in either direction makes the products positive.
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
