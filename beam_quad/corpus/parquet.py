"""Parquet: read row group by row group, never a whole one at once."""

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_quad.artifacts import files, traffic
from beam_quad.corpus import damage, json_rows, schemas
from beam_quad.corpus.batches import Columns, Fault, RowBatch, make_batch
from beam_quad.corpus.json_types import Seen
from beam_quad.corpus.summaries import RowGroup, ShardSummary
from beam_quad.errors import BadFileError
from beam_quad.records import Reason, Split

# Some name the codec of the pages behind the format: `a.parquet.gzip` in the documentation of pandas.
EXTENSIONS = re.compile(
    r"\.(parquet|parq|pq)(\.(gz|gzip|snappy|zst|zstd|brotli|lz4))?$", re.IGNORECASE
)

_MAGIC = b"PAR1"
_HEAD_BYTES = 64
# Behind the footer: its size, and the magic.
_TAIL_BYTES = 8
_SELECTED_ROWS = 1024
_EXACT = 2**53
# Column chunks are streamed by pieces of this size: memory does not grow with the row group.
_BUFFER_BYTES = 8 << 20


def summarise(info: files.FileInfo, columns: Columns) -> ShardSummary:
    """Reads the footer of a file.

    Raises:
      BadFileError: If it has none that can be read, or two columns of one name.
      UsageError: If it lacks a column that is read.
    """
    try:
        with damage.naming(info.path), _opened(info.path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = tuple(map(_row_group, map(metadata.row_group, range(metadata.num_row_groups))))
    except BadFileError as error:
        detail = _what_instead(info) or error.detail
        raise BadFileError(info.path, f"not a readable Parquet file: {detail}") from error
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise BadFileError(info.path, f"has two columns named {twice!r}")
    located = {name: _located(schema, name) for name in columns.names}
    types = {name: [field.type] for name, field in located.items() if field is not None}
    schemas.check_read_columns(info.path, columns, schema.names, types)
    bare = pa.schema(list(schema))
    return ShardSummary(bare, None, metadata.num_rows, is_exact=True, groups=groups)


def exact_columns(path: str, names: Collection[str]) -> set[str]:
    """Finds, of columns of 64-bit integers, those that all are such as a double holds, by the statistics of the row groups.

    Python asks for each by itself, 10 us or so: for the columns only that meet doubles elsewhere.

    Raises:
      BadFileError: If the footer cannot be read.
    """
    with damage.naming(path), _opened(path) as file:
        metadata = file.metadata
        paths = ((i, metadata.schema.column(i).path) for i in range(metadata.num_columns))
        left = {i: name for i, name in paths if name in names}
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            left = {i: n for i, n in left.items() if _is_exact(group.column(i).statistics)}
            if not left:
                break
    return set(left.values())


def _is_exact(statistics: pq.Statistics | None) -> bool:
    if statistics is None or not statistics.has_min_max:
        return statistics is not None and statistics.num_values == 0
    return statistics.min >= -_EXACT and statistics.max <= _EXACT


def _located(schema: pa.Schema, name: str) -> pa.Field | None:
    """Finds a column by its name or, with dots in it, a field of a struct."""
    if name in schema.names:
        return schema.field(name)
    for column in schema:
        if name.startswith(f"{column.name}.") and pa.types.is_struct(column.type):
            inside = _located(pa.schema(list(column.type)), name[len(column.name) + 1 :])
            if inside is not None:
                return inside
    return None


def _what_instead(info: files.FileInfo) -> str | None:
    with files.open_read(info.path) as raw:
        head = raw.read(_HEAD_BYTES)
    if head.startswith(_MAGIC):
        return None
    kind = damage.kind_of(head)
    return f"it is {kind}" if kind else None


def _row_group(group: pq.RowGroupMetaData) -> RowGroup:
    sizes = (group.column(i).total_compressed_size for i in range(group.num_columns))
    return RowGroup(group.num_rows, sum(sizes))


def places(path: str, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Says where a local file holds its footer and the values of columns.

    Args:
      path: The file.
      columns: Names of columns or, with dots in them, of fields of structs.

    Yields:
      First byte and number of bytes: of the footer, then of each column's chunks.
    """
    with open(path, "rb") as raw:
        metadata = pq.read_metadata(raw)
        num_bytes = raw.seek(0, os.SEEK_END)
    yield num_bytes - metadata.serialized_size - _TAIL_BYTES, metadata.serialized_size + _TAIL_BYTES
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    wanted = tuple(f"{name}." for name in columns)
    chosen = [i for i, name in enumerate(names) if f"{name}.".startswith(wanted)]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, chosen):
            start = chunk.data_page_offset
            if chunk.has_dictionary_page:
                start = min(start, chunk.dictionary_page_offset)
            yield start, chunk.total_compressed_size


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with files.open_read(path) as raw:
        file = pq.ParquetFile(
            raw, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
        with file:
            yield file


def rows(
    split: Split, columns: Columns, batch_rows: int, seen: Seen | None = None
) -> Iterator[RowBatch]:
    """Reads and checks all rows of a split; see `beam_quad.corpus.rows.read_rows`."""
    row = split.first_row
    with damage.naming(split.path), _opened(split.path) as file:
        for group in _groups(split):
            start = row
            stored = file.iter_batches(
                batch_rows, row_groups=[group], columns=columns.names, use_threads=False
            )
            for table in _aligned(stored, batch_rows):
                yield _batch(split.shard, row, table, columns, row - start)
                row += table.num_rows
    if row != split.first_row + split.num_rows:
        raise BadFileError(split.path, f"has other rows than planned: {row}")


def values(split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
    """Reads a column, and no other; see `beam_quad.corpus.formats.Format`."""
    with damage.naming(split.path), _opened(split.path) as file:
        for batch in file.iter_batches(
            batch_rows, row_groups=list(_groups(split)), columns=[name], use_threads=False
        ):
            yield _column(pa.Table.from_batches([batch]), name).to_pylist()


def _groups(split: Split) -> range:
    return range(split.first_group, split.first_group + split.num_groups)


def _aligned(batches: Iterator[pa.RecordBatch], batch_rows: int) -> Iterator[pa.Table]:
    # Arrow ends a batch early where a column's chunk ends; what goes through a model together must not depend on that.
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        while sum(b.num_rows for b in pending) >= batch_rows:
            table = pa.Table.from_batches(pending)
            yield table.slice(0, batch_rows)
            pending = table.slice(batch_rows).to_batches()
    if any(b.num_rows for b in pending):
        yield pa.Table.from_batches(pending)


def _batch(
    shard: str, first_row: int, table: pa.Table, columns: Columns, group_row: int
) -> RowBatch:
    values: dict[str, list[Any]] = {}
    broken: dict[int, Fault] = {}
    for name in columns.names:
        column = _column(table, name)
        values[name], faults = _values(column)
        broken.update(faults)
    return make_batch(shard, first_row, values, columns, broken, group_row)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name in table.column_names:
        return table.column(name)
    for column in table.column_names:
        if name.startswith(f"{column}.") and pa.types.is_struct(table.schema.field(column).type):
            struct = table.column(column)
            inside = {f.name: pc.struct_field(struct, f.name) for f in struct.type}
            return _column(pa.table(inside), name[len(column) + 1 :])
    return pa.chunked_array([pa.nulls(table.num_rows)])


def _values(column: pa.ChunkedArray) -> tuple[list[Any], dict[int, Fault]]:
    if schemas.is_binary(column.type):
        return _decoded(column)
    try:
        return column.to_pylist(), {}
    except UnicodeDecodeError:
        return _decoded(column)


def _decoded(column: pa.ChunkedArray) -> tuple[list[Any], dict[int, Fault]]:
    values: list[Any] = []
    faults: dict[int, Fault] = {}
    for i, raw in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            values.append(None if raw is None else raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            faults[i] = Reason.INVALID_UTF8, f"{error.reason} at byte {error.start}"
            values.append(None)
    return values, faults


def selected(
    split: Split, schema: pa.Schema, row_numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads chosen rows with all columns; see `beam_quad.corpus.rows.read_selected`."""
    row = split.first_row
    with damage.naming(split.path), _opened(split.path) as file:
        sizes = {g: _compressed_size(file.metadata.row_group(g)) for g in _groups(split)}
        for group in _groups(split):
            end = row + file.metadata.row_group(group).num_rows
            low, high = np.searchsorted(row_numbers, [row, end])
            if low < high:
                share = sizes[group] / max(1, sum(sizes.values()))
                traffic.count("bytes_read", round(share * split.size_bytes))
                stored = file.iter_batches(
                    _SELECTED_ROWS,
                    row_groups=[group],
                    columns=[name for name in file.schema_arrow.names if name in schema.names],
                    use_threads=False,
                )
                yield from _chosen(stored, row, row_numbers[low:high], schema)
            row = end
    if len(row_numbers) and row_numbers[-1] >= row:
        raise BadFileError(split.path, f"has no row {row_numbers[-1]}")


def _compressed_size(group: Any) -> int:
    """Adds up what the columns of a row group take in the file."""
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _chosen(
    batches: Iterator[pa.RecordBatch], row: int, row_numbers: np.ndarray, schema: pa.Schema
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    for batch in batches:
        low, high = np.searchsorted(row_numbers, [row, row + batch.num_rows])
        if low < high:
            numbers = row_numbers[low:high]
            yield numbers, _conformed(_taken(batch, numbers - row), schema)
        row += batch.num_rows


def _taken(batch: pa.RecordBatch, positions: np.ndarray) -> pa.RecordBatch:
    try:
        return batch.take(pa.array(positions))
    except pa.ArrowNotImplementedError:
        # Arrow cannot take from string views, nor from what holds them, but it can join slices.
        columns = [
            pa.concat_arrays([column.slice(i, 1) for i in positions.tolist()])
            for column in batch.columns
        ]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        elif schemas.is_json_text(field) and not schemas.is_json_text(batch.schema.field(index)):
            arrays.append(json_rows.as_json_text(batch.column(index)))
        else:
            arrays.append(_cast(batch.column(index), field))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(array: pa.Array, field: pa.Field) -> pa.Array:
    if array.type == field.type:
        return array
    try:
        return array.cast(field.type)
    except pa.ArrowInvalid as error:
        message = f"column {field.name!r} as {field.type}, its type in other files: {error}"
        raise pa.ArrowInvalid(message) from error
