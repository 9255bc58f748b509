import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.selection import NUM_LEVELS, BudgetSearch, pack_ranks


@given(
    ranks=st.lists(st.one_of(st.floats(-5, 5, width=32), st.just(float("nan"))), max_size=60),
    budget_tokens=st.integers(1, 400),
    seed=st.integers(0, 2**16),
)
def test_the_radix_selection_takes_what_sorting_would_take(ranks, budget_tokens, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 20, len(ranks))
    packed = pack_ranks(np.array(ranks, np.float64), np.arange(len(ranks), dtype=np.uint64), seed)

    search = BudgetSearch.start(1, budget_tokens)
    for _ in range(NUM_LEVELS):
        amounts = np.where(packed > 0, tokens, 0)
        halves = [search.count(packed[h::2, None], amounts[h::2]) for h in range(2)]
        search = search.narrowed(halves[0] + halves[1])
    chosen = set(np.flatnonzero((packed >= search.floors[0]) & (packed > 0)).tolist())

    order = [i for i in np.argsort(~packed, kind="stable") if packed[i] > 0]
    expected, filled = set(), 0
    for i in order:
        if filled < budget_tokens:
            expected.add(int(i))
            filled += tokens[i]
    assert chosen == expected
    if search.floors[0] == 0:
        assert search.above[0] == filled


def test_ranks_are_packed_in_their_order_and_what_is_not_finite_last():
    ranks = np.array([-1.5, -0.0, 0.0, 1e-30, 2.0, np.inf, np.nan])
    packed = pack_ranks(ranks, np.zeros(7, np.uint64), seed=0)
    assert (np.diff(packed[:5].astype(object)) >= 0).all()
    assert packed[1] == packed[2]
    assert packed[5] == packed[6] == 0 < packed[0]
