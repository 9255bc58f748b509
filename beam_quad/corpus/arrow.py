"""Arrow IPC: files (Feather) and streams, the format of `save_to_disk` in `datasets`."""

import contextlib
import dataclasses
import io
import os
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from beam_quad.artifacts import files
from beam_quad.corpus import damage, tables

EXTENSIONS = re.compile(r"\.(arrow|arrows|feather|ipc)$", re.IGNORECASE)

_MAGIC = b"ARROW1"
# Since Arrow 0.15 a message starts with this marker, before the size of its metadata.
_CONTINUATION = 0xFFFFFFFF
_DICTIONARY, _RECORD_BATCH = 2, 3
# From an object store the metadata of a message is fetched alone, then all its values at once.
_BUFFER_BYTES = 64 << 10
# Record batches are merged into groups of this many rows, because some writers make batches of single rows.
_GROUP_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class _Message:
    """A message of a stream or file; a file is a stream between two magic strings, with a footer.

    Attributes:
      kind: Arrow's number for the type of its content.
      start: First byte.
      end: First byte of the next message.
      num_rows: Rows of a record batch; undefined for other messages.
    """

    kind: int
    start: int
    end: int
    num_rows: int


def _messages(file: BinaryIO) -> Iterator[_Message]:
    """Reads the metadata of all messages, and skips the values.

    Raises:
      EOFError: If the last message is incomplete.
    """
    size = file.seek(0, os.SEEK_END)
    at = _start(file, size)
    while at < size:
        file.seek(at)
        head = _exactly(file, 4)
        prefix_bytes = 4
        if struct.unpack("<I", head)[0] == _CONTINUATION:
            head, prefix_bytes = _exactly(file, 4), 8
        metadata_bytes = struct.unpack("<I", head)[0]
        # An empty message ends a stream; a file has its footer after it.
        if metadata_bytes == 0:
            return
        kind, body_bytes, num_rows = _described(_exactly(file, metadata_bytes))
        end = at + prefix_bytes + metadata_bytes + body_bytes
        if end > size:
            raise EOFError(f"is truncated: a message ends at byte {end} of {size}")
        yield _Message(kind, at, end, num_rows)
        at = end


def _start(file: BinaryIO, size: int) -> int:
    """Finds the first message."""
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        return 0
    file.seek(max(0, size - len(_MAGIC)))
    if file.read(len(_MAGIC)) != _MAGIC:
        raise EOFError("is truncated: no magic ends it")
    # The magic is padded to eight bytes.
    return 8


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("is truncated within the metadata of a message")
    return data


def _described(metadata: bytes) -> tuple[int, int, int]:
    """Reads the kind of a message, the size of its values and its rows; Arrow's own reader would read the values too.

    By Arrow's `Message.fbs`, field 1 of the table Message is the kind, field 2 the contained table and field 3 the size of the
    body; field 0 of RecordBatch is the number of rows. Any number may be omitted if it is 0.
    """
    try:
        message = struct.unpack_from("<I", metadata)[0]
        kind = _field(metadata, message, 1, "<B")
        body_bytes = _field(metadata, message, 3, "<q")
        held = _place(metadata, message, 2)
        num_rows = 0
        if kind == _RECORD_BATCH and held is not None:
            held += struct.unpack_from("<I", metadata, held)[0]
            num_rows = _field(metadata, held, 0, "<q")
    except struct.error as error:
        raise pa.ArrowInvalid(f"no metadata of a message: {error}") from error
    if body_bytes < 0 or num_rows < 0:
        raise pa.ArrowInvalid(f"no message has {body_bytes} bytes and {num_rows} rows")
    return kind, body_bytes, num_rows


def _place(data: bytes, table: int, field: int) -> int | None:
    """Finds a field of a FlatBuffers table; None if it is omitted."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * field
    if entry >= struct.unpack_from("<H", data, entries)[0]:
        return None
    offset = struct.unpack_from("<H", data, entries + entry)[0]
    return table + offset if offset else None


def _field(data: bytes, table: int, field: int, form: str) -> int:
    place = _place(data, table, field)
    return 0 if place is None else int(struct.unpack_from(form, data, place)[0])


class _Pieces(io.RawIOBase):
    """Some messages of a file, read as a separate stream.

    Args:
      file: The file.
      messages: The messages, in order.
    """

    def __init__(self, file: BinaryIO, messages: Sequence[_Message]) -> None:
        self._file = file
        self._messages = list(reversed(messages))
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._messages and self._at >= self._messages[-1].end:
            self._messages.pop()
            self._at = 0
        if not self._messages:
            return 0
        message = self._messages[-1]
        self._at = max(self._at, message.start)
        self._file.seek(self._at)
        data = self._file.read(min(len(buffer), message.end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _RecordBatches:
    """The record batches of an open file, in groups; see `tables.Groups`.

    Args:
      file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._messages = list(_messages(file))
        if not self._messages:
            raise pa.ArrowInvalid("it has no schema")
        if self._messages[0].start:
            # Dictionaries apply to all batches of a file regardless of position, but in a stream only to later batches.
            self._messages.sort(key=lambda message: message.kind)
        self.schema = pa.ipc.open_stream(_Pieces(file, self._messages[:1])).schema
        self._groups = list(_grouped(self._messages))

    def __len__(self) -> int:
        return len(self._groups)

    def num_rows(self, group: int) -> int:
        return sum(message.num_rows for message in self._of(group))

    def size_bytes(self, group: int) -> int:
        return sum(message.end - message.start for message in self._of(group))

    def batches(
        self, group: int, names: Sequence[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        start, end = self._groups[group]
        before = [m for m in self._messages[:start] if m.kind != _RECORD_BATCH]
        fields = [
            i
            for i, field in enumerate(self.schema)
            if any(f"{name}.".startswith(f"{field.name}.") for name in names)
        ]
        # An empty list would select every field, and rows without columns cannot be counted.
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=fields or [0])
        pieces = _Pieces(self._file, [*before, *self._messages[start:end]])
        for batch in pa.ipc.open_stream(pieces, options=options):
            batch.validate()
            yield batch

    def _of(self, group: int) -> list[_Message]:
        return self._messages[slice(*self._groups[group])]


def _grouped(messages: Sequence[_Message]) -> Iterator[tuple[int, int]]:
    """Groups record batches; yields the first message of each group and the one after its last."""
    start = num_rows = 0
    for at, message in enumerate(messages):
        num_rows += message.num_rows
        if num_rows >= _GROUP_ROWS:
            yield start, at + 1
            start, num_rows = at + 1, 0
    if num_rows:
        yield start, len(messages)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[_RecordBatches]:
    with damage.naming(path), files.open_read(path, _BUFFER_BYTES) as file:
        yield _RecordBatches(file)


_READER = tables.Reader(_opened, "Arrow", _MAGIC)
summarise, num_groups = _READER.summarise, _READER.num_groups
rows, values, selected = _READER.rows, _READER.values, _READER.selected
