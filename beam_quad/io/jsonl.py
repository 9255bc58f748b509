"""JSON Lines, plain or compressed: a row is a line that is not blank."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from beam_quad.errors import BadFileError
from beam_quad.io import compression, damage, files, json_types
from beam_quad.io.batches import Columns, Fault, RowBatch, json_type, make_batch
from beam_quad.io.summaries import ShardSummary
from beam_quad.records import Reason, Split

EXTENSIONS = re.compile(
    rf"\.(jsonl|json|ndjson)(\.({'|'.join(compression.EXTENSIONS)}))?$", re.IGNORECASE
)

SCHEMA_ROWS = 1000
_READ_BYTES = 1 << 20
# A shard is read from end to end: few requests, whatever is asked for at a time.
_BUFFER_BYTES = 16 << 20
# Small reads while planning: what a truncated stream still holds is seen, and little is fetched for its first rows.
_SAMPLE_BYTES = 1 << 12
_SELECTED_ROWS = 1024
_SELECTED_BYTES = 64 << 20
_BOM = b"\xef\xbb\xbf"
# Enough to tell another kind of file by.
_HEAD_BYTES = 64


def summarise(info: files.FileInfo, columns: Columns) -> ShardSummary:
    """Reads the first rows of a file for its schema, and counts or estimates its rows.

    Raises:
      BadFileError: If the file is not what its name says, or none of its first rows is a JSON object.
    """
    codec = compression.codec_of(info.path)
    with files.open_read(info.path) as raw:
        _check_start(info, raw.read(_HEAD_BYTES), codec)
        raw.seek(0)
        with compression.decompressing(raw, codec) as stream:
            return _sample(info, raw, stream, columns)


def _check_start(info: files.FileInfo, head: bytes, codec: str | None) -> None:
    found = compression.signature_of(head)
    if codec != found and (codec or found):
        kind = None if found else damage.kind_of(head)
        seen, hint = _kind(found, info), f" (it is {kind})" if kind else ""
        raise BadFileError(
            info.path,
            f"is {seen} by its first bytes and {codec or 'not compressed'} by its name{hint}",
        )
    # A row that looks like another text may be but a bad row.
    if codec is None and (kind := damage.binary_kind(head)):
        raise BadFileError(info.path, f"is no JSON Lines: by its first bytes it is {kind}")


def _kind(found: str | None, info: files.FileInfo) -> str:
    return found or ("empty" if info.size_bytes == 0 else "not compressed")


def _sample(
    info: files.FileInfo, raw: BinaryIO, stream: BinaryIO, columns: Columns
) -> ShardSummary:
    lines = _rows_of(_split_lines(_chunks(stream, _SAMPLE_BYTES)))
    head: list[bytes] = []
    rest, is_whole = 0, False
    try:
        head.extend(itertools.islice(lines, SCHEMA_ROWS))
        if raw.tell() >= info.size_bytes:
            rest, is_whole = sum(1 for _ in lines), True
    except Exception as error:
        if not damage.is_damage(error):
            raise
        # A truncated file is for the reader to name, and for `--on_bad_file` to judge.
        if not head and not damage.is_truncation(error):
            raise BadFileError(info.path, damage.one_line(error)) from error
    _check_is_data(info.path, head)
    num_rows = len(head) + rest
    if not is_whole:
        num_rows = max(num_rows, round(num_rows * info.size_bytes / max(1, raw.tell())))
    return ShardSummary(_schema(info.path, head, columns), num_rows, is_exact=is_whole)


def _schema(path: str, head: list[bytes], columns: Columns) -> pa.Schema | None:
    rows = [row for row in map(_parsed, head) if row is not None]
    return json_types.infer(rows, columns.text) if rows else None


def _check_is_data(path: str, head: list[bytes]) -> None:
    """Refuses a file of which none of the first rows is a JSON object."""
    if not head:
        return
    has_row = any(_parsed(line) is not None for line in head)
    if _opens_array(head[0], is_alone=not has_row):
        raise BadFileError(path, "holds a JSON array; write one JSON object a line")
    if not has_row:
        which = f"first {SCHEMA_ROWS:,} " if len(head) == SCHEMA_ROWS else ""
        detail = f"none of its {which}lines is a JSON object"
        raise BadFileError(path, f"{detail}: {_what_instead(head)}")


def _what_instead(head: list[bytes]) -> str:
    first = head[0].strip()
    if kind := damage.kind_of(first):
        return f"it is {kind}"
    if b"\r" in first and _parsed(first.split(b"\r", 1)[0]) is not None:
        return r"its lines end as on old Macs (convert them with tr '\r' '\n')"
    if first.startswith(b"{") and _is_json(b"\n".join(head)):
        return "it is one object over many lines (convert it with jq -c .)"
    if first.startswith(b"{") and any(_parsed(first[: end + 1]) for end in _ends_of_objects(first)):
        return "its objects follow each other without line ends (convert it with jq -c .)"
    if first.startswith(b"{'"):
        return "it holds Python's dicts (write them with json.dumps)"
    try:
        first.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8 (convert it with iconv -t UTF-8)"
    return f"it starts with {first[:_HEAD_BYTES].decode(errors='ignore')!r}"


def _is_json(text: bytes) -> bool:
    # Of a long file the end is not known; its first line alone tells.
    if text.split(b"\n", 1)[0].strip() == b"{":
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _ends_of_objects(line: bytes) -> Iterator[int]:
    return (match.start() for match in itertools.islice(re.finditer(rb"}\s*{", line), 100))


def _opens_array(line: bytes, is_alone: bool) -> bool:
    # A first row like ["a"] is but a bad row; one like [{"text": over many lines is another format.
    if not line.lstrip().startswith(b"["):
        return False
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    return is_alone


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row if type(row) is dict else None


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    # A mark of byte order at the start is no part of the first row.
    first = stream.read(size)
    yield first.removeprefix(_BOM)
    while first:
        first = stream.read(size)
        yield first


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    # The pieces of a line are joined once, at its end: a line of 100 MB is not copied at every chunk.
    pending: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        pending.append(first)
        if others:
            yield b"".join(pending)
            yield from others[:-1]
            pending = [others[-1]]
    yield b"".join(pending)


def _rows_of(lines: Iterator[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line and not line.isspace())


def lines_of(split: Split) -> Iterator[bytes]:
    """Yields the rows of a file as they are, without their line ends.

    Raises:
      BadFileError: Where the file turns out damaged; what was yielded before must not be used.
    """
    codec = compression.codec_of(split.path)
    with (
        damage.naming(split.path),
        files.open_read(split.path, _BUFFER_BYTES) as raw,
        compression.decompressing(raw, codec) as stream,
    ):
        yield from _rows_of(_split_lines(_chunks(stream, _READ_BYTES)))


def rows(split: Split, schema: pa.Schema, columns: Columns, batch_rows: int) -> Iterator[RowBatch]:
    """Reads and checks all rows; see `beam_quad.io.rows.read_rows`."""
    fit = json_types.RowFit(schema, exempt=_judged_apart(columns))
    lines = lines_of(split)
    first_row = 0
    while batch := list(itertools.islice(lines, batch_rows)):
        yield _batch(split.shard, first_row, batch, columns, fit)
        first_row += len(batch)


def _judged_apart(columns: Columns) -> list[str]:
    return [columns.text] + ([columns.tokens] if columns.tokens else [])


def _batch(
    shard: str, first_row: int, lines: list[bytes], columns: Columns, fit: json_types.RowFit
) -> RowBatch:
    values: dict[str, list[Any]] = {name: [] for name in columns.names}
    broken: dict[int, Fault] = {}
    unfit: dict[int, Fault] = {}
    for i, line in enumerate(lines):
        parsed = _row(line)
        row = parsed if isinstance(parsed, dict) else {}
        if isinstance(parsed, tuple):
            broken[i] = parsed
        problem = fit.misfit(row)
        if problem:
            unfit[i] = Reason.SCHEMA_MISMATCH, problem
        for name, column in values.items():
            column.append(row.get(name))
    return make_batch(shard, first_row, values, columns, broken, unfit)


def _row(line: bytes) -> dict[str, Any] | Fault:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _json_fault(line, error)
    if type(row) is dict:
        return row
    return Reason.MALFORMED_JSON, f"a JSON {json_type(row)}, not an object"


def _json_fault(line: bytes, error: orjson.JSONDecodeError) -> Fault:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad_bytes:
        return Reason.INVALID_UTF8, str(bad_bytes.reason) + f" at byte {bad_bytes.start}"
    # JSON may escape half of a surrogate pair, which no UTF-8 text can hold.
    reason = Reason.INVALID_UTF8 if "surrogate" in error.msg else Reason.MALFORMED_JSON
    return reason, str(error)


def lines_at(split: Split, row_numbers: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yields chosen rows as they are, without their line ends; see `beam_quad.io.rows.read_lines`."""
    wanted = iter(row_numbers.tolist())
    row = next(wanted, None)
    if row is None:
        return
    for number, line in enumerate(lines_of(split)):
        if number == row:
            yield number, line.removesuffix(b"\r")
            row = next(wanted, None)
            if row is None:
                return
    raise BadFileError(split.path, f"has no row {row}")


def selected(
    split: Split, schema: pa.Schema, row_numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads chosen rows with all columns; see `beam_quad.io.rows.read_selected`."""
    numbers: list[int] = []
    lines: list[bytes] = []
    size_bytes = 0
    for number, line in lines_at(split, row_numbers):
        numbers.append(number)
        lines.append(line)
        size_bytes += len(line)
        if len(lines) >= _SELECTED_ROWS or size_bytes >= _SELECTED_BYTES:
            yield np.array(numbers, dtype=np.int64), _record_batch(split, schema, lines)
            numbers, lines, size_bytes = [], [], 0
    if lines:
        yield np.array(numbers, dtype=np.int64), _record_batch(split, schema, lines)


def _record_batch(split: Split, schema: pa.Schema, lines: list[bytes]) -> pa.RecordBatch:
    with damage.naming(split.path):
        parsed = [_parsed(line) or {} for line in lines]
        arrays = []
        for field in schema:
            values = [row.get(field.name) for row in parsed]
            if json_types.holds_null(field.type):
                values = list(map(json_types.without_empty, values))
            arrays.append(pa.array(values, type=field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
