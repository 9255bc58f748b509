import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad import seeding
from beam_quad.bandit import budget


@given(
    ranks=st.lists(st.one_of(st.floats(-5, 5, width=32), st.just(float("nan"))), max_size=60),
    budget_tokens=st.integers(1, 400),
    seed=st.integers(0, 2**16),
)
def test_the_radix_selection_takes_what_sorting_would_take(ranks, budget_tokens, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 20, len(ranks))
    draws = seeding.mix(seed, "cut", np.arange(len(ranks), dtype=np.uint64))
    packed = budget.priorities(np.array(ranks, np.float64), draws)

    prefix, taken, is_decided = 0, 0, False
    for level in range(3):
        parts = [
            budget.TokenHistogram.of(packed[half::2], tokens[half::2], level, prefix)
            for half in range(2)
        ]
        if not is_decided:
            bucket, more = (parts[0] + parts[1]).cut(budget_tokens - taken)
            is_decided, prefix, taken = bucket < 0, (prefix << 16) + max(bucket, 0), taken + more
    lowest = np.uint64(1)
    if not is_decided:
        at = np.flatnonzero(budget.in_bucket(packed, 3, prefix))
        rest = budget.CutExamples(np.zeros(len(at), np.int64), ~packed[at], tokens[at])
        lowest = ~rest.threshold(0, budget_tokens - taken)
    chosen = set(np.flatnonzero((packed >= lowest) & (packed > 0)).tolist())

    order = [i for i in np.argsort(~packed, kind="stable") if packed[i] > 0]
    expected, filled = set(), 0
    for i in order:
        if filled < budget_tokens:
            expected.add(int(i))
            filled += tokens[i]
    assert chosen == expected


def test_priorities_order_by_rank_first_and_never_take_nan():
    ranks = np.array([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.0, np.inf, np.nan])
    packed = budget.priorities(ranks, np.zeros(8, np.uint64))
    assert (np.diff(packed[:7].astype(object)) >= 0).all()
    assert packed[2] == packed[3]
    assert packed[7] == 0 < packed[0]


def test_a_cut_bucket_is_filled_up_to_the_example_in_which_the_budget_ends():
    rest = budget.CutExamples(
        np.array([1, 0, 1, 1]), np.array([30, 1, 10, 20], np.uint64), np.array([5, 5, 5, 5])
    )
    assert rest.threshold(1, 10) == 20
    assert rest.threshold(1, 11) == 30
    assert rest.threshold(1, 16) == budget.MAX_DRAW


def test_histograms_of_levels_count_nothing_outside_their_prefix():
    packed = np.array([1 << 48, (1 << 48) + (7 << 32), 2 << 48], np.uint64)
    histogram = budget.TokenHistogram.of(packed, np.array([3, 4, 5]), level=1, prefix=1)
    np.testing.assert_array_equal(histogram.buckets, [0, 7])
    np.testing.assert_array_equal(histogram.tokens, [3, 4])
    assert histogram.cut(100) == (-1, 7)
    assert histogram.cut(4) == (7, 0)
    assert histogram.cut(5) == (0, 4)


@pytest.mark.parametrize("budget_tokens", [1, 3])
def test_an_empty_histogram_is_never_cut(budget_tokens):
    nothing = budget.TokenHistogram(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert nothing.cut(budget_tokens) == (-1, 0)
