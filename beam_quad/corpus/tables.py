"""Shared code of formats with declared columns: converts record batches to checked rows and to chosen rows."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_quad.artifacts import files, traffic
from beam_quad.corpus import damage, folders, json_rows, schemas
from beam_quad.corpus.batches import Columns, Fault, RowBatch, make_batch
from beam_quad.corpus.json_types import Seen
from beam_quad.corpus.summaries import RowGroup, ShardSummary
from beam_quad.errors import BadFileError
from beam_quad.records import Reason, Split

_HEAD_BYTES = 64
# Rows read at a time with all columns.
_SELECTED_ROWS = 1024


def check_schema(path: str, schema: pa.Schema, columns: Columns) -> pa.Schema:
    """Checks the columns of a file; returns them without the writer's metadata of the table.

    Raises:
      BadFileError: If two columns have one name.
      UsageError: If a required column is missing or has an unusable type.
    """
    twice = next((n for n in schema.names if schema.names.count(n) > 1), None)
    if twice is not None:
        raise BadFileError(path, f"has two columns named {twice!r}")
    located = {name: _located(schema, name) for name in columns.names}
    types = {name: [field.type] for name, field in located.items() if field is not None}
    schemas.check_read_columns(path, columns, schema.names, types)
    return pa.schema(list(schema))


class Groups(Protocol):
    """An open file with groups of rows that can be read independently."""

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns."""

    def __len__(self) -> int:
        """Returns the number of groups."""

    def num_rows(self, group: int) -> int:
        """Returns the number of rows of a group."""

    def size_bytes(self, group: int) -> int:
        """Returns the stored size of a group."""

    def batches(
        self, group: int, names: Sequence[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Reads the existing ones of some columns of a group, or the structs around them, in batches of any size."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """The functions of a `beam_quad.corpus.formats.Format` for files with groups of rows.

    Attributes:
      opened: Opens a file, and raises `BadFileError` if it is damaged.
      name: Name of the format, for the error message if the header is unreadable; None keeps the original message.
      magic: First bytes of its files. If a file starts with others, the error message names its real kind.
    """

    opened: Callable[[str], contextlib.AbstractContextManager[Groups]]
    name: str | None = None
    magic: bytes = b""

    def summarise(self, info: files.FileInfo, columns: Columns) -> ShardSummary:
        """Reads the header or footer of a file: the schema, and the sizes of its groups.

        Raises:
          BadFileError: If the file is not of this format, is truncated, or has two columns of one name.
          UsageError: If the file lacks a required column.
        """
        try:
            with self.opened(info.path) as file:
                schema, numbers = file.schema, range(len(file))
                groups = tuple(RowGroup(file.num_rows(i), file.size_bytes(i)) for i in numbers)
        except BadFileError as error:
            if self.name is None:
                raise
            detail = self._what_instead(info.path) or error.detail
            raise BadFileError(info.path, f"not a readable {self.name} file: {detail}") from error
        bare = check_schema(info.path, schema, columns)
        num_rows = sum(group.num_rows for group in groups)
        return ShardSummary(bare, None, num_rows, is_exact=True, groups=groups)

    def num_groups(self, path: str) -> int:
        """Counts the groups of a file."""
        with self.opened(path) as file:
            return len(file)

    def rows(
        self, split: Split, columns: Columns, batch_rows: int, seen: Seen | None = None
    ) -> Iterator[RowBatch]:
        """Reads and checks all rows of a split; see `beam_quad.corpus.rows.read_rows`."""
        with self.opened(split.path) as file:
            yield from _rows(split, file, columns, batch_rows)

    def values(self, split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
        """Reads a column, and no other."""
        with self.opened(split.path) as file:
            for group in _groups(split):
                for batch in _read(split, file, group, [name], batch_rows):
                    yield column_of(pa.Table.from_batches([batch]), name).to_pylist()

    def selected(
        self, split: Split, schema: pa.Schema, row_numbers: np.ndarray
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Reads chosen rows with all columns; see `beam_quad.corpus.rows.read_selected`."""
        with self.opened(split.path) as file:
            yield from _selected(split, file, schema, row_numbers)

    def _what_instead(self, path: str) -> str | None:
        with files.open_read(path) as raw:
            head = raw.read(_HEAD_BYTES)
        if head.startswith(self.magic):
            return None
        kind = damage.kind_of(head)
        return f"it is {kind}" if kind else None


def _rows(split: Split, file: Groups, columns: Columns, batch_rows: int) -> Iterator[RowBatch]:
    row = split.first_row
    for group in _groups(split):
        start = row
        for table in _aligned(_read(split, file, group, columns.names, batch_rows), batch_rows):
            yield _batch(split.shard, row, table, columns, row - start)
            row += table.num_rows
    # Draws and artifacts go by row number, so rows more or fewer than planned would shift them all.
    if row != split.first_row + split.num_rows:
        raise BadFileError(split.path, f"has other rows than planned: {row}")


def _selected(
    split: Split, file: Groups, schema: pa.Schema, row_numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads only from groups that have chosen rows."""
    row = split.first_row
    size_bytes = max(1, sum(map(file.size_bytes, _groups(split))))
    for group in _groups(split):
        end = row + file.num_rows(group)
        low, high = np.searchsorted(row_numbers, [row, end])
        if low < high:
            share = file.size_bytes(group) / size_bytes
            traffic.count("bytes_read", round(share * split.size_bytes))
            stored = _read(split, file, group, schema.names, _SELECTED_ROWS)
            yield from _chosen(stored, row, row_numbers[low:high], schema)
        row = end
    if len(row_numbers) and row_numbers[-1] >= row:
        raise BadFileError(split.path, f"has no row {row_numbers[-1]}")


def _groups(split: Split) -> range:
    return range(split.first_group, split.first_group + split.num_groups)


def _read(
    split: Split, file: Groups, group: int, names: Sequence[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Reads columns of a group, including those named by the shard's folders."""
    named = folders.columns_of(split.shard)
    for batch in file.batches(group, names, batch_rows):
        for name in named.keys() & set(names):
            if name not in batch.schema.names:
                values = pa.repeat(pa.scalar(named[name], pa.string()), batch.num_rows)
                batch = batch.append_column(name, values)
        yield batch


def _located(schema: pa.Schema, name: str) -> pa.Field | None:
    """Finds a column by name or, if the name has dots, a field of a struct."""
    if name in schema.names:
        return schema.field(name)
    for column in schema:
        if name.startswith(f"{column.name}.") and pa.types.is_struct(column.type):
            inside = _located(pa.schema(list(column.type)), name[len(column.name) + 1 :])
            if inside is not None:
                return inside
    return None


def _aligned(batches: Iterator[pa.RecordBatch], batch_rows: int) -> Iterator[pa.Table]:
    # Arrow ends a batch early at the end of a column chunk, but a model's batches must not depend on chunks.
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
        column = column_of(table, name)
        values[name], faults = _values(column)
        broken.update(faults)
    return make_batch(shard, first_row, values, columns, broken, group_row)


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Finds a column by name or, if the name has dots, a field of a struct; null if there is neither."""
    if name in table.column_names:
        return table.column(name)
    for column in table.column_names:
        if name.startswith(f"{column}.") and pa.types.is_struct(table.schema.field(column).type):
            struct = table.column(column)
            inside = {f.name: pc.struct_field(struct, f.name) for f in struct.type}
            return column_of(pa.table(inside), name[len(column) + 1 :])
    return pa.chunked_array([pa.nulls(table.num_rows)])


def _values(column: pa.ChunkedArray) -> tuple[list[Any], dict[int, Fault]]:
    # Some writers store texts as bytes.
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
        # Arrow cannot `take` from string views, or from types that contain them, but it can concatenate slices.
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
