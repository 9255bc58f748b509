"""Search in sorted columns, runs of equal rows, and runs of a size."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def find_sorted(sorted_values: Array, wanted: Array) -> Array:
    """Returns the index of each value in an ascending array, int64 [n]; -1 if it is absent."""
    if not len(sorted_values):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(sorted_values, wanted), len(sorted_values) - 1)
    return np.where(sorted_values[at] == wanted, at, -1)


def look_up(sorted_values: Array, results: Array, wanted: Array, default: Any) -> Array:
    """Looks up values in an ascending array and returns their results.

    Args:
      sorted_values: Ascending values, [m].
      results: Result of each, [m].
      wanted: Values to look up, [n].
      default: Result of an absent value.

    Returns:
      [n], in a dtype that holds the results and the default.
    """
    at = find_sorted(sorted_values, wanted)
    # The default is last, so an index of -1 reads it.
    return np.append(results, default)[at]


def run_starts(*columns: Array) -> Array:
    """Returns the start of each run of equal rows.

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
      starts: Starts of the runs, from `run_starts`, int64 [runs].
      size: Number of rows.
    """
    return np.diff(np.append(starts, size))


def run_bounds(*columns: Array) -> list[tuple[int, int]]:
    """Returns (start, end) of each run of equal rows, without `end`. Arguments as for `run_starts`."""
    return list(itertools.pairwise([*run_starts(*columns).tolist(), len(columns[0])]))


def find_repeats(keys: Sequence[Array], order: Sequence[Array]) -> Array:
    """Returns the rows with the same keys as an earlier row.

    Args:
      keys: Columns of the keys, each [n].
      order: Columns of the order of rows, most significant first, each [n].

    Returns:
      Positions of the repeats, sorted by key and then by `order`, int64 [m].
    """
    rows = np.lexsort([*reversed(order), *reversed(keys)])
    return rows[places_in_runs(*(column[rows] for column in keys)) > 0]


def places_in_runs(*columns: Array) -> Array:
    """Numbers the rows of each run of equal rows from 0, int64 [n]. Arguments as for `run_starts`."""
    starts = run_starts(*columns)
    size = len(columns[0])
    return np.asarray(np.arange(size) - np.repeat(starts, run_lengths(starts, size)))


def slices(num_rows: int, size: int) -> list[slice]:
    """Cuts rows into runs of `size`, of which the last may be shorter."""
    return [slice(start, start + size) for start in range(0, num_rows, size)]
