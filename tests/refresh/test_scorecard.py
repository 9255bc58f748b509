import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from beam_quad.additive import total
from beam_quad.refresh.scorecard import VectorSums, WorthSums, make_scorecard, moves

NUM_CLUSTERS = 6


def split(rng, shard, number, selected=0.3, influence=1.0, sizes=None, scored=0.5, alike=0.0):
    """The arrays of a split, in the order of `WorthSums.of`."""
    cluster = rng.choice(NUM_CLUSTERS, number, p=sizes)
    tokens = rng.integers(20, 400, number)
    scores = influence + 0.2 * cluster + rng.normal(size=number)
    share = np.clip(selected + alike * rng.normal(), 0, 1)
    return (
        shard,
        cluster,
        tokens,
        np.where(rng.random(number) < scored, scores, np.nan),
        rng.random(number) < share,
    )


def sum_of(splits):
    sums = [WorthSums.of(*each, NUM_CLUSTERS) for each in splits]
    return total(sums, WorthSums.zero(NUM_CLUSTERS))


def shards(rng, number, name, documents=300, **options):
    return [split(rng, f"{name}{i}", documents, **options) for i in range(number)]


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 200), max_size=3), seed=st.integers(0, 2**32 - 1))
def test_sums_do_not_depend_on_splits_or_their_order(cuts, seed):
    rng = np.random.default_rng(seed)
    name, *columns = split(rng, "a", 200)
    bounds = [0, *sorted(cuts), 200]
    pieces = [
        (name, *(column[start:end] for column in columns))
        for start, end in itertools.pairwise(bounds)
    ]
    rng.shuffle(pieces)
    other = split(rng, "b", 10)
    whole = sum_of([(name, *columns), other])
    for parts in (sum_of([other, *pieces]), WorthSums.from_bytes(whole.to_bytes())):
        np.testing.assert_array_equal(parts.shards, whole.shards)
        np.testing.assert_array_equal(parts.shard_tokens, whole.shard_tokens)
        np.testing.assert_array_equal(parts.selected_tokens, whole.selected_tokens)
        np.testing.assert_allclose(parts.scores.weighted_squares, whole.scores.weighted_squares)


def test_worth_is_that_of_a_loop_over_documents():
    rng = np.random.default_rng(0)
    old, new = shards(rng, 8, "old"), shards(rng, 2, "new", influence=2.0, selected=0.4)
    card = make_scorecard(sum_of(old), sum_of(new))
    for generation, influence, selected in (
        (old, card.influence.old, card.selected.old),
        (new, card.influence.new, card.selected.new),
    ):
        _, cluster, tokens, scores, is_selected = (
            np.concatenate(column) if np.ndim(column[0]) else None
            for column in zip(*generation, strict=True)
        )
        assert selected.value == pytest.approx(tokens[is_selected].sum() / tokens.sum())
        mean = 0.0
        for c in range(NUM_CLUSTERS):
            rows = (cluster == c) & ~np.isnan(scores)
            own = np.average(scores[rows], weights=tokens[rows])
            mean += own * tokens[cluster == c].sum() / tokens.sum()
        assert influence.value == pytest.approx(mean)
    assert card.influence.ratio.value == pytest.approx(
        card.influence.new.value / card.influence.old.value
    )
    change = card.clusters[3]
    _, cluster, tokens, _, is_selected = new[0]
    own, chosen = 0, 0
    for _, cluster, tokens, _, is_selected in new:
        own += tokens[cluster == 3].sum()
        chosen += tokens[(cluster == 3) & is_selected].sum()
    assert change.selected.new.value == pytest.approx(chosen / own)
    assert change.new_share == pytest.approx(own / card.new_tokens)


@pytest.mark.parametrize("alike", [0.0, 0.08])
def test_intervals_hold_the_planted_worth_as_often_as_they_say(alike):
    """Of influence, of what is selected, and of their ratios, where shards differ too."""
    rng = np.random.default_rng(1)
    covered = []
    sizes = np.full(NUM_CLUSTERS, 1 / NUM_CLUSTERS)
    for _ in range(200):
        old = shards(rng, 12, "old", 100, sizes=sizes, alike=alike)
        new = shards(rng, 3, "new", 100, sizes=sizes, alike=alike, influence=2.0, selected=0.45)
        card = make_scorecard(sum_of(old), sum_of(new))
        cluster, tokens = (np.concatenate([each[at] for each in new]) for at in (1, 2))
        own = np.bincount(cluster, tokens, NUM_CLUSTERS) / tokens.sum()
        planted = (2 + 0.2 * own @ np.arange(NUM_CLUSTERS), 0.45, 0.45 / 0.3)
        found = (card.influence.new, card.selected.new, card.selected.ratio)
        covered.append([i.low <= truth <= i.high for i, truth in zip(found, planted, strict=True)])
    share = np.mean(covered, axis=0)
    assert np.all(share >= 0.91), share
    assert np.all(share < 1), share


