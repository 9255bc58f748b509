import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad import records
from beam_quad.additive import total
from beam_quad.refresh.drift import find_drift
from beam_quad.refresh.drift_sums import DriftSums, PairSums
from beam_quad.refresh.reference import ReferenceSums
from beam_quad.refresh.scores import ScoreSums
from tests.refresh.simulation import Corpus, Planted, Shard, measure, refer, refreshes

SMALL = Corpus(documents=300, num_clusters=12)
DRIFTS = {
    "none": Planted(),
    "far": Planted(far=0.05),
    "influence": Planted(shift=0.3),
    "influence_by_cluster": Planted(own_shift=0.3),
    "lengths": Planted(longer=1.2),
    "rejected": Planted(rejections=2),
}


@pytest.fixture(scope="module")
def found():
    """What is found in 40 refreshes of 20 old shards with 4 new ones, each of 2,000 documents."""
    return refreshes(Corpus(), 20, 4, DRIFTS, 40, seed=0)


def test_of_refreshes_without_drift_a_twentieth_at_most_raises_an_alarm(found):
    # Of 40 at 5 % there are 2, and more than 5 with a probability of 1 %.
    assert sum(drift.is_alarm for drift in found["none"]) <= 5


@pytest.mark.parametrize("name", [name for name in DRIFTS if name != "none"])
def test_of_planted_drifts_nineteen_twentieths_are_found_each_for_what_it_is(found, name):
    assert np.mean([drift.findings[name].is_alarm for drift in found[name]]) >= 0.95
    others = [f for drift in found[name] for f in drift.findings.values() if f.name != name]
    assert np.mean([other.is_alarm for other in others]) <= 0.03


@pytest.mark.parametrize(("num_old", "num_new", "documents"), [(10, 3, 100), (2, 1, 2_000)])
def test_neither_few_documents_nor_few_shards_raise_alarms(num_old, num_new, documents):
    corpus = Corpus(documents, num_clusters=20)
    drifts = refreshes(corpus, num_old, num_new, {"none": Planted()}, 40, seed=1)["none"]
    assert sum(drift.is_alarm for drift in drifts) <= 5


def test_a_difference_that_shards_have_without_drift_is_none():
    """Ten thousand documents of one odd shard are one shard: by documents they would be certain."""
    corpus = Corpus(documents=3_000, num_clusters=20, alike=3.0)
    drifts = refreshes(corpus, 12, 1, {"none": Planted()}, 40, seed=2)["none"]
    assert sum(drift.is_alarm for drift in drifts) <= 5


def test_documents_like_the_old_ones_are_far_as_often_whatever_the_size_of_their_cluster():
    rng = np.random.default_rng(0)
    sizes = np.array([3, 30, 300, 3_000])
    shares = []
    for _ in range(300):
        parts = []
        for number in (sizes, 300):
            cluster = np.repeat(np.arange(4), number)
            cosine = 0.5 + 0.1 * rng.normal(size=len(cluster))
            parts.append((cluster, cosine, rng.integers(0, 2**63, len(cluster)).astype(np.uint64)))
        unknown, tokens = np.full(sizes.sum(), np.nan), np.ones(sizes.sum(), int)
        reference = ReferenceSums.of(*parts[0][:2], tokens, unknown, 4)
        for columns, is_old in zip(parts, (True, False), strict=True):
            far = reference.is_far(*columns, is_old=is_old)
            shares.append(np.bincount(columns[0], far, 4) / np.bincount(columns[0]))
    old, new = np.mean(shares[::2], axis=0), np.mean(shares[1::2], axis=0)
    np.testing.assert_allclose(new, 0.01, atol=0.003)
    np.testing.assert_allclose(old[1:], 0.01, atol=0.003)
    assert old[0] == pytest.approx(0.01, abs=0.008)  # of 900 documents


