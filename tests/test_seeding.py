import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_quad import seeding


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(0, 2**32))
def test_a_draw_depends_on_its_id_alone(ids, seed):
    keys = seeding.keys(ids)
    draws = seeding.uniform(seed, "purpose", keys)
    for at, example_id in enumerate(ids):
        assert seeding.uniform(seed, "purpose", seeding.keys([example_id]))[0] == draws[at]


def test_draws_are_uniform_and_independent_between_purposes_and_seeds():
    keys = seeding.keys(f"shard#{i}" for i in range(50_000))
    draws = [
        seeding.uniform(0, "a", keys),
        seeding.uniform(0, "b", keys),
        seeding.uniform(1, "a", keys),
    ]
    for draw in draws:
        counts = np.histogram(draw, bins=50, range=(0, 1))[0]
        # A chi-squared statistic of 49 degrees of freedom is below 100 with probability 1 - 2e-5.
        assert ((counts - 1000) ** 2 / 1000).sum() < 100
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.02


def test_a_separator_keeps_parts_apart():
    assert seeding.digest("ab", "c") != seeding.digest("a", "bc")


def test_a_share_of_the_examples_is_drawn_and_a_larger_share_holds_a_smaller():
    keys = seeding.keys(f"shard#{i}" for i in range(50_000))
    few, more = (seeding.is_drawn(0, "a", keys, rate) for rate in (0.1, 0.3))
    assert abs(few.mean() - 0.1) < 0.01
    assert abs(more.mean() - 0.3) < 0.01
    assert (few <= more).all()
    assert seeding.is_drawn(0, "a", keys, 1.0).all()
    assert not seeding.is_drawn(0, "a", keys, 0.0).any()


def test_the_lowest_draws_come_first_and_a_smaller_number_is_the_beginning_of_a_larger():
    keys = seeding.keys(f"shard#{i}" for i in range(100))
    draws = seeding.mix(7, "a", keys).tolist()
    expected = sorted(range(100), key=lambda i: draws[i])
    assert seeding.lowest(7, "a", keys).tolist() == expected
    assert seeding.lowest(7, "a", keys, 9).tolist() == expected[:9]
