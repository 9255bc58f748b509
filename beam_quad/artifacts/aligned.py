"""Row-aligned artifacts: one small Parquet file per split, with row i describing row i of the split."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.artifacts import files
from beam_quad.records import Reason

USABLE = 0
# Codes are stored, so a new reason goes to the end of `Reason`.
_REASONS = tuple(Reason)
_CODES = {reason: code for code, reason in enumerate(_REASONS, start=1)}
_METADATA = b"beam_quad"


def reason_code(reason: Reason | None) -> int:
    """Encodes a reason as a small positive integer; None, for a usable row, is 0."""
    return USABLE if reason is None else _CODES[reason]


def reason_of(code: int) -> Reason | None:
    """Decodes `reason_code`."""
    return None if code == USABLE else _REASONS[code - 1]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Everything known about the rows of a split except their text.

    Attributes:
      keys: Hash of the example id, uint64 [n]; 0 for a rejected row.
      tokens: Tokens of the text, int64 [n]; 0 for a rejected row.
      reasons: `reason_code` of each row, uint8 [n].
      details: The fault of each row in words, or None; empty if details were not read.
      ids: The example ids if the input has them, else None for each row; empty if ids were not read.
    """

    keys: np.ndarray
    tokens: np.ndarray
    reasons: np.ndarray
    details: Sequence[str | None] = ()
    ids: Sequence[str | None] = ()

    @classmethod
    def none(cls) -> "Rows":
        """Makes the record of an empty split."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint8))

    @property
    def usable(self) -> np.ndarray:
        """Which rows can be selected, bool [n]."""
        return np.asarray(self.reasons == USABLE)


class TableWriter:
    """Writes tables to one Parquet file in row groups of at least `group_rows`, with JSON metadata at the end.

    The bytes depend on the tables alone.
    """

    def __init__(self, file: Any, schema: pa.Schema, group_rows: int = 16_384) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd", compression_level=1)
        self._schema = schema
        self._group_rows = group_rows
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0

    def write(self, columns: dict[str, Any]) -> None:
        """Adds rows, given as arrays or lists by column name."""
        arrays = [
            value if isinstance(value, pa.Array) else pa.array(value, field.type)
            for field, value in ((field, columns[field.name]) for field in self._schema)
        ]
        self._pending.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._num_pending += len(arrays[0])
        if self._num_pending >= self._group_rows:
            self.flush()

    def flush(self) -> None:
        """Ends the row group."""
        if self._num_pending:
            self.write_group(pa.Table.from_batches(self._pending, schema=self._schema))
        self._pending, self._num_pending = [], 0

    def write_group(self, table: pa.Table) -> None:
        """Writes a table as a row group, even an empty table."""
        # Arrow refuses a row group size of 0.
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    @property
    def is_open(self) -> bool:
        """Whether the writer accepts more rows."""
        return bool(self._writer.is_open)

    def abandon(self) -> None:
        """Discards the file; otherwise Arrow would write its footer when the writer is garbage-collected."""
        self._writer.is_open = False

    def close(self, metadata: dict[str, Any] | None = None) -> None:
        """Writes the pending rows and the footer."""
        self.flush()
        if metadata is not None:
            text = json.dumps(metadata, sort_keys=True)
            self._writer.add_key_value_metadata({_METADATA.decode(): text})
        self._writer.close()


@contextlib.contextmanager
def table_writer(path: str, schema: pa.Schema, group_rows: int = 16_384) -> Iterator[TableWriter]:
    """Opens a `TableWriter`; its file appears under `path` only once it is complete.

    The caller closes the writer itself if it has metadata to add.
    """
    with files.writing(path) as out:
        writer = TableWriter(out, schema, group_rows)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        if writer.is_open:
            writer.close()


def write_table(path: str, schema: pa.Schema, columns: dict[str, Any]) -> None:
    """Writes one small table."""
    with table_writer(path, schema) as writer:
        writer.write(columns)


def read_table(path: str) -> pa.Table:
    """Reads a small Parquet file whole."""
    with files.open_read(path) as file:
        return pq.read_table(file)


def read_columns(path: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Reads columns of a small Parquet file as NumPy arrays (strings as objects)."""
    with files.open_read(path) as file:
        table = pq.read_table(file, columns=None if names is None else list(names))
    return {
        name: table.column(name).to_numpy(zero_copy_only=False)  # nulls of a float become NaN
        for name in table.column_names
    }


