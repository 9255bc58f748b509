import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad import additive, seeding
from beam_quad.selection import Contenders, Turns, allocate, allocation, priorities, tie_draws
from beam_quad.selection.programme import System
from beam_quad.selection.shares import parse_bounds
from beam_quad.selection.within_shares import SharedGroups

NAMES = ["code", "law", "math"]
ALIKE = (1.0, 1.0, 1.0)


def corpus(n, seed, ties=False):
    generator = np.random.default_rng(seed)
    influence = generator.normal(size=(n, 3)) + generator.normal(size=(n, 1))
    if ties:
        influence = np.round(influence)
    keys = seeding.keys(f"{seed}#{i}" for i in range(n))
    return influence, keys, generator.integers(5, 100, n)


def by_hand(influence, keys, amounts, budget, targets, weights, seed):
    """Turns as they are told, over everything, sharing with the package its hashes alone."""
    draws = tie_draws(keys, seed)
    moves = allocation.move_draws(targets, len(keys), seed)
    taker = np.full(len(keys), -1)
    while amounts[taker >= 0].sum() < budget and (taker < 0).any():
        has = [(amounts[taker == j].sum() / weights[j]) for j in range(len(targets))]
        takes = [(taker == j).sum() for j in range(len(targets))]
        target = min(range(len(targets)), key=lambda j: (has[j], moves[takes[j], j]))
        left = np.flatnonzero(taker < 0)
        single = influence[left, target].astype(np.float32)
        best = left[np.lexsort((draws[left], -single))[0]]
        taker[best] = target
    return taker


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    budget=st.integers(1, 6000),
    ties=st.booleans(),
    weights=st.sampled_from([ALIKE, (1.0, 2.0, 0.3)]),
)
def test_the_sums_allocate_as_turns_taken_by_hand(seed, budget, ties, weights):
    influence, keys, tokens = corpus(60, seed, ties)
    expected = by_hand(influence, keys, tokens, budget, NAMES, weights, seed)
    taker, _ = allocate(influence, keys, tokens, budget, NAMES, weights, seed)
    np.testing.assert_array_equal(taker, expected)


def test_of_documents_every_target_takes_its_share_in_rounds_of_an_order_of_their_own():
    influence, keys, _ = corpus(3000, 0)
    ones = np.ones(3000, int)
    taker, _ = allocate(influence, keys, ones, 300, NAMES, ALIKE, seed=0)
    assert np.bincount(taker[taker >= 0]).tolist() == [100, 100, 100]
    taker, _ = allocate(influence, keys, ones, 300, NAMES, (3.0, 2.0, 1.0), seed=0)
    assert np.bincount(taker[taker >= 0]).tolist() == [150, 100, 50]


@pytest.mark.parametrize("limit", [1 << 17, 1000])
def test_of_tokens_every_target_has_its_share_however_short_its_examples_are(limit):
    influence, keys, tokens = corpus(6000, 9)
    # What one target wants is twenty times as long as what the others want.
    influence[:1500, 0] += 20
    tokens[:1500] *= 20
    for weights in (ALIKE, (3.0, 2.0, 1.0)):
        taker, _ = allocate(influence, keys, tokens, 60_000, NAMES, weights, 0, limit)
        spent = np.bincount(taker[taker >= 0], weights=tokens[taker >= 0])
        shares = np.array(weights) / sum(weights)
        # To within an example where all contenders play; a sample of them has an error of its own.
        tolerance = 2000 / 60_000 if limit > 1000 else 0.1
        np.testing.assert_allclose(spent / spent.sum(), shares, atol=tolerance)


def test_every_target_has_its_share_of_what_is_left_without_near_duplicates():
    influence, keys, tokens = corpus(1200, 3)
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{i}" for i in rng.integers(5000, size=20)) for _ in range(1200)]
    # What one target wants most is five texts, each a hundred times.
    influence[:500, 0] += 20
    texts[:500] = [texts[i % 5] for i in range(500)]
    taker, _ = allocate(
        influence, keys, tokens, 9000, NAMES, (3.0, 2.0, 1.0), 0, 1 << 17, texts, 0.6
    )
    spent = np.bincount(taker[taker >= 0], weights=tokens[taker >= 0])
    np.testing.assert_allclose(spent / spent.sum(), [1 / 2, 1 / 3, 1 / 6], atol=100 / 9000)
    assert (
        len({texts[i] for i in np.flatnonzero(taker[:500] >= 0)}) == (taker[:500] >= 0).sum() == 5
    )
    # More than four budgets are copies; what takes their place is each target's best all the same.
    left = np.flatnonzero((taker < 0) & (taker != allocation.NEAR_DUPLICATE))
    for target in range(3):
        least = influence[taker == target, target].min()
        assert (influence[left, target] <= least).mean() > 0.99


def test_what_a_share_of_nothing_leaves_out_counts_for_no_target():
    influence, keys, tokens = corpus(1200, 3)
    groups = np.repeat([1, 0], [400, 800])
    # One target would take nothing else before the budget is full.
    influence[groups == 1, 0] += 20
    bounds = parse_bounds(["licence=nc = 0"])
    system = System.of(bounds, np.array([[False, True]]))
    shares = SharedGroups(bounds, groups, system, (groups == 1)[None])
    texts = [f"text number {i} {i * i}" for i in range(1200)]
    for duplicates in ((), (texts, 0.9)):
        taker, _ = allocate(
            influence, keys, tokens, 9000, NAMES, ALIKE, 0, 1 << 17, *duplicates, shares=shares
        )
        assert (taker[groups == 1] == -1).all()
        spent = np.bincount(taker[taker >= 0], weights=tokens[taker >= 0])
        np.testing.assert_allclose(spent / spent.sum(), [1 / 3] * 3, atol=100 / 9000)


