"""Budgets within shares, held to every selection that there is, and to the programme over single documents."""

import itertools

import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.selection import bands as bands_module
from beam_quad.selection import pack_ranks
from beam_quad.selection.bands import GroupSample
from beam_quad.selection.group_cuts import BandDocuments, cut_groups, cut_shares
from beam_quad.selection.programme import System, refuse_unmet, smallest_contradiction, solve
from beam_quad.selection.shares import parse_bounds
from beam_quad.selection.within_shares import GivenShares
from tests.selection.systems import most_missed, optimum, random_system


def test_whole_documents_come_as_near_to_every_bound_as_any_selection_by_rank():
    for seed in range(20):
        system, corpus, budget = random_system(seed, num_documents=12, num_bounds=2)
        groups, amounts = corpus["groups"], corpus["amounts"]
        _, cuts = cut_shares(system, **corpus, influence=None, budget=budget, seed=0)
        found = most_missed(system, cuts.taken, budget)
        orders = [
            np.flatnonzero(groups == g)[np.argsort(~corpus["packed"][groups == g])]
            for g in range(system.num_groups)
        ]
        takes = [np.append(0, np.cumsum(amounts[own])) for own in orders]
        best = min(most_missed(system, np.array(own), budget) for own in itertools.product(*takes))
        assert found <= best + amounts.max()


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_to_a_document_and_the_value_is_that_of_the_programme(seed):
    system, corpus, budget = random_system(seed)
    programme, cuts = cut_shares(system, **corpus, influence=None, budget=budget, seed=0)
    taken = corpus["packed"] >= cuts.floors[corpus["groups"]]
    got = np.bincount(
        corpus["groups"][taken], corpus["amounts"][taken], minlength=system.num_groups
    )
    np.testing.assert_array_equal(got, cuts.taken)
    assert most_missed(system, got, budget) < corpus["amounts"].max()
    exact = optimum(system, corpus, budget)
    worth = (corpus["values"] * corpus["amounts"])[taken].sum()
    assert worth >= 0.995 * exact * budget
    assert programme.value == pytest.approx(exact, rel=1e-6)


def test_a_sample_of_each_group_does_for_the_whole(monkeypatch):
    system, corpus, budget = random_system(3, num_documents=20_000)
    monkeypatch.setattr(bands_module, "NUM_SAMPLED", 1 << 11)
    monkeypatch.setattr(bands_module, "NUM_BANDS", 1 << 10)
    _, cuts = cut_shares(system, **corpus, influence=None, budget=budget, seed=0)
    assert most_missed(system, cuts.taken, budget) < corpus["amounts"].max()
    taken = corpus["packed"] >= cuts.floors[corpus["groups"]]
    worth = (corpus["values"] * corpus["amounts"])[taken].sum()
    assert worth >= 0.995 * optimum(system, corpus, budget) * budget


def test_prices_are_what_the_selection_loses_and_gains_if_a_bound_is_shifted():
    system, corpus, budget = random_system(5, num_documents=8000)
    programme, _ = cut_shares(system, **corpus, influence=None, budget=budget, seed=0)
    assert np.count_nonzero(programme.prices) >= 2
    for bound in np.flatnonzero(programme.prices):
        # Half as far as the prices are of: values are concave, so these slopes lie between them.
        tighter = 0.0005 * (-1 if system.relations[bound] == "<=" else 1)
        ahead, behind = programme.prices_ahead[bound], programme.prices_behind[bound]
        assert behind <= programme.prices[bound] + 1e-6 <= ahead + 2e-6
        for shift in (tighter, -tighter):
            shares = system.shares + shift * (np.arange(len(system.shares)) == bound)
            other = System(system.members, system.relations, shares)
            shifted, _ = cut_shares(
                other, **corpus, influence=None, budget=budget, seed=0, num_priced=0
            )
            slope = (programme.value - shifted.value) / 0.0005 * (1 if shift == tighter else -1)
            assert behind * 0.99 <= slope <= ahead * 1.01
        assert ahead == pytest.approx(behind, rel=0.2)


