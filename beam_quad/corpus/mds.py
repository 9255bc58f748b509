"""MDS, the shards of mosaicml-streaming: how samples are stored, and reading them.

A shard consists of the number of samples, uint32 [1]; the start of each sample and the end of the last, uint32 [n + 1]; a
JSON object with the names and encodings of the columns; and the samples. A sample consists of the sizes of the columns
without a fixed size, uint32, and the bytes of all columns. A shard is thus self-describing; `index.json` lists the shards.

References:
  https://docs.mosaicml.com/projects/streaming/en/stable/preparing_datasets/dataset_format.html
"""

import contextlib
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import files
from beam_quad.corpus import compression, damage, schemas, tables
from beam_quad.errors import BadFileError

EXTENSIONS = re.compile(r"\.mds(\.(zstd|zst|gz|bz2|br|snappy))?$", re.IGNORECASE)

SIZE = np.dtype("<u4")
# Maximum number of samples read together.
_GROUP_ROWS = 1024
_SCALARS = {
    "int": "int64",
    **{name: name for kind in ("int", "uint") for name in (f"{kind}{2**i}" for i in range(3, 7))},
    **{name: name for name in ("float16", "float32", "float64")},
}
_STRINGS = ("str", "str_int", "str_float", "str_decimal")
_SHAPE_TYPES = ("<u1", "<u2", "<u4", "<u8")


class Column(NamedTuple):
    """A column of a shard.

    Attributes:
      name: Its name.
      encoding: Name of the encoding of its values in MDS.
      size: Bytes of each value; None if sizes vary.
    """

    name: str
    encoding: str
    size: int | None

    @property
    def array_type(self) -> str | None:
        """Number type of a column of vectors; None for other columns, and if the type may vary by value."""
        kind, _, rest = self.encoding.partition(":")
        number, _, shape = rest.partition(":")
        return number if kind == "ndarray" and number and "," not in shape else None

    @property
    def field(self) -> pa.Field:
        """Arrow field of its values; the stored bytes if no better type fits."""
        if self.encoding in _SCALARS:
            return pa.field(self.name, pa.type_for_alias(_SCALARS[self.encoding]))
        if self.encoding in _STRINGS:
            return pa.field(self.name, pa.string())
        if self.encoding == "json":
            return schemas.json_text_field(self.name, "JSON of MDS")
        if self.array_type is not None:
            return pa.field(self.name, pa.list_(pa.type_for_alias(self.array_type)))
        return pa.field(self.name, pa.binary())

    def array(self, values: list[bytes]) -> pa.Array:
        """Decodes stored values."""
        if self.encoding in _SCALARS:
            numbers = np.frombuffer(b"".join(values), np.dtype(_SCALARS[self.encoding]))
            return pa.array(numbers, self.field.type)
        if self.array_type is not None:
            return pa.array([self._numbers(value) for value in values], self.field.type)
        if self.encoding == "json":
            return pa.array([None if v == b"null" else v for v in values], pa.binary()).view(
                pa.string()
            )
        stored = pa.array(values, pa.binary())
        # The reader of rows reports bytes that are not UTF-8.
        return stored.view(pa.string()) if self.field.type == pa.string() else stored

    def encoded(self, value: Any) -> bytes:
        """Encodes a string or a number that is not null."""
        if self.encoding in _SCALARS:
            return np.array(value, np.dtype(_SCALARS[self.encoding])).tobytes()
        return str(value).encode()

    def _numbers(self, value: bytes) -> np.ndarray:
        """Decodes a vector; a variable shape is stored before it, after one byte with the shape's length and type."""
        start = 0
        if self.size is None:
            num_dimensions, kind = value[0] >> 2, value[0] & 3
            if num_dimensions != 1:
                raise pa.ArrowInvalid(
                    f"column {self.name!r} holds arrays of {num_dimensions} dimensions; leave it out, as --columns='!{self.name}'"
                )
            start = 1 + np.dtype(_SHAPE_TYPES[kind]).itemsize
        return np.frombuffer(value, np.dtype(self.array_type), offset=start)