def test_what_is_planted_for_a_target_is_taken_first_by_it():
    influence, keys, _ = corpus(600, 1)
    for target in range(3):
        influence[20 * target : 20 * target + 20, target] += 20
    taker, _ = allocate(influence, keys, np.ones(600, int), 60, NAMES, ALIKE, seed=0)
    np.testing.assert_array_equal(taker[:60], np.repeat([0, 1, 2], 20))
    assert (taker[60:] == -1).all()


def test_a_token_budget_is_met_within_one_example():
    influence, keys, tokens = corpus(5000, 2)
    for limit in (1 << 17, 400):
        taker, _ = allocate(influence, keys, tokens, 40_000, NAMES, ALIKE, 0, limit)
        taken = tokens[taker >= 0].sum()
        assert 40_000 <= taken < 40_100


def test_a_sample_of_contenders_gives_every_target_about_its_share_and_cuts_each_ranking_once():
    influence, keys, _ = corpus(20_000, 3)
    # One target agrees with another almost everywhere: the two fight for most of what they take.
    influence[:, 1] = influence[:, 0] + 0.1 * influence[:, 1]
    taker, _ = allocate(
        influence, keys, np.ones(20_000, int), 3000, NAMES, ALIKE, seed=0, limit=2000
    )
    shares = np.bincount(taker[taker >= 0]) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.05)
    exact, _ = allocate(influence, keys, np.ones(20_000, int), 3000, NAMES, ALIKE, seed=0)
    assert ((taker >= 0) == (exact >= 0)).mean() > 0.99


def test_one_target_takes_its_best_also_from_a_sample():
    influence, keys, _ = corpus(5000, 4)
    taker, _ = allocate(
        influence[:, :1], keys, np.ones(5000, int), 700, NAMES[:1], ALIKE[:1], 0, limit=100
    )
    assert set(np.flatnonzero(taker == 0)) == set(np.argsort(-influence[:, 0])[:700])


@pytest.mark.parametrize("limit", [1 << 17, 100])
def test_a_budget_above_the_corpus_takes_everything(limit):
    influence, keys, tokens = corpus(300, 5)
    taker, _ = allocate(influence, keys, tokens, 10**9, NAMES, ALIKE, 0, limit)
    assert (taker >= 0).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), limit=st.sampled_from([1000, 50]))
def test_neither_the_order_of_the_corpus_nor_that_of_the_targets_matters(seed, limit):
    influence, keys, tokens = corpus(200, seed, ties=True)
    taker, _ = allocate(influence, keys, tokens, 2000, NAMES, ALIKE, 0, limit)
    order = np.random.default_rng(seed).permutation(200)
    moved, _ = allocate(influence[order], keys[order], tokens[order], 2000, NAMES, ALIKE, 0, limit)
    np.testing.assert_array_equal(moved, taker[order])
    turned, _ = allocate(influence[:, ::-1], keys, tokens, 2000, NAMES[::-1], ALIKE, 0, limit)
    np.testing.assert_array_equal(np.where(turned < 0, -1, 2 - turned), taker)


def test_another_seed_breaks_ties_and_visits_targets_otherwise():
    influence, keys, _ = corpus(200, 6, ties=True)
    ones = np.ones(200, int)
    first, second = (allocate(influence, keys, ones, 60, NAMES, ALIKE, seed)[0] for seed in (0, 1))
    assert (first != second).any()
    orders = np.argsort(allocation.move_draws(NAMES, 100, 0), axis=1)
    assert len({tuple(order) for order in orders.tolist()}) == 6


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(0, 300), limit=st.sampled_from([1000, 50]))
def test_contenders_do_not_depend_on_splits(cut, limit):
    influence, keys, tokens = corpus(300, 7)
    packed = priorities(influence, tie_draws(keys, 0))
    floors = np.sort(packed, axis=0)[200]
    whole = Contenders.of(keys, packed, tokens, floors, 0, limit)
    parts = [
        Contenders.of(keys[s], packed[s], tokens[s], floors, 0, limit)
        for s in (slice(cut, None), slice(cut))
    ]
    merged = additive.total(
        parts, Contenders.of(keys[:0], packed[:0], tokens[:0], floors, 0, limit)
    )
    assert merged.is_exact == whole.is_exact == (limit == 1000)
    turns = Turns.take(merged, NAMES, ALIKE)
    assert turns.to_bytes() == Turns.take(whole, NAMES, ALIKE).to_bytes()
    assert Turns.from_bytes(turns.to_bytes()).to_bytes() == turns.to_bytes()


def test_what_cannot_be_allocated_is_refused():
    influence, keys, tokens = corpus(20, 8)
    with pytest.raises(ValueError, match="as many different names"):
        allocate(influence, keys, tokens, 100, ["code", "law", "law"], ALIKE, 0)
    with pytest.raises(ValueError, match="as many positive weights"):
        allocate(influence, keys, tokens, 100, NAMES, (1.0, 0.0, 1.0), 0)
    with pytest.raises(ValueError, match="budget must be at least 1"):
        allocate(influence, keys, tokens, 0, NAMES, ALIKE, 0)
    none = Contenders(keys[:0], np.zeros((0, 3), np.uint64), tokens[:0], 0, seed=0)
    with pytest.raises(ValueError, match="different"):
        none + dataclasses.replace(none, seed=1)
