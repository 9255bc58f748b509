"""Reads splits: all rows, checked, for the models; chosen rows, unchanged, for the output."""

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
    """Reads all rows of a split and checks each for every reason to reject it.

    Batches are runs of `batch_rows` rows counted from the start of each row group, or of the file if the format has no row
    groups. Their boundaries thus depend only on the shard, not on how it is split or joined with others.

    Args:
      split: The split.
      columns: Which columns mean what.
      batch_rows: Rows of a batch, > 0; the last of a row group may be shorter.
      seen: Collects the shapes of usable rows, for formats that declare no types.

    Yields:
      Non-empty batches in order of rows. Memory is limited to one batch.

    Raises:
      BadFileError: If the file turns out to be damaged, missing or changed since planning, possibly after some batches,
        which must then be discarded.
    """
    for part in parts_of(split):
        _check_unchanged(part)
        yield from formats.format_of(part.path).rows(part, columns, batch_rows, seen)
        # The rows read may mix two versions of the file.
        _check_unchanged(part)


def read_runs(
    split: Split,
    columns: Columns,
    batch_rows: int,
    max_rows: int,
    max_characters: int,
    seen: Seen | None = None,
) -> Iterator[RowBatch]:
    """Reads all rows of a split like `read_rows`, in runs long enough to sort their texts by length.

    A run has as many whole batches as fit both bounds. Runs restart at each row group and every `max_rows` rows, so their
    boundaries, like those of batches, depend only on the shard.

    Args:
      split: The split.
      columns: Which columns mean what.
      batch_rows: Rows of a batch, > 0.
      max_rows: Rows of a run, a multiple of `batch_rows`.
      max_characters: Characters of a run's texts; a single batch may hold more.
      seen: As `read_rows`.

    Yields:
      Non-empty runs in order of rows. Memory is limited to one run and one batch.

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
    """Reads a column of numbers of all rows of a split; in Parquet no other column is read.

    Args:
      split: The split.
      name: The column or, with dots, a field of a struct.
      batch_rows: Rows read at a time, > 0.

    Yields:
      Runs of rows in order, float64; nan for a row that is unreadable or has no finite number in the column.

    Raises:
      BadFileError: As `read_rows`.
    """
    yield from map(numbers_of, read_values(split, name, batch_rows))


def read_values(split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
    """Reads raw values of a column of all rows of a split, None for a missing value; see `read_numbers`."""
    for part in parts_of(split):
        _check_unchanged(part)
        yield from formats.format_of(part.path).values(part, name, batch_rows)
        _check_unchanged(part)


def read_selected(
    split: Split, schema: pa.Schema, keep: np.ndarray | Sequence[int]
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads chosen rows of a split with all columns; row groups without chosen rows are not read.

    Args:
      split: A split of one shard.
      schema: Schema of the corpus; a column missing from the file is null.
      keep: Rows of the shard, ascending; or bool [rows of the split].

    Yields:
      Row numbers of the shard, int64 [n], and their values, n rows of `schema`, in order.

    Raises:
      BadFileError: As `read_rows`; also if a row is missing.
    """
    row_numbers = _row_numbers(split, keep)
    _check_unchanged(split)
    yield from formats.format_of(split.path).selected(split, schema, row_numbers)


def read_lines(split: Split, keep: np.ndarray | Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Reads chosen raw rows of a JSON Lines split, without their line ends.

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
        # A mask is over the split's rows, and numbers are those of the shard.
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
    """Reads the texts of some rows of a split by row number; rows is int64 [m], ascending. A missing text is empty."""
    texts: dict[int, str] = {}
    first = 0
    for batch in read_rows(split, columns, _BATCH_ROWS):
        own = rows[slice(*np.searchsorted(rows, [first, first + len(batch)]))]
        texts |= {row: batch.texts[row - first] or "" for row in own.tolist()}
        first += len(batch)
        if len(texts) == len(rows):
            break
    return texts