def test_an_old_document_is_ranked_as_a_new_one_would_be_among_the_others():
    rng = np.random.default_rng(7)
    cluster, cosine = rng.integers(0, 3, 40), np.round(rng.normal(0.5, 0.02, 40), 2)
    keys = rng.integers(0, 2**63, 40).astype(np.uint64)
    unknown, tokens = np.full(40, np.nan), np.ones(40, int)
    whole = ReferenceSums.of(cluster, cosine, tokens, unknown, 3)
    ranks = whole.ranks(cluster, cosine, keys, is_old=True)
    for i in range(40):
        others = np.arange(40) != i
        rest = ReferenceSums.of(cluster[others], cosine[others], tokens[others], unknown[others], 3)
        own = rest.ranks(cluster[[i]], cosine[[i]], keys[[i]], is_old=False)
        assert own[0] == ranks[i]
        same = others & (cluster == cluster[i])
        bins = np.floor(cosine * 128)
        farther, ties = (bins[same] < bins[i]).sum(), (bins[same] == bins[i]).sum()
        assert farther <= own[0] * (same.sum() + 1) <= farther + ties + 1


def test_far_is_below_the_hundredth_of_the_cosines_of_the_cluster():
    rng = np.random.default_rng(1)
    cluster = np.repeat([0, 1], 10_000)
    cosine = np.where(cluster == 0, 0.2, 0.7) + 0.1 * rng.normal(size=20_000)
    reference = ReferenceSums.of(cluster, cosine, np.ones(20_000, int), np.full(20_000, np.nan), 3)
    bounds = [np.quantile(cosine[cluster == c], 0.01) for c in (0, 1)]
    keys = np.arange(2_000, dtype=np.uint64)
    for c, bound in enumerate(bounds):
        own = np.full(2_000, c)
        below = reference.is_far(own, np.full(2_000, bound - 1 / 64), keys, is_old=False)
        above = reference.is_far(own, np.full(2_000, bound + 1 / 64), keys, is_old=False)
        assert below.all()
        assert not above.any()
    # Of a cluster without an old document, as many as of any.
    empty = reference.is_far(np.full(2_000, 2), np.full(2_000, 0.5), keys, is_old=False)
    assert 0.003 < empty.mean() < 0.02


def cut(shard: Shard, start: int, end: int) -> Shard:
    """Rows of a shard; the last has the rejected ones too."""
    columns = ("cluster", "cosine", "tokens", "influence", "keys")
    piece = {name: getattr(shard, name)[start:end] for name in columns}
    return dataclasses.replace(
        shard, rejected=shard.rejected if end == len(shard.keys) else {}, **piece
    )