def test_a_ratio_to_what_is_worth_nothing_is_none():
    rng = np.random.default_rng(2)
    old = shards(rng, 6, "old", influence=-0.5, selected=0.0)
    card = make_scorecard(sum_of(old), sum_of(shards(rng, 2, "new")))
    assert card.influence.ratio is None
    assert card.selected.ratio is None
    nothing = make_scorecard(sum_of([]), sum_of(shards(rng, 1, "new", scored=0)))
    assert nothing.influence.new is None
    assert nothing.selected.old is None
    assert nothing.selected.new is not None
    assert nothing.scored_clusters == 0
    assert make_scorecard(sum_of([]), sum_of([])).clusters == ()


def test_a_cluster_whose_few_documents_are_all_selected_is_not_certain():
    documents = ("a", np.zeros(3, int), np.full(3, 10), np.full(3, np.nan), np.ones(3, bool))
    card = make_scorecard(sum_of([documents]), sum_of([documents]))
    selected = card.clusters[0].selected.new
    assert selected.value == 1
    assert selected.low == pytest.approx(1 - 1.95996 * 0.2 / math.sqrt(3), abs=1e-4)


def sized(rng, number, name, sizes, alike):
    """Shards whose clusters' sizes are drawn around `sizes`."""
    parts = []
    for shard in range(number):
        cluster = rng.choice(len(sizes), 1_000, p=rng.dirichlet(alike * sizes))
        tokens, unknown = rng.integers(20, 400, 1_000), np.full(1_000, np.nan)
        chosen = np.zeros(1_000, bool)
        parts.append(WorthSums.of(f"{name}{shard}", cluster, tokens, unknown, chosen, len(sizes)))
    return total(parts, WorthSums.zero(len(sizes)))


@pytest.mark.parametrize(("num_old", "alike"), [(2, 1e5), (20, 1e3)])
def test_clusters_that_grow_or_shrink_are_found_and_others_are_not(num_old, alike):
    """By splits where there are many, else by documents."""
    rng = np.random.default_rng(3)
    even = np.full(40, 1 / 40)
    changed = even.copy()
    changed[[0, 5]] *= [2.5, 0.05]
    grown, shrunk, wrong = 0, 0, 0
    for _ in range(60):
        old = sized(rng, num_old, "old", even, alike)
        card = make_scorecard(old, sized(rng, 4, "new", changed, alike))
        grown += 0 in [change.cluster for change in card.grew]
        shrunk += 5 in [change.cluster for change in card.shrank]
        same = make_scorecard(old, sized(rng, 4, "new", even, alike))
        wrong += bool(same.grew + same.shrank)
    assert min(grown, shrunk) >= 50
    assert wrong <= 7  # 3 expected


def test_of_few_shards_the_changes_of_all_clusters_say_what_is_noise():
    """By documents alone 58 of these 60 refreshes would have a cluster that grew or shrank."""
    rng = np.random.default_rng(5)
    even = np.full(40, 1 / 40)
    cards = [
        make_scorecard(*(sized(rng, 2, name, even, 300) for name in ("old", "new")))
        for _ in range(60)
    ]
    assert sum(bool(card.grew + card.shrank) for card in cards) <= 12


def test_a_growth_that_is_certain_but_small_is_none():
    sums = []
    for name, share in (("old", 0.1), ("slightly", 0.115), ("more", 0.13)):
        number = np.array([share, *[(1 - share) / 19] * 19]) * 1_000_000
        cluster = np.repeat(np.arange(20), number.astype(int))
        tokens, unknown = np.full(len(cluster), 100), np.full(len(cluster), np.nan)
        chosen = np.zeros(len(cluster), bool)
        sums.append(WorthSums.of(name, cluster, tokens, unknown, chosen, 20))
    old, slightly, more = sums
    assert make_scorecard(old, slightly).grew == ()
    assert [change.cluster for change in make_scorecard(old, more).grew] == [0]


def test_of_few_shards_the_interval_of_what_is_selected_allows_for_how_shards_differ():
    cluster, tokens = np.zeros(100_000, int), np.full(100_000, 100)
    unknown, chosen = np.full(100_000, np.nan), np.arange(100_000) % 5 == 0
    sums = [WorthSums.of(name, cluster, tokens, unknown, chosen, 1) for name in ("old", "new")]
    found = make_scorecard(*sums).selected.new
    variance = 0.2 * 0.8 * (1 / 100_000 + 1 / 400)
    assert found.high - found.low == pytest.approx(2 * 1.95996 * math.sqrt(variance), rel=1e-4)