def test_where_the_price_of_a_bound_jumps_both_sides_are_said():
    # Of the group asked for, the first 30 documents are better than all others, and the next are worse.
    values = np.array([5.0] * 30 + [1.0] * 200 + [3.0] * 200)
    groups, keys = np.repeat([0, 1], [230, 200]), seeding.keys(map(str, range(430)))
    corpus = (groups, keys, pack_ranks(values, keys, 0), np.ones(430, np.int64), values, None)
    system = System(np.array([[True, False]]), (">=",), np.array([0.3]))
    programme, _ = cut_shares(system, *corpus, 100, 0)
    np.testing.assert_allclose([programme.prices_ahead[0], programme.prices_behind[0]], [2, 0])
    assert not programme.is_binding[0]
    # A share of all cannot ask for more, and of what it asks the last costs as before.
    programme, _ = cut_shares(
        System(system.members, (">=",), np.ones(1)), *corpus, 100, 0
    )  # fmt: skip
    np.testing.assert_allclose([programme.prices_ahead[0], programme.prices_behind[0]], [2, 2])
    assert programme.is_binding[0]


@pytest.mark.parametrize(
    ("relation", "share", "prices", "is_binding"),
    [
        # Shifting it to either side loses, so the bound is met without being asked for.
        ("=", 0.3, (2, -2), False),
        # More of it gains.
        ("=", 0.1, (-2, -2), True),
        ("<=", 0.1, (2, 2), True),
        ("<=", 0.5, (0, 0), False),
        # A bound that rules nothing out is not loosened to gain.
        (">=", 0.0, (0, 0), False),
        ("<=", 1.0, (0, 0), False),
    ],
)
def test_a_bound_binds_if_shifting_it_gains(relation, share, prices, is_binding):
    values = np.array([5.0] * 30 + [1.0] * 200 + [3.0] * 200)
    groups, keys = np.repeat([0, 1], [230, 200]), seeding.keys(map(str, range(430)))
    corpus = (groups, keys, pack_ranks(values, keys, 0), np.ones(430, np.int64), values, None)
    system = System(np.array([[True, False]]), (relation,), np.array([share]))
    programme, _ = cut_shares(system, *corpus, 100, 0)
    found = programme.prices_ahead[0], programme.prices_behind[0]
    np.testing.assert_allclose(found, prices, atol=1e-9)
    assert programme.is_binding[0] == is_binding


@pytest.mark.parametrize(("share", "ahead"), [(0.0, 0.6), (0.0003, 1.2), (0.0007, 2.0)])
def test_a_bound_met_without_being_asked_for_saves_nothing_though_more_would_cost(share, ahead):
    # Of the group asked for, seven documents are among the best 10,000, so a thousandth more takes in some that are not.
    values = np.repeat([5.0, 1.0, 3.0], [7, 100, 20_000])
    groups, keys = np.repeat([0, 1], [107, 20_000]), seeding.keys(map(str, range(20_107)))
    ones = np.ones(len(keys), np.int64)
    corpus = (groups, keys, pack_ranks(values, keys, 0), ones, values, None)
    system = System(np.array([[True, False]]), (">=",), np.array([share]))
    programme, _ = cut_shares(system, *corpus, 10_000, 0)
    assert programme.prices_ahead[0] == pytest.approx(ahead)
    assert (programme.prices_behind[0], programme.is_binding[0]) == (0, False)


def test_sums_over_parts_give_the_cuts_of_the_whole():
    system, corpus, budget = random_system(7)
    programme, whole = cut_shares(system, **corpus, influence=None, budget=budget, seed=0)
    order = np.random.default_rng(0).permutation(len(corpus["keys"]))
    parts = [{n: c[own] for n, c in corpus.items()} for own in np.array_split(order, 5)]
    samples = [
        GroupSample.of(
            system.num_groups, p["groups"], p["keys"], p["packed"], p["amounts"], p["values"], None, 0
        )
        for p in parts
    ]  # fmt: skip
    bands = (samples[3] + (samples[1] + samples[0]) + (samples[4] + samples[2])).bands()
    rows = [(p["groups"], p["packed"], p["amounts"]) for p in parts]
    held = sum(bands.count(*own) for own in rows)
    found = solve(system, bands, held, budget)
    documents = BandDocuments.none()
    for own in reversed(rows):
        documents = BandDocuments.of(found, bands, *own) + documents
    cuts = cut_groups(system, found, bands, held, documents)
    np.testing.assert_array_equal(cuts.floors, whole.floors)
    np.testing.assert_array_equal(cuts.taken, whole.taken)
    assert found.prices.tolist() == programme.prices.tolist()


