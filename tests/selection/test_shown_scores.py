"""What is shown of scores is the same in whatever parts they come."""

import functools
import operator

import numpy as np
import pytest

from beam_quad.selection.shown import ShownScores


def columns_of(number):
    generator = np.random.default_rng(number)
    return {
        "key": generator.permutation(number).astype(np.uint64),
        # Many are equal, so that the extremes are a matter of ties.
        "influence": generator.integers(0, 5, number).astype(float),
        "is_drawn": generator.random(number) < 0.1,
    }


@pytest.mark.parametrize("num_parts", [1, 3, 50])
def test_the_sample_and_the_extremes_do_not_depend_on_the_parts(num_parts):
    columns = columns_of(200)
    parts = np.array_split(np.random.default_rng(1).permutation(200), num_parts)
    shown = [ShownScores.of({n: c[at] for n, c in columns.items()}, 4) for at in parts]
    total = functools.reduce(operator.add, shown)
    whole = ShownScores.of(columns, 4)
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(total.columns[name], column)


def test_all_that_is_drawn_is_kept_and_the_best_and_worst_besides():
    columns = columns_of(200)
    shown = ShownScores.of(columns, 4).columns
    assert set(columns["key"][columns["is_drawn"]]) <= set(shown["key"])
    extra = shown["influence"][~shown["is_drawn"]]
    assert len(extra) <= 8
    assert set(extra.tolist()) == {0.0, 4.0}
