import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit import rules


def test_the_water_level_is_where_the_best_arms_hold_what_is_wanted():
    means, supply = np.array([1.0, 5.0, np.nan, 3.0]), np.array([100, 100, 100, 100])
    levels = [rules.water_level(means, supply, wanted) for wanted in (100, 101, 300, 301)]
    assert levels == [5.0, 3.0, 1.0, -math.inf]


def test_the_water_level_passes_over_arms_that_have_nothing_left():
    assert rules.water_level(np.array([5.0, 3.0]), np.array([0, 10]), 10) == 3.0


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 1.2))
def test_the_water_level_agrees_with_trying_every_mean(seed, share):
    rng = np.random.default_rng(seed)
    means, supply = rng.integers(0, 9, 12).astype(np.float64), rng.integers(0, 50, 12)
    residuals = np.sort(rng.normal(size=20))
    wanted = share * supply.sum()

    def given_at(tau):
        reach = [(m, s) for m, s in zip(means, supply, strict=True) if m >= tau and s]
        return math.fsum(s * np.mean(residuals >= tau - m) for m, s in reach)

    levels = [tau for tau in means[supply > 0] if given_at(tau) >= wanted - 1e-9]
    assert rules.water_level(means, supply, wanted, residuals) == max(levels, default=-math.inf)


def test_upper_bounds_are_those_of_ucb():
    bounds = rules.upper_bounds(np.array([2.0, 1.0, np.nan]), np.array([3, 1, 0]), exploration=0.5)
    width = math.sqrt(2 * math.log(4))
    np.testing.assert_allclose(bounds, [2 + 0.5 * width / math.sqrt(3), 1 + 0.5 * width, np.inf])


def test_equals_are_ordered_by_a_hash_that_the_seed_decides():
    orders = {
        tuple(rules.ranking(np.zeros(6), rules.tie_breakers(seed, 6)).tolist()) for seed in range(5)
    }
    assert len(orders) == 5


def test_second_blocks_follow_first_ones_until_there_is_enough():
    # Two arms with places 0-2 and 3-4; the second may give only 15.
    places, gives = rules.blocks_in_order(
        first=np.array([3, 0]),
        end=np.array([5, 3]),
        worth=np.full(5, 20),
        share=np.array([0.5, 1.0]),
        room=np.array([15, 100]),
        wanted_tokens=60,
    )
    assert places.tolist() == [3, 0, 4, 1, 2]
    assert gives.tolist() == [10, 20, 5, 20, 20]


def test_enough_is_the_first_count_that_holds_the_tokens_and_the_least_number():
    tokens = np.array([10, 10, 10, 10])
    assert [rules.first_until(tokens, wanted, 1) for wanted in (5, 10, 11, 99)] == [1, 1, 2, 4]
    assert rules.first_until(tokens, 5, 3) == 3
