import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.selection import BucketAmounts, BudgetSearch, priorities, search_budget


def search(packed, amounts, budget, parts):
    found = BudgetSearch.start(packed.shape[1], budget)
    for _ in range(4):
        counted = BucketAmounts.zero()
        for rows in parts:
            counted += found.count(packed[rows], amounts[rows])
        found = found.narrowed(counted)
    return found


def test_priorities_are_in_order_of_influence_and_ties_by_hash():
    generator = np.random.default_rng(0)
    influence = generator.integers(-20, 20, 300).astype(np.float32) / 7
    draws = generator.integers(0, 2**63, 300).astype(np.uint64)
    packed = priorities(influence[:, None], draws)[:, 0]
    np.testing.assert_array_equal(np.argsort(~packed), np.lexsort((draws, -influence)))


def test_zero_has_one_rank_whatever_its_sign():
    packed = priorities(np.array([[0.0], [-0.0]]), np.zeros(2, np.uint64))
    assert packed[0] == packed[1]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), budget=st.integers(0, 3000), cut=st.integers(0, 60))
def test_the_search_finds_where_sorting_ends_the_budget(seed, budget, cut):
    generator = np.random.default_rng(seed)
    influence = generator.normal(size=(60, 3)) * np.array([1e-6, 1, 1e6])
    amounts = generator.integers(1, 90, 60)
    packed = priorities(influence, generator.integers(0, 2**63, 60).astype(np.uint64))
    found = search(packed, amounts, budget, [slice(cut, None), slice(0, cut)])
    for target in range(3):
        order = np.argsort(~packed[:, target])
        count = min(np.searchsorted(np.cumsum(amounts[order]), budget) + (budget > 0), 60)
        taken = packed[:, target] >= found.floors[target]
        assert set(np.flatnonzero(taken)) == set(order[:count])


def test_a_search_half_done_bounds_from_below():
    generator = np.random.default_rng(1)
    packed = priorities(generator.normal(size=(500, 2)), np.arange(500, dtype=np.uint64))
    amounts = np.ones(500, np.int64)
    exact = search(packed, amounts, 100, [slice(None)]).floors
    half = BudgetSearch.start(2, 100)
    assert (half.floors == 0).all()
    half = half.narrowed(half.count(packed, amounts))
    assert (half.floors <= exact).all()
    assert ((packed >= half.floors).sum(axis=0) < 150).all()


def test_what_cannot_be_ranked_is_refused():
    draws = np.zeros(2, np.uint64)
    with pytest.raises(ValueError, match="float16"):
        priorities(np.zeros((2, 1), np.float16), draws)
    with pytest.raises(ValueError, match="rows 1 are not"):
        priorities(np.array([[0.0], [np.nan]]), draws)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        search_budget(np.zeros((2, 1), np.uint64), np.ones(2, np.int64), 0)


def test_a_search_in_memory_is_that_of_the_parts():
    generator = np.random.default_rng(3)
    packed = generator.integers(1, 2**63, (200, 2)).astype(np.uint64)
    amounts = generator.integers(1, 9, 200)
    parts = [slice(0, 70), slice(70, 200)]
    found = search_budget(packed, amounts, 300)
    np.testing.assert_array_equal(found.floors, search(packed, amounts, 300, parts).floors)
    for column, floor in zip(packed.T, found.floors, strict=True):
        taken = amounts[column >= floor].sum()
        assert taken - amounts[column == floor].sum() < 300 <= taken
    bounds = search_budget(packed, amounts, 300, num_levels=2)
    assert bounds.level == 2
    assert (bounds.floors <= found.floors).all()
