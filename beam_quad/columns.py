"""Sorted columns: where values are found in them, and where their runs of equal rows begin."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def find_sorted(sorted_values: Array, wanted: Array) -> Array:
    """Finds values in an ascending array: their index, or -1; int64 [n]."""
    if not len(sorted_values):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(sorted_values, wanted), len(sorted_values) - 1)
    return np.where(sorted_values[at] == wanted, at, -1)


def look_up(sorted_values: Array, results: Array, wanted: Array, default: Any) -> Array:
    """Finds what stands beside values in an ascending array.

    Args:
      sorted_values: Ascending, [m].
      results: What stands beside each, [m].
      wanted: Values to find, [n].
      default: What stands beside a value that is not there.

    Returns:
      [n], in a dtype that holds the results and the default.
    """
    at = find_sorted(sorted_values, wanted)
    # An index of -1 reads the default, which is the last.
    return np.append(results, default)[at]


def run_starts(*columns: Array) -> Array:
    """Finds where runs of equal rows begin.

    Args:
      columns: One or more columns of any type, each [n]; two rows are equal if they are equal in every column.

    Returns:
      Ascending positions, int64 [runs]; the first is 0, and there are none if n is 0.
    """
    is_start = np.ones(len(columns[0]), bool)
    is_start[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(is_start)


def run_lengths(starts: Array, size: int) -> Array:
    """Counts the rows of each run, int64 [runs].

    Args:
      starts: Where the runs begin, as `run_starts` finds them, int64 [runs].
      size: How many rows there are.
    """
    return np.diff(np.append(starts, size))


def run_bounds(*columns: Array) -> list[tuple[int, int]]:
    """Lists (start, end) of each run of equal rows, `end` excluded. Arguments as for `run_starts`."""
    return list(itertools.pairwise([*run_starts(*columns).tolist(), len(columns[0])]))


def find_repeats(keys: Sequence[Array], order: Sequence[Array]) -> Array:
    """Finds the rows whose keys another row has that comes before them.

    Args:
      keys: Columns of the keys, each [n].
      order: Columns by which rows come before others, the first being the most significant, each [n].

    Returns:
      Their positions, by key and then in that order, int64 [m].
    """
    rows = np.lexsort([*reversed(order), *reversed(keys)])
    return rows[places_in_runs(*(column[rows] for column in keys)) > 0]


def places_in_runs(*columns: Array) -> Array:
    """Numbers the rows of each run of equal rows from 0: int64 [n]. Arguments as for `run_starts`."""
    starts = run_starts(*columns)
    size = len(columns[0])
    return np.asarray(np.arange(size) - np.repeat(starts, run_lengths(starts, size)))