def read_batches(path: str, names: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yields some columns of a file in batches of at most `batch_rows` rows."""
    with files.open_read(path) as file:
        yield from pq.ParquetFile(file).iter_batches(batch_rows, columns=list(names))


def column_names(path: str) -> set[str]:
    """Reads the names of a Parquet file's columns from its footer."""
    with files.open_read(path) as file:
        return set(pq.read_schema(file).names)


def drop_rows(path: str, name: str, is_dropped: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrites a file in place without some rows; its row groups and metadata stay.

    Args:
      path: The file, written by a `TableWriter`.
      name: A column of numbers.
      is_dropped: Maps the values of that column, [n], to the rows to drop, bool [n].
    """
    metadata = read_metadata(path)
    with files.writing(path, replace=True) as out, files.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        # Arrow reports the footer's metadata as the schema's. It is written anew at the end, so it must not count as
        # schema here.
        writer = TableWriter(out, parquet.schema_arrow.remove_metadata())
        try:
            for i in range(parquet.num_row_groups):
                table = parquet.read_row_group(i)
                kept = ~is_dropped(table.column(name).to_numpy())
                writer.write_group(table.filter(pa.array(kept)).replace_schema_metadata())
        except BaseException:
            writer.abandon()
            raise
        writer.close(metadata or None)


def num_rows(path: str) -> int:
    """Reads the number of rows of a Parquet file from its footer."""
    with files.open_read(path) as file:
        return int(pq.read_metadata(file).num_rows)


def pack(table: pa.Table) -> bytes:
    """Packs a table for a shuffle, compressed."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def unpack(parts: Iterable[bytes]) -> pa.Table:
    """Unpacks and concatenates packed tables of one schema, at least one."""
    return pa.concat_tables([pa.ipc.open_stream(part).read_all() for part in parts])


def read_metadata(path: str) -> dict[str, Any]:
    """Reads the JSON metadata of a file written by `TableWriter.close`."""
    with files.open_read(path) as file:
        metadata = pq.read_metadata(file).metadata or {}
    return dict(json.loads(metadata[_METADATA])) if _METADATA in metadata else {}


ROWS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("reason", pa.uint8()),
        pa.field("detail", pa.string()),
        pa.field("example_id", pa.string()),
    ]
)


def read_rows_file(path: str, with_strings: bool = False) -> Rows:
    """Reads the rows artifact of a split, with its details and ids only if `with_strings`."""
    names = ROWS_SCHEMA.names if with_strings else ROWS_SCHEMA.names[:3]
    with files.open_read(path) as file:
        table = pq.read_table(file, columns=names)
    strings = (_Strings(table.column(name)) for name in names[3:])
    return Rows(*(table.column(name).to_numpy() for name in names[:3]), *strings)


class _Strings(Sequence[str | None]):
    """Strings of all rows, decoded on access, because few of many rows are read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._column[index].to_pylist()
        return self._column[int(index)].as_py()


# Half precision halves the largest artifact of a run; its relative error of 5e-4 is far below the distance between two
# texts.
EMBEDDING_DTYPE = np.dtype(np.float16)


def embeddings_schema(dim: int) -> pa.Schema:
    """The schema of an embeddings artifact: one float16 vector of `dim` numbers a row, as bytes."""
    return pa.schema([pa.field("embedding", pa.binary(EMBEDDING_DTYPE.itemsize * dim))])


def embedding_column(vectors: np.ndarray) -> pa.Array:
    """Packs vectors, float [n, dim], as float16 bytes."""
    return vector_column(vectors, EMBEDDING_DTYPE)


def vector_column(vectors: np.ndarray, dtype: np.dtype) -> pa.Array:
    """Packs vectors, [n, dim] of numbers, as the bytes of a dtype."""
    packed = np.ascontiguousarray(vectors, dtype=dtype)
    width = packed.shape[1] * packed.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), packed.shape[0], [None, pa.py_buffer(packed.tobytes())]
    )


def unpack_vectors(column: pa.ChunkedArray, dtype: np.dtype) -> np.ndarray:
    """Unpacks vectors packed by `vector_column`, [n, dim]."""
    return np.concatenate(
        [
            # An empty file has no chunk, and NumPy concatenates nothing to no shape.
            np.zeros((0, column.type.byte_width // dtype.itemsize), dtype),
            *(_vectors(chunk, dtype) for chunk in column.chunks),
        ]
    )


def _vectors(chunk: pa.Array, dtype: np.dtype) -> np.ndarray:
    width = chunk.type.byte_width
    # A slice shares its parent's buffer and starts at an offset in it.
    start = chunk.offset * width
    raw = memoryview(chunk.buffers()[1])[start : start + len(chunk) * width]
    return np.frombuffer(raw, dtype).reshape(len(chunk), width // dtype.itemsize)


def read_embeddings(path: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the embeddings of a split by row group, as stored: (first row, float16 [rows, dim])."""
    with files.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        first = 0
        for group in range(parquet.num_row_groups):
            column = parquet.read_row_group(group, columns=["embedding"]).column(0)
            for chunk in column.chunks:
                yield first, _vectors(chunk, EMBEDDING_DTYPE)
                first += len(chunk)


def read_some_embeddings(path: str, rows: np.ndarray) -> np.ndarray:
    """Reads the embeddings of a few rows, float16 [m, dim]; arguments as for `read_some_vectors`."""
    return read_some_vectors(path, "embedding", EMBEDDING_DTYPE, rows)


def read_some_vectors(path: str, name: str, dtype: np.dtype, rows: np.ndarray) -> np.ndarray:
    """Reads vectors of a few rows packed by `vector_column`, [m, dim], and only the row groups with such rows.

    Args:
      path: The file of a split.
      name: The column.
      dtype: The dtype of the vectors.
      rows: Ascending row numbers of the split, int64 [m], at least one.
    """
    with files.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        parts = []
        for group, (start, end) in enumerate(itertools.pairwise(starts)):
            own = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
            if len(own):
                column = parquet.read_row_group(group, columns=[name]).column(0)
                parts.append(unpack_vectors(column.take(pa.array(own)), dtype))
    return np.concatenate(parts)
