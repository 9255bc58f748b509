"""Parquet, read by row groups in batches, never a whole row group at once."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.artifacts import files
from beam_quad.corpus import damage, tables

# Some names append the codec of the pages, such as `a.parquet.gzip` in the documentation of pandas.
EXTENSIONS = re.compile(
    r"\.(parquet|parq|pq)(\.(gz|gzip|snappy|zst|zstd|brotli|lz4))?$", re.IGNORECASE
)

_MAGIC = b"PAR1"
# The footer is followed by its size and the magic string.
_TAIL_BYTES = 8
_EXACT = 2**53
# Column chunks are streamed in pieces of this size, so memory does not grow with the row group.
_BUFFER_BYTES = 8 << 20


def exact_columns(path: str, names: Collection[str]) -> set[str]:
    """Finds the 64-bit integer columns that doubles represent exactly, by the statistics of the row groups.

    Each statistic takes about 10 us, so call this only for columns that are doubles in other files.

    Raises:
      BadFileError: If the footer is unreadable.
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
        # A group of nulls alone has no bounds, and nothing that a double could not hold.
        return statistics is not None and statistics.num_values == 0
    return statistics.min >= -_EXACT and statistics.max <= _EXACT


def places(path: str, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Locates the footer and the values of columns in a local file.

    Args:
      path: The file.
      columns: Names of columns or, with dots, of fields of structs.

    Yields:
      First byte and number of bytes of the footer, then of each column chunk.
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
            # A dictionary page, if there is one, precedes the data pages.
            start = chunk.data_page_offset
            if chunk.has_dictionary_page:
                start = min(start, chunk.dictionary_page_offset)
            yield start, chunk.total_compressed_size


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with files.open_read(path) as raw:
        # Arrow's pre-buffering would fetch all columns of a row group at once, often hundreds of megabytes.
        file = pq.ParquetFile(
            raw, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
        with file:
            yield file


@dataclasses.dataclass(frozen=True)
class _RowGroups:
    """The row groups of an open file; see `tables.Groups`."""

    file: pq.ParquetFile

    def __len__(self) -> int:
        return int(self.file.metadata.num_row_groups)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns."""
        return self.file.schema_arrow

    def num_rows(self, group: int) -> int:
        return int(self.file.metadata.row_group(group).num_rows)

    def size_bytes(self, group: int) -> int:
        metadata = self.file.metadata.row_group(group)
        return sum(metadata.column(i).total_compressed_size for i in range(metadata.num_columns))

    def batches(
        self, group: int, names: Sequence[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        # A worker reads several files at once already; threads within one would only compete.
        return self.file.iter_batches(
            batch_rows, row_groups=[group], columns=list(names), use_threads=False
        )


@contextlib.contextmanager
def _opened_groups(path: str) -> Iterator[_RowGroups]:
    with damage.naming(path), _opened(path) as file:
        yield _RowGroups(file)


_READER = tables.Reader(_opened_groups, "Parquet", _MAGIC)
summarise, num_groups = _READER.summarise, _READER.num_groups
rows, values, selected = _READER.rows, _READER.values, _READER.selected