@settings(max_examples=20)
@given(at=st.integers(0, 299), seed=st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_splits_or_their_order(at, seed):
    rng = np.random.default_rng(seed)
    shards = SMALL.shards(rng, 3, "old")
    pieces = [cut(shards[1], at, 300), shards[2], cut(shards[1], 0, at), shards[0]]
    reference = refer(shards, 12)
    other = ReferenceSums.from_bytes(refer(pieces, 12).to_bytes())
    np.testing.assert_array_equal(other.buckets, reference.buckets)
    np.testing.assert_array_equal(other.amounts, reference.amounts)
    np.testing.assert_allclose(other.scores.means, reference.scores.means)
    whole = measure(reference, shards, is_old=True)
    parts = DriftSums.from_bytes(measure(reference, pieces, is_old=True).to_bytes())
    np.testing.assert_array_equal(parts.shards, whole.shards)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_allclose(parts.residuals, whole.residuals, atol=1e-12)
    assert parts.reasons == whole.reasons


def test_pairs_are_those_of_a_loop():
    rng = np.random.default_rng(2)
    splits = [(rng.integers(0, 3, 9), rng.normal(size=9)) for _ in range(4)]
    sums = total([PairSums.of(*each, 3) for each in splits], PairSums.zero(3))
    rows = [
        (split, c, r)
        for split, (cluster, residuals) in enumerate(splits)
        for c, r in zip(cluster, residuals - residuals.mean(), strict=True)
    ]
    products, own, number = np.zeros(3), np.zeros(3), np.zeros(3)
    for i, (split, c, r) in enumerate(rows):
        for j, (other, d, q) in enumerate(rows):
            if i != j and c == d:
                products[c] += r * q
                own[c] += r * q * (split == other)
                number[c] += split == other
    np.testing.assert_allclose(sums.products, products)
    np.testing.assert_allclose(sums.split_products, own)
    np.testing.assert_allclose(sums.split_pairs, number)
    sizes = np.array([np.bincount(cluster, minlength=3) for cluster, _ in splits])
    np.testing.assert_allclose(sums.concentration, (sizes**2).sum(0) / sizes.sum(0) ** 2)


def test_what_is_reported_is_what_the_documents_are():
    rng = np.random.default_rng(3)
    old, new = SMALL.shards(rng, 9, "old"), SMALL.shards(rng, 3, "new", Planted(0.2, 0.5))
    reference = refer(old, 12)
    drift = find_drift(
        reference, measure(reference, old, is_old=True), measure(reference, new, is_old=False)
    )
    assert (drift.documents, drift.shards) == (900, 3)
    assert drift.findings["lengths"].new == pytest.approx(
        np.concatenate([s.tokens for s in new]).mean()
    )
    rejected = sum(s.rejected["too short"] for s in new)
    assert drift.findings["rejected"].new == pytest.approx(rejected / (900 + rejected))
    assert drift.reasons["too short"][1] == pytest.approx(rejected / (900 + rejected))
    residuals = np.concatenate([s.influence - reference.scores.plain_means[s.cluster] for s in new])
    before = np.concatenate([s.influence - reference.scores.plain_means[s.cluster] for s in old])
    scored = ~np.isnan(before)
    deviation = math.sqrt((before[scored] ** 2).sum() / (scored.sum() - 12))
    assert drift.findings["influence"].new == pytest.approx(np.nanmean(residuals) / deviation)
    assert drift.findings["far"].new > 0.15
    assert records.as_json(drift)["findings"]["far"]["is_alarm"] is True


def test_very_few_documents_are_too_few_to_tell():
    rng = np.random.default_rng(4)
    old = SMALL.shards(rng, 5, "old")
    tiny = dataclasses.replace(SMALL, documents=40)
    new = tiny.shards(rng, 4, "new", Planted(0.9, 5.0, 0, 9.0, 9.0))
    reference = refer(old, 12)
    before = measure(reference, old, is_old=True)
    for shards in (new, []):
        drift = find_drift(reference, before, measure(reference, shards, is_old=False))
        assert not drift.is_alarm
        assert {finding.p_value for finding in drift.findings.values()} == {None}
        assert "NaN" not in json.dumps(records.as_json(drift))


def rejecting(num_rejected, name, num_shards):
    """Shards of 100,000 documents of one length each, of which as many more rows are rejected."""
    tokens, cluster = np.full(100_000, 500), np.zeros(100_000, int)
    unknown, keys = np.full(100_000, np.nan), np.zeros(100_000, np.uint64)
    columns = (cluster, np.full(100_000, 0.5), tokens, unknown, keys, {"too short": num_rejected})
    parts = [
        DriftSums.of(ReferenceSums.zero(1), f"{name}{shard}", *columns, is_old=False)
        for shard in range(num_shards)
    ]
    return total(parts, DriftSums.zero(1))


def test_a_certain_difference_that_is_small_is_no_alarm():
    old, slightly, more = (rejecting(n, f"{n}-", 4) for n in (2_000, 2_200, 3_000))
    changes = ((old, 1_000, 0), (slightly, 1_300, 1_500), (more, 2_000, 9_000))
    for sums, far, longer in changes:
        # Some are far, and some as long as no old one is.
        sums.counts[:, 2] = far
        at = int(np.argmax(sums.lengths))
        sums.counts[:, 5 + at] -= longer
        sums.counts[:, 5 + at + 1] += longer
    small = find_drift(ReferenceSums.zero(1), old, slightly)
    large = find_drift(ReferenceSums.zero(1), old, more)
    for name in ("far", "lengths", "rejected"):
        assert small.findings[name].p_value < 0.01
        assert not small.findings[name].is_alarm
        assert large.findings[name].is_alarm


def test_of_too_few_shards_to_know_what_they_differ_by_it_is_said_and_they_are_given_leeway():
    old, more = rejecting(2_000, "old", 1), rejecting(3_000, "new", 1)
    found = find_drift(ReferenceSums.zero(1), old, more).findings["rejected"]
    assert not found.is_by_shards
    assert not found.is_alarm
    many = rejecting(9_000, "new", 1)
    assert find_drift(ReferenceSums.zero(1), old, many).findings["rejected"].is_alarm


def test_more_or_less_alike_lengths_are_a_drift_too():
    rng = np.random.default_rng(5)
    old, new = SMALL.shards(rng, 10, "old"), SMALL.shards(rng, 4, "new")
    new = [
        dataclasses.replace(s, tokens=np.maximum(1, 403 * (s.tokens / 403) ** 0.3).astype(int))
        for s in new
    ]
    reference = refer(old, 12)
    drift = find_drift(
        reference, measure(reference, old, is_old=True), measure(reference, new, is_old=False)
    )
    assert drift.findings["lengths"].is_alarm


def test_ten_thousand_clusters_stay_a_few_megabytes():
    rng = np.random.default_rng(6)
    cluster = rng.integers(0, 10_000, 2_000_000)
    cosine = 0.5 + 0.07 * rng.normal(size=2_000_000)
    ones = np.ones(2_000_000, int)
    sums = ReferenceSums.of(cluster, cosine, ones, np.full(2_000_000, np.nan), 10_000)
    assert len(sums.to_bytes()) < 10e6


@pytest.mark.parametrize(
    ("cluster", "cosine", "influence", "words"),
    [(3, 0.5, 0.0, "3 to 3 are not all in"), (0, np.nan, 0.0, "row 0 is not finite"), (0, 0.5, np.inf, "row 0 is infinite")],
)  # fmt: skip
def test_what_cannot_be_summed_is_refused(cluster, cosine, influence, words):
    columns = np.array([cluster]), np.array([cosine]), np.array([5]), np.array([influence])
    with pytest.raises(ValueError, match=words):
        ReferenceSums.of(*columns, 3)
    reference = ReferenceSums.zero(3)
    with pytest.raises(ValueError, match=words):
        DriftSums.of(reference, "a", *columns, np.zeros(1, np.uint64), {}, is_old=False)
    with pytest.raises(ValueError, match="of 3 and 4 clusters"):
        ScoreSums.zero(3) + ScoreSums.zero(4)


@pytest.mark.parametrize(("num_old", "own"), [(1, 0.0), (12, 0.5)])
def test_neither_the_error_of_old_means_nor_what_each_shard_has_of_its_own_moves_a_cluster(
    num_old, own
):
    """Of 300 clusters few documents are scored in each shard, and a shard's have a mean of their own."""
    rng = np.random.default_rng(8)
    alarms, found = 0, 0
    for _ in range(12):
        generations = []
        for name, number in (("old", num_old), ("new", 1), ("moved", 1)):
            shards = []
            for i in range(number):
                cluster = np.repeat(np.arange(300), 4)
                influence = own * rng.normal(size=300)[cluster] + rng.normal(size=1_200)
                influence += (-1.5) ** (cluster % 2) * (name == "moved")
                constants = np.full(1_200, 0.5), np.full(1_200, 400)
                keys = np.zeros(1_200, np.uint64)
                shards.append(Shard(f"{name}{i}", cluster, *constants, influence, keys, {}))
            generations.append(shards)
        reference = refer(generations[0], 300)
        old, new, moved = (measure(reference, g, is_old=g is generations[0]) for g in generations)
        alarms += find_drift(reference, old, new).findings["influence_by_cluster"].is_alarm
        found += find_drift(reference, old, moved).findings["influence_by_cluster"].is_alarm
    assert alarms <= 1
    assert found >= 11


def test_the_error_of_the_old_means_is_that_of_the_clusters_that_new_documents_are_in():
    """All new documents are in a cluster of which 20 old ones are scored, of 5,020."""
    rng = np.random.default_rng(9)
    alarms = 0
    for _ in range(40):
        shards = []
        for name, sizes in (("old", [5_000, 20]), ("new", [0, 500])):
            cluster = np.repeat(np.arange(2), sizes)
            constants = np.full(len(cluster), 0.5), np.full(len(cluster), 400)
            influence, keys = rng.normal(size=len(cluster)), np.zeros(len(cluster), np.uint64)
            shards.append(Shard(name, cluster, *constants, influence, keys, {}))
        reference = refer(shards[:1], 2)
        drift = find_drift(
            reference,
            measure(reference, shards[:1], is_old=True),
            measure(reference, shards[1:], is_old=False),
        )
        alarms += drift.findings["influence"].is_alarm
    assert alarms <= 3
