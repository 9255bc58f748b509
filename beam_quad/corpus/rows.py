"""Reads splits: all rows, checked, for the models; chosen rows, untouched, for the output."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import files
from beam_quad.corpus import formats, jsonl
from beam_quad.corpus.batches import Columns, RowBatch, numbers_of
from beam_quad.corpus.joining import parts_of
from beam_quad.corpus.json_types import Seen
from beam_quad.errors import BadFileError
from beam_quad.records import Split

_BATCH_ROWS = 256


def read_rows(
    split: Split, columns: Columns, batch_rows: int, seen: Seen | None = None
) -> Iterator[RowBatch]:
    """Reads all rows of a split, each checked for every reason to reject it.

    Batches are runs of `batch_rows` rows counted from the start of each row group (of the file, where the format has
    none), so that their boundaries depend on the shard alone and not on how it was split, or joined with others.

    Args:
      split: The split.
      columns: Which columns mean what.
      batch_rows: Rows of a batch, > 0; the last of a row group may be shorter.
      seen: Takes the shapes of the rows that can be used, of a format that declares no types.

    Yields:
      Batches in order of rows, none empty. Memory is that of one batch.

    Raises:
      BadFileError: If the file turns out damaged, gone or changed since it was planned, perhaps after some batches;
        nothing of it may be used then.
    """
    for part in parts_of(split):
        _check_unchanged(part)
        yield from formats.format_of(part.path).rows(part, columns, batch_rows, seen)
        # What was read may be in part of the one content, in part of another.
        _check_unchanged(part)


def read_runs(
    split: Split,
    columns: Columns,
    batch_rows: int,
    max_rows: int,
    max_characters: int,
    seen: Seen | None = None,
) -> Iterator[RowBatch]:
    """Reads all rows of a split, as `read_rows`, in runs long enough to sort their texts by length.

    A run is as many whole batches as stay within both bounds, counted from the start of each row group and anew every
    `max_rows` rows, so that its ends depend on the shard alone, as those of batches do.

    Args:
      split: The split.
      columns: Which columns mean what.
      batch_rows: Rows of a batch, > 0.
      max_rows: Rows of a run, a multiple of `batch_rows`.
      max_characters: Characters of a run's texts; a single batch may hold more.
      seen: As `read_rows`.

    Yields:
      Runs in order of rows, none empty. Memory is that of one run and one batch.

    Raises:
      BadFileError: As `read_rows`.
    """
    run: list[RowBatch] = []
    characters = 0
    for batch in read_rows(split, columns, batch_rows, seen):
        more = batch.num_characters
        if run and (batch.group_row % max_rows == 0 or characters + more > max_characters):
            yield RowBatch.joined(run)
            run, characters = [], 0
        run.append(batch)
        characters += more
    if run:
        yield RowBatch.joined(run)


def read_numbers(split: Split, name: str, batch_rows: int) -> Iterator[np.ndarray]:
    """Reads a column of numbers of all rows of a split, and of Parquet no other column.

    Args:
      split: The split.
      name: The column or, with dots in it, a field of a struct.
      batch_rows: Rows that are read at a time, > 0.

    Yields:
      Runs of rows in order, float64; nan where a row has no finite number there, or cannot be read.

    Raises:
      BadFileError: As `read_rows`.
    """
    yield from map(numbers_of, read_values(split, name, batch_rows))


def read_values(split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
    """Reads a column of all rows of a split as it is, None where a row has none. Arguments and errors as for `read_numbers`."""
    for part in parts_of(split):
        _check_unchanged(part)
        yield from formats.format_of(part.path).values(part, name, batch_rows)
        _check_unchanged(part)


def read_selected(
    split: Split, schema: pa.Schema, keep: np.ndarray | Sequence[int]
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads chosen rows of a split with all columns; row groups without one are not read.

    Args:
      split: A split of one shard.
      schema: Schema of the corpus; a column that the file lacks is null.
      keep: Rows of the shard, ascending; or bool [rows of the split].

    Yields:
      Rows of the shard, int64 [n], and their values, n rows of `schema`, in order.

    Raises:
      BadFileError: As `read_rows`; also if a row is not there.
    """
    row_numbers = _row_numbers(split, keep)
    _check_unchanged(split)
    yield from formats.format_of(split.path).selected(split, schema, row_numbers)


def read_lines(split: Split, keep: np.ndarray | Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Reads chosen rows of a JSON Lines split as they are, without their line ends.

    Args:
      split: A split of one shard.
      keep: Rows of the shard, ascending; or bool [rows of the split].

    Yields:
      Row of the shard and its bytes, in order.

    Raises:
      BadFileError: As `read_selected`.
    """
    row_numbers = _row_numbers(split, keep)
    _check_unchanged(split)
    yield from jsonl.lines_at(split, row_numbers)


def _row_numbers(split: Split, keep: np.ndarray | Sequence[int]) -> np.ndarray:
    chosen = np.asarray(keep)
    if chosen.dtype == np.bool_:
        return np.flatnonzero(chosen).astype(np.int64) + split.first_row
    row_numbers = chosen.astype(np.int64)
    if len(row_numbers) and (row_numbers[0] < split.first_row or (np.diff(row_numbers) <= 0).any()):
        raise ValueError(
            f"rows of {split.shard} must ascend from {split.first_row}, got {keep!r:.80}"
        )
    return row_numbers


def _check_unchanged(split: Split) -> None:
    expected = split.found_version or split.version
    if not expected:
        return
    found = files.stat(split.path)
    if found is None:
        raise BadFileError(split.path, "is gone since it was planned")
    if found.version != expected:
        raise BadFileError(split.path, "has changed since it was planned")


def read_texts(split: Split, columns: Columns, rows: np.ndarray) -> dict[int, str]:
    """Reads the texts of some rows of a split, by number, int64 [m] ascending; that of a row without one is empty."""
    texts: dict[int, str] = {}
    first = 0
    for batch in read_rows(split, columns, _BATCH_ROWS):
        own = rows[slice(*np.searchsorted(rows, [first, first + len(batch)]))]
        texts |= {row: batch.texts[row - first] or "" for row in own.tolist()}
        first += len(batch)
        if len(texts) == len(rows):
            break
    return texts