def test_what_comes_first_in_any_case_stays_however_little_it_is_worth():
    rng = np.random.default_rng(0)
    n = 600
    keys = seeding.keys(map(str, range(n)))
    groups, values = rng.integers(0, 2, n), rng.normal(size=n)
    is_held = np.zeros(n, bool)
    is_held[np.argsort(values)[:60]] = True
    packed = pack_ranks(values, keys, 0) >> np.uint64(1)
    packed = np.where(is_held, packed | np.uint64(1 << 63), packed)
    system = System(np.array([[True, False]]), (">=",), np.array([0.6]))
    _, cuts = cut_shares(
        system, groups, keys, packed, np.ones(n, np.int64), np.where(is_held, np.inf, values), None, 200, 0
    )  # fmt: skip
    assert (packed >= cuts.floors[groups])[is_held].all()
    assert cuts.taken.sum() == 200
    assert cuts.taken[0] >= 120


def test_what_is_not_there_is_left_out_and_said():
    """As where documents turned out near-duplicates of others, or could not be scored."""
    system = System(np.array([[True, False]]), (">=",), np.array([0.5]))
    n = 100
    keys = seeding.keys(map(str, range(n)))
    groups, values = (np.arange(n) >= 20).astype(int), np.linspace(0, 1, n)
    corpus = (groups, keys, pack_ranks(values, keys, 0), np.ones(n, np.int64), values, None)
    programme, cuts = cut_shares(system, *corpus, 60, 0)
    assert cuts.taken.tolist() == [20, 40]
    assert (programme.missing * 60).round(6).tolist() == [0, 10]
    programme, cuts = cut_shares(system, *corpus, 200, 0)
    assert cuts.taken.tolist() == [20, 80]
    assert programme.num_missing == 100


def test_the_smallest_set_of_bounds_that_cannot_be_met_is_found():
    members = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    system = System(members, ("<=", "<=", ">=", ">="), np.array([0.3, 0.3, 0.7, 0.1]))
    assert smallest_contradiction(system, np.array([100, 100, 100]), 100) == [0, 1, 2]
    # Less than the budget in all is another matter.
    assert smallest_contradiction(system, np.array([10, 10, 10]), 100) == []


@pytest.mark.parametrize(
    ("texts", "held", "message"),
    [
        (["a=x >= 0.5"], [400, 900], r"'a=x >= 0.5' asks for 500 of 1,000 tokens, .* match hold 400; lower"),
        (["a=x <= 0.2"], [900, 700], r"'a=x <= 0.2' leaves 800 of 1,000 tokens to .* do not match, and these hold 700"),
        (["a=x >= 0.5", "a=y >= 0.3"], [500, 200, 900], r"'a=y >= 0.3' asks for 300"),
        (["a=x >= 0.1"], [400, 400], "hold 800 tokens, and shares are of the 1,000"),
        (["b=x >= 0.1"], [4000, 400], "no document has a value in column 'b'; check its name"),
    ],
)  # fmt: skip
def test_what_the_counts_do_not_allow_is_refused_with_the_counts(texts, held, message):
    bounds = parse_bounds(texts)
    members = np.eye(len(bounds), len(held), dtype=bool)
    with pytest.raises(UsageError, match=message):
        refuse_unmet(bounds, members, np.array(held), Budget(1000), ["b"])


def test_bounds_that_contradict_each_other_on_a_corpus_are_named_together():
    bounds = parse_bounds(["a=x >= 0.5", "b=y >= 0.7", "c=z >= 0.1"])
    members = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], bool)
    with pytest.raises(
        UsageError, match=r"'a=x >= 0.5' \(900 tokens match\); 'b=y >= 0.7' \(900 tokens match\) together"
    ):  # fmt: skip
        refuse_unmet(bounds, members, np.array([900, 900, 900, 0]), Budget(1000))


def test_shares_in_memory_read_lists_and_arrays_alike():
    found = [
        GivenShares.of(["n > 2 >= 0.5", "m = 1 <= 0.5"], {"n": own, "m": own}, 4).over(
            np.arange(4), np.ones(4, np.int64), np.ones(4, bool), Budget(2)
        )
        for own in ([1, 2, 3, None], np.array([1, 2, 3, np.nan]), np.array([1, 2, 3, 0]))
    ]
    assert [own.meets.tolist() for own in found if own is not None] == [
        [[False, False, True, False], [True, False, False, False]]
    ] * 3
    with pytest.raises(UsageError, match=r"there is no column 'n'; pass columns="):
        GivenShares.of(["n > 2 >= 0.5"], None, 4)
    with pytest.raises(UsageError, match="'n' has 3 values for 4 texts"):
        GivenShares.of(["n > 2 >= 0.5"], {"n": [1, 2, 3]}, 4)
