import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad import columns

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12)


def runs_by_hand(rows):
    """Lists (start, end) of the runs of equal rows, row by row."""
    runs = []
    for at, row in enumerate(rows):
        if at and row == rows[at - 1]:
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    return runs


@given(rows=pairs)
def test_runs_begin_and_end_where_a_row_differs_from_the_one_before(rows):
    first, second = np.array(rows, np.int64).reshape(-1, 2).T
    expected = runs_by_hand(rows)
    assert columns.run_bounds(first, second) == expected
    assert columns.run_starts(first, second).tolist() == [start for start, _ in expected]
    places = [at - start for start, end in expected for at in range(start, end)]
    assert columns.places_in_runs(first, second).tolist() == places


def test_runs_of_one_column_of_any_type():
    names = np.array(["b", "b", "a", "b"], object)
    assert columns.run_bounds(names) == [(0, 2), (2, 3), (3, 4)]
    assert columns.run_starts(np.array([7, 7, 9], np.uint64)).tolist() == [0, 2]


@given(values=st.sets(st.integers(0, 20)), wanted=st.lists(st.integers(-2, 23)))
def test_a_value_is_found_at_its_index_and_a_missing_one_at_minus_one(values, wanted):
    ascending = sorted(values)
    expected = [ascending.index(value) if value in values else -1 for value in wanted]
    found = columns.find_sorted(np.array(ascending, np.int64), np.array(wanted, np.int64))
    assert found.tolist() == expected


@pytest.mark.parametrize("key", [0, 2**64 - 1])
def test_the_least_and_the_greatest_key_are_found(key):
    keys = np.array([0, 5, 2**64 - 1], np.uint64)
    assert keys[columns.find_sorted(keys, np.array([key], np.uint64))[0]] == key


@given(
    table=st.dictionaries(st.integers(0, 20), st.integers(1, 9)),
    wanted=st.lists(st.integers(-2, 23)),
)
def test_what_stands_beside_a_value_is_found_and_the_default_beside_none(table, wanted):
    ascending = sorted(table)
    results = np.array([table[value] for value in ascending], np.int64)
    found = columns.look_up(np.array(ascending, np.int64), results, np.array(wanted, np.int64), -1)
    assert found.tolist() == [table.get(value, -1) for value in wanted]
    assert found.dtype == np.int64


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 2)), max_size=20)
)
def test_of_equal_keys_all_but_the_first_in_order_are_repeats(rows):
    high, low, split = np.array(rows, np.int64).reshape(-1, 3).T
    row = np.random.default_rng(len(rows)).permutation(len(rows))
    expected = [
        i
        for i in range(len(rows))
        if any(
            (high[j], low[j]) == (high[i], low[i]) and (split[j], row[j]) < (split[i], row[i])
            for j in range(len(rows))
        )
    ]
    expected.sort(key=lambda i: (high[i], low[i], split[i], row[i]))
    assert columns.find_repeats([high, low], [split, row]).tolist() == expected