def test_the_interval_of_what_is_selected_is_students_over_old_shards():
    """Five shards of one size, and a new one that is as their mean: its error is their standard deviation."""
    shares = np.array([0.1, 0.2, 0.25, 0.3, 0.4])
    cluster, tokens, unknown = np.zeros(1_000, int), np.full(1_000, 10), np.full(1_000, np.nan)
    parts = [
        WorthSums.of(
            f"{share}{name}", cluster, tokens, unknown, np.arange(1_000) < 1_000 * share, 1
        )
        for name, all_of in (("old", shares), ("new", [0.25]))
        for share in all_of
    ]
    found = make_scorecard(total(parts[:5], WorthSums.zero(1)), parts[5]).selected.new
    half = stats.t.isf(0.025, 4) * shares.std(ddof=1)
    np.testing.assert_allclose([found.low, found.high], [0.25 - half, 0.25 + half])


def test_the_error_of_a_single_scored_document_is_that_of_documents_of_other_clusters():
    scores = np.array([1.0, 2.0, 6.0, 4.0])
    columns = np.array([0, 0, 0, 1]), np.full(4, 10), scores, np.zeros(4, bool)
    card = make_scorecard(WorthSums.zero(2), WorthSums.of("a", *columns, 2))
    single = card.clusters[1].influence.new
    assert single.high - single.value == pytest.approx(1.95996 * scores[:3].std(ddof=1), rel=1e-4)
    assert np.isfinite(card.influence.new.high)
    several = card.clusters[0].influence.new
    error = scores[:3].std(ddof=1) / math.sqrt(3)
    assert several.high - several.value == pytest.approx(1.95996 * error, rel=1e-4)


def test_a_cluster_that_comes_and_goes_by_shards_did_not_grow():
    """Each old shard holds documents of one of two clusters, and so does the new one."""
    rng = np.random.default_rng(4)
    sizes = np.full(20, 1 / 20)
    wrong = 0
    for _ in range(30):
        parts = []
        for shard in range(21):
            own = sizes.copy()
            own[rng.integers(2)] = 0
            parts.append(sized(rng, 1, f"{shard}-", own / own.sum() + 1e-9, 1e4))
        card = make_scorecard(total(parts[1:], WorthSums.zero(20)), parts[0])
        wrong += bool(card.grew + card.shrank)
    assert wrong <= 4


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_moves_are_distances_in_radii_without_the_noise_of_means():
    rng = np.random.default_rng(5)
    dim, number = 64, 4_000
    base = np.zeros(dim)
    base[0] = 1.0
    for shift in (0.0, 0.5):
        other = base.copy()
        other[1] = shift
        old, new = (unit(c + 0.1 * rng.normal(size=(number, dim))) for c in (base, other))
        cluster = np.repeat(np.arange(2), [100, number - 100])
        found = moves(VectorSums.of(cluster, old, 3), VectorSums.of(cluster, new, 3))
        radius = np.sqrt(((old - old.mean(0)) ** 2).sum(1).mean())
        true = np.linalg.norm(unit_mean(other, rng) - unit_mean(base, rng)) / radius
        assert found[1] == pytest.approx(true, abs=0.03)
        assert found[0] == pytest.approx(true, abs=0.13)
        assert math.isnan(found[2])


def unit_mean(center, rng):
    return unit(center + 0.1 * rng.normal(size=(100_000, len(center)))).mean(0)


def test_a_move_is_in_the_card_of_its_cluster():
    rng = np.random.default_rng(6)
    new = split(rng, "new", 600)
    vectors = unit(rng.normal(size=(600, 8)))
    there = VectorSums.of(new[1], vectors, NUM_CLUSTERS)
    vectors[new[1] == 2, 0] += 3.0
    moved = VectorSums.of(new[1], unit(vectors), NUM_CLUSTERS)
    old = sum_of(shards(rng, 3, "old"))
    card = make_scorecard(old, sum_of([new]), (there, moved))
    assert [change.cluster for change in card.moved] == [2]
    assert make_scorecard(old, sum_of([new])).moved == ()


def test_sums_over_other_clusters_are_refused():
    with pytest.raises(ValueError, match="6 clusters in the old shards, 7 in the new"):
        make_scorecard(WorthSums.zero(6), WorthSums.zero(7))