class _Samples:
    """The samples of an open shard, in groups; see `tables.Groups`.

    Args:
      file: The decompressed shard.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        num_samples = int(self._read_sizes(1)[0])
        # Checked first: a foreign file would ask for gigabytes of offsets.
        if num_samples * SIZE.itemsize > size:
            raise EOFError("is truncated, or no shard of MDS")
        self._starts = self._read_sizes(num_samples + 1).astype(np.int64)
        before = (num_samples + 2) * SIZE.itemsize
        if (np.diff(self._starts, prepend=before) < 0).any():
            raise pa.ArrowInvalid("is no shard of MDS: its samples do not follow each other")
        if self._starts[-1] > size:
            raise EOFError(f"is truncated: its samples end at byte {self._starts[-1]} of {size}")
        self.columns = _columns(file.read(int(self._starts[0]) - before))

    def __len__(self) -> int:
        return -(-(len(self._starts) - 1) // _GROUP_ROWS)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns."""
        return pa.schema([column.field for column in self.columns])

    def num_rows(self, group: int) -> int:
        return len(self._of(group))

    def size_bytes(self, group: int) -> int:
        rows = self._of(group)
        return int(self._starts[rows.stop] - self._starts[rows.start])

    def batches(
        self, group: int, names: Sequence[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        rows = self._of(group)
        wanted = [i for i, column in enumerate(self.columns) if column.name in names]
        # Rows without columns cannot be counted.
        wanted = wanted or [0]
        for first in range(rows.start, rows.stop, batch_rows):
            last = min(first + batch_rows, rows.stop)
            self._file.seek(int(self._starts[first]))
            data = self._file.read(int(self._starts[last] - self._starts[first]))
            at = self._starts[first : last + 1] - self._starts[first]
            samples = [self._cut(data[a:b]) for a, b in itertools.pairwise(at)]
            columns = [self.columns[i] for i in wanted]
            arrays = [
                column.array([sample[i] for sample in samples])
                for i, column in zip(wanted, columns, strict=True)
            ]
            schema = pa.schema([column.field for column in columns])
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _of(self, group: int) -> range:
        last = len(self._starts) - 1
        return range(group * _GROUP_ROWS, min((group + 1) * _GROUP_ROWS, last))

    def _read_sizes(self, number: int) -> np.ndarray:
        data = self._file.read(number * SIZE.itemsize)
        if len(data) < number * SIZE.itemsize:
            raise EOFError("is truncated, or no shard of MDS")
        return np.frombuffer(data, SIZE)

    def _cut(self, sample: bytes) -> list[bytes]:
        free = sum(column.size is None for column in self.columns)
        at = free * SIZE.itemsize
        if len(sample) < at:
            raise pa.ArrowInvalid("a sample is shorter than the sizes of its columns")
        sizes = iter(np.frombuffer(sample, SIZE, free).tolist())
        values = []
        for column in self.columns:
            end = at + (next(sizes) if column.size is None else column.size)
            values.append(sample[at:end])
            at = end
        if at != len(sample):
            raise pa.ArrowInvalid(f"a sample of {len(sample)} bytes has columns of {at}")
        return values


def _columns(config: bytes) -> list[Column]:
    try:
        stored = json.loads(config)
        lists = (stored[f"column_{name}"] for name in ("names", "encodings", "sizes"))
        columns = [Column(*values) for values in zip(*lists, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise pa.ArrowInvalid(f"is no shard of MDS: {error!r} in its columns") from error
    if stored.get("version") != 2 or not columns:
        raise pa.ArrowInvalid(f"is of version {stored.get('version')} of MDS, not 2")
    return columns


@contextlib.contextmanager
def _opened(path: str) -> Iterator[_Samples]:
    codec = compression.codec_of(path)
    with damage.naming(path), files.open_read(path) as raw:
        if path.lower().endswith((".br", ".snappy")):
            raise BadFileError(path, "is compressed with another codec than zstd, gz or bz2")
        if codec is None:
            yield _Samples(raw)
            return
        # A compressed shard must be decompressed whole for random access; shards are made to fit in memory.
        with compression.decompressing(raw, codec) as stream:
            yield _Samples(io.BytesIO(b"".join(iter(lambda: stream.read(1 << 20), b""))))


_READER = tables.Reader(_opened)
summarise, num_groups = _READER.summarise, _READER.num_groups
rows, values, selected = _READER.rows, _READER.values, _READER.selected
