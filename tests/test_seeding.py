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
