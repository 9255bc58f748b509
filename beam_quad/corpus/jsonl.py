"""JSON Lines, plain or compressed, with one row per non-blank line; and tar archives, with samples read as lines."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from beam_quad.artifacts import files, traffic
from beam_quad.corpus import (
    compression,
    damage,
    folders,
    json_rows,
    json_types,
    schemas,
    webdataset,
)
from beam_quad.corpus.batches import (
    Columns,
    Fault,
    RowBatch,
    json_type,
    make_batch,
    value_of,
    values_of,
)
from beam_quad.corpus.cursors import Cursor, Cursors
from beam_quad.corpus.json_types import OutOfRange, Seen, TooDeep
from beam_quad.corpus.summaries import ShardSummary
from beam_quad.errors import BadFileError, UsageError
from beam_quad.records import Reason, Split

EXTENSIONS = re.compile(
    rf"\.(tgz|(jsonl|json|ndjson|tar)(\.({'|'.join(compression.EXTENSIONS)}))?)$", re.IGNORECASE
)

SCHEMA_ROWS = 1000
# A large file is cut only at multiples of this many rows, so that no batch of reading or scoring is cut.
CUT_ROWS = 1 << 14
# Each part skips the rows before it, which would dominate the work of many parts.
MOST_CUTS = 32
_READ_BYTES = 1 << 20
# A shard is read from end to end, so large buffers keep requests few.
_BUFFER_BYTES = 16 << 20
# Planning reads in small pieces, so that it fetches little and sees all intact data of a truncated stream.
_SAMPLE_BYTES = 1 << 12
# Bytes sampled from a large file to estimate its number of rows, by which it may be cut.
_LARGE_BYTES = 64 << 20
_LARGE_SAMPLE_BYTES = 4 << 20
_SELECTED_ROWS = 1024
_SELECTED_BYTES = 64 << 20
# Enough bytes to recognise another kind of file.
_HEAD_BYTES = 64
# A worker reads only a few parts of files at once.
_CURSORS = Cursors(4)
# Arrow types of the values of columns with a role.
_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    dict: pa.struct([]),
    list: pa.list_(pa.null()),
}


def summarise(info: files.FileInfo, columns: Columns) -> ShardSummary:
    """Reads the first rows of a file for its schema, and counts or estimates its rows.

    Raises:
      BadFileError: If the content does not match the extension, or none of the first rows is a JSON object.
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
    # Only binary kinds are refused here, because a row that looks like another text format may just be a bad row.
    if codec is None and (kind := damage.binary_kind(head)):
        what = "tar archive" if webdataset.EXTENSIONS.search(info.path) else "JSON Lines"
        raise BadFileError(info.path, f"is no {what}: by its first bytes it is {kind}")


def _kind(found: str | None, info: files.FileInfo) -> str:
    return found or ("empty" if info.size_bytes == 0 else "not compressed")


def _sample(
    info: files.FileInfo, raw: BinaryIO, stream: BinaryIO, columns: Columns
) -> ShardSummary:
    lines = _read_lines(info.path, stream, _SAMPLE_BYTES)
    head: list[bytes] = []
    rest, is_whole, is_all = 0, False, False
    try:
        head.extend(itertools.islice(lines, SCHEMA_ROWS))
        # All bytes are fetched by now, so the rest is counted rather than estimated.
        if raw.tell() >= info.size_bytes:
            rest, is_whole = sum(1 for _ in lines), True
            is_all = rest == 0
        elif info.size_bytes > _LARGE_BYTES:
            # The decompressor reads far beyond the first rows, so an estimate from them alone would make uneven cuts.
            while raw.tell() < _LARGE_SAMPLE_BYTES and (
                more := sum(1 for _ in itertools.islice(lines, SCHEMA_ROWS))
            ):
                rest += more
    except Exception as error:
        if not damage.is_damage(error):
            raise
        is_all = True
        # The reader reports a truncated file, and `--on_bad_file` decides about it.
        if not head and not damage.is_truncation(error):
            raise BadFileError(info.path, damage.one_line(error)) from error
    _check_is_data(info.path, head, columns, is_all)
    num_rows = len(head) + rest
    if not is_whole:
        num_rows = max(num_rows, round(num_rows * info.size_bytes / max(1, raw.tell())))
    summary = ShardSummary(None, None, num_rows, is_exact=is_whole, is_known=is_all)
    parsed = [row for line in head if isinstance(row := _row(line, columns), dict)]
    if not parsed:
        return summary
    doubt = ""
    try:
        _check_read_columns(info.path, parsed, columns, is_all)
    except UsageError as error:
        if is_all:
            raise
        doubt = str(error)
    seen = Seen()
    _batch(info.path, 0, head, columns, seen)
    return dataclasses.replace(summary, shapes=seen.shapes, doubt=doubt)


def _check_read_columns(
    path: str, rows: list[dict[str, Any]], columns: Columns, is_all: bool
) -> None:
    types: dict[str, list[pa.DataType]] = {}
    for name in columns.names:
        found = {type(value_of(row, name)) for row in rows}
        if found != {type(None)} or any(name in row for row in rows):
            # Null says nothing about the type, so later rows may have any.
            is_known = is_all or type(None) not in found
            types[name] = [_TYPES[kind] for kind in _TYPES if kind in found and is_known]
    names = list(dict.fromkeys(name for row in rows for name in row))
    schemas.check_read_columns(path, columns, names, types)


def _check_is_data(path: str, head: list[bytes], columns: Columns, is_all: bool) -> None:
    """Refuses a file that is another kind of text, or has no row that is a JSON object.

    Args:
      path: The file.
      head: Its first rows.
      columns: The roles of the columns.
      is_all: Whether the file has no other rows; otherwise good rows may follow bad ones.
    """
    if not head:
        return
    num_objects = sum(isinstance(_row(line, columns), dict) for line in head)
    if _opens_array(head[0], num_objects, is_all):
        raise BadFileError(path, "holds a JSON array; write one JSON object a line")
    if num_objects == 0 and (instead := _what_instead(head) or (is_all and _start_of(head))):
        which = "" if is_all else f"first {SCHEMA_ROWS:,} "
        raise BadFileError(path, f"none of its {which}lines is a JSON object: {instead}")


def _what_instead(head: list[bytes]) -> str | None:
    """Names the kind of text whose first lines are not rows, if it is recognisable."""
    first = head[0].strip()
    if kind := damage.kind_of(first):
        return f"it is {kind}"
    if b"\r" in first and _is_object(first.split(b"\r", 1)[0]):
        return r"its lines end as on old Macs (convert them with tr '\r' '\n')"
    if first.startswith(b"{") and _is_json(b"\n".join(head)):
        return "it is one object over many lines (convert it with jq -c .)"
    if first.startswith(b"{") and any(
        _is_object(first[: end + 1]) for end in _ends_of_objects(first)
    ):
        return "its objects follow each other without line ends (convert it with jq -c .)"
    if all(line.lstrip().startswith(b"{'") for line in head):
        return "it holds Python's dicts (write them with json.dumps)"
    return None


def _start_of(head: list[bytes]) -> str:
    first = head[0].strip()
    try:
        first.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8 (convert it with iconv -t UTF-8)"
    return f"it starts with {first[:_HEAD_BYTES].decode(errors='ignore')!r}"


def _is_json(text: bytes) -> bool:
    # The end of a long file is unknown, so only its first line decides.
    if text.split(b"\n", 1)[0].strip() == b"{":
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_object(text: bytes) -> bool:
    try:
        return type(orjson.loads(text)) is dict
    except orjson.JSONDecodeError:
        return False


def _ends_of_objects(line: bytes) -> Iterator[int]:
    return (match.start() for match in itertools.islice(re.finditer(rb"}\s*{", line), 100))


def _opens_array(line: bytes, num_objects: int, is_all: bool) -> bool:
    # A first row like ["a"] is only a bad row. A JSON array over many lines is another format; at most its last line, which
    # has no trailing comma, is an object.
    if not line.lstrip().startswith(b"[") or num_objects > 1:
        return False
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    return is_all and num_objects == 0


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    # A byte order mark at the start is not part of the first row.
    first = stream.read(size)
    yield first.removeprefix(json_rows.BOM)
    while first:
        first = stream.read(size)
        yield first


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    # The pieces of a line are joined once, at its end, to avoid copying a line of 100 MB at every chunk.
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
    return (line for line in lines if line and not line.isspace() and not _is_mark(line))


def _is_mark(line: bytes) -> bool:
    # A lone byte order mark remains if another file was appended to an empty one.
    return len(line) < 8 and line.strip() == json_rows.BOM


def _lines_of(split: Split) -> Iterator[bytes]:
    """Yields the rows of a split; earlier rows are skipped, which costs far less than parsing them."""
    row, lines = _opened(split, split.first_row)
    skip = split.first_row - row
    own = itertools.islice(lines, skip, skip + split.num_groups if split.num_groups else None)
    yield from _with_folders(split.shard, own)
    _leave(split, split.first_row + split.num_groups, lines)


def _with_folders(shard: str, lines: Iterator[bytes]) -> Iterator[bytes]:
    """Adds the columns named by a shard's folders to rows without columns of those names."""
    found = folders.columns_of(shard).items()
    # A missing column is read as null, so null needs no entry.
    named = {name: value for name, value in found if value is not None}
    return (_with(line, named) for line in lines) if named else lines


def _with(line: bytes, named: dict[str, str]) -> bytes:
    line = line.removeprefix(json_rows.BOM).removesuffix(b"\r")
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            row = json_rows.parse_exactly(line)
        except ValueError:
            return line
    if type(row) is dict:
        for name in named:
            if name not in row:
                line = json_rows.splice(line, name, named[name])
    return line


def _opened(split: Split, row: int) -> Cursor:
    """Opens the file of a split, or resumes it where the reader of an earlier part stopped."""
    is_cut = split.first_row > 0 or split.num_groups > 0
    found = _CURSORS.take(f"{split.path} {split.found_version}", row) if is_cut else None
    return found or Cursor(0, lines_of(split.path))


def _leave(split: Split, row: int, lines: Iterator[bytes]) -> None:
    # Nothing follows the last part, or a whole file, so its position is not kept.
    if split.num_groups:
        _CURSORS.leave(f"{split.path} {split.found_version}", Cursor(row, lines))


def lines_of(path: str) -> Iterator[bytes]:
    """Yields the raw rows of a file, without their line ends.

    Raises:
      BadFileError: If the file turns out to be damaged; rows yielded before must not be used.
    """
    codec = compression.codec_of(path)
    with (
        damage.naming(path),
        files.open_read(path, _BUFFER_BYTES) as raw,
        compression.decompressing(raw, codec) as stream,
    ):
        yield from _read_lines(path, stream, _READ_BYTES)


def _read_lines(path: str, stream: BinaryIO, chunk_bytes: int) -> Iterator[bytes]:
    if webdataset.EXTENSIONS.search(path):
        return webdataset.lines(stream)
    return _rows_of(_split_lines(_chunks(stream, chunk_bytes)))


def num_groups(path: str) -> int:
    """Returns 0, because no group of rows can be read independently."""
    return 0


def rows(
    split: Split, columns: Columns, batch_rows: int, seen: Seen | None = None
) -> Iterator[RowBatch]:
    """Reads and checks all rows; see `beam_quad.corpus.rows.read_rows`."""
    lines = _lines_of(split)
    first_row = split.first_row
    while batch := list(itertools.islice(lines, batch_rows)):
        yield _batch(split.shard, first_row, batch, columns, seen)
        first_row += len(batch)


def values(split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
    """Reads a column; see `beam_quad.corpus.formats.Format`."""
    lines, only = _lines_of(split), Columns(name)
    while batch := list(itertools.islice(lines, batch_rows)):
        found = (_row(line, only) for line in batch)
        yield [value_of(row, name) if isinstance(row, dict) else None for row in found]


class _Exact(dict[str, Any]):
    """A row that only `parse_exactly` could read, with its escaped columns."""

    escaped: frozenset[str] = frozenset()


def _batch(
    shard: str, first_row: int, lines: list[bytes], columns: Columns, seen: Seen | None
) -> RowBatch:
    parsed: list[dict[str, Any]] = []
    broken: dict[int, Fault] = {}
    for i, line in enumerate(lines):
        row = _row(line, columns)
        if isinstance(row, tuple):
            broken[i], row = row, {}
        parsed.append(row)
    values = {name: values_of(parsed, name) for name in columns.names}
    if columns.id:
        # orjson rounds a whole number beyond 64 bits to a double.
        for i, value in enumerate(values[columns.id]):
            if type(value) is float:
                values[columns.id][i] = value_of(json_rows.parse_exactly(lines[i]), columns.id)
    batch = make_batch(shard, first_row, values, columns, broken)
    if seen is not None:
        # Rejected rows never reach the output, so they do not affect its types.
        usable = [i for i, reason in enumerate(batch.reasons) if reason is None]
        _add(seen, [lines[i] for i in usable], [parsed[i] for i in usable])
    return batch


def _add(seen: Seen, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    plain = [row for row in parsed if type(row) is dict]
    # Most batches change nothing, and one check of a batch is far cheaper than one of each row.
    is_known = seen.fits(plain)
    if is_known and len(plain) == len(parsed):
        return
    for line, row in zip(lines, parsed, strict=True):
        if isinstance(row, _Exact):
            seen.add(row, row.escaped)
        elif not is_known and not seen.fits([row]):
            seen.add(json_rows.parse_exactly(line))


def _row(line: bytes, columns: Columns) -> dict[str, Any] | Fault:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _unusual(line, columns, error)
    if type(row) is dict:
        return row
    return Reason.MALFORMED_JSON, f"a JSON {json_type(row)}, not an object"


def _unusual(line: bytes, columns: Columns, error: orjson.JSONDecodeError) -> _Exact | Fault:
    try:
        row = json_rows.parse_exactly(line)
    except ValueError:
        return _json_fault(line, error)
    if type(row) is not dict:
        return Reason.MALFORMED_JSON, f"a JSON {json_type(row)}, not an object"
    for name in columns.names:
        value = value_of(row, name)
        if type(value) is TooDeep:
            return Reason.MALFORMED_JSON, str(error)
        if type(value) is str and not json_rows.is_utf8(value):
            return Reason.INVALID_UTF8, _invalid_bytes(line) or "half of a surrogate pair"
    exact = _Exact((json_rows.escaped(name), json_rows.escaped(row[name])) for name in row)
    exact.escaped = frozenset(
        json_rows.escaped(name) for name in row if exact.get(name) is not row[name]
    )
    return exact


def _json_fault(line: bytes, error: orjson.JSONDecodeError) -> Fault:
    if invalid := _invalid_bytes(line):
        return Reason.INVALID_UTF8, invalid
    return Reason.MALFORMED_JSON, str(error)


def _invalid_bytes(line: bytes) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"{error.reason} at byte {error.start}"
    return ""


def lines_at(split: Split, row_numbers: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yields chosen raw rows, without their line ends; see `beam_quad.corpus.rows.read_lines`."""
    wanted = iter(row_numbers.tolist())
    row = next(wanted, None)
    if row is None:
        return
    # A stream cannot be entered at a row, so a few rows cost as much as all.
    traffic.count("bytes_read", split.size_bytes)
    first, lines = _opened(split, row)
    for number, line in enumerate(lines, first):
        if number == row:
            plain = line.removeprefix(json_rows.BOM).removesuffix(b"\r")
            yield number, next(_with_folders(split.shard, iter([plain])))
            row = next(wanted, None)
            if row is None:
                _leave(split, number + 1, lines)
                return
    raise BadFileError(split.path, f"has no row {row}")


def selected(
    split: Split, schema: pa.Schema, row_numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads chosen rows with all columns; see `beam_quad.corpus.rows.read_selected`."""
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
        parsed = list(map(_carried_row, lines))
        texts: list[dict[str, str]] = []
        if any(map(schemas.is_json_text, schema)):
            texts = list(map(json_rows.json_texts, lines))
        if any(map(schemas.holds_others, schema)):
            # Exact parsing, because orjson rounds a whole number beyond 64 bits to a double, which a column might accept.
            parsed = [json_rows.escaped(json_rows.parse_exactly(line)) for line in lines]
            for row, text in zip(parsed, texts, strict=True):
                _set_apart(row, text, schema)
        arrays = []
        for field in schema:
            if schemas.holds_others(field):
                arrays.append(pa.array(_others(texts, schema), field.type))
            elif schemas.is_json_text(field):
                values = (row.get(field.name) for row in texts)
                arrays.append(pa.array([None if v == "null" else v for v in values], field.type))
            else:
                arrays.append(_array([row.get(field.name) for row in parsed], field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _carried_row(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json_rows.escaped(json_rows.parse_exactly(line))


def _array(values: list[Any], data_type: pa.DataType) -> pa.Array:
    if all(value is None for value in values):
        return pa.nulls(len(values), data_type)
    if json_types.holds_null(data_type):
        values = list(map(json_types.without_empty, values))
    return pa.array(values, type=data_type)


def _set_apart(row: dict[str, Any], texts: dict[str, str], schema: pa.Schema) -> None:
    """Keeps each value once: parsed if it has a column, else as text for the column of all others."""
    for field in schema:
        if field.name in row and not schemas.is_json_text(field):
            if _fits(row[field.name], field.type):
                texts.pop(field.name, None)
            else:
                del row[field.name]


def _fits(value: Any, data_type: pa.DataType) -> bool:
    if type(value) is str and (schemas.is_string(data_type) or schemas.is_binary(data_type)):
        return not pa.types.is_fixed_size_binary(data_type)
    if type(value) is OutOfRange:
        return False
    try:
        return bool(pa.array([value], data_type).to_pylist() == [value])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False


def _others(texts: list[dict[str, str]], schema: pa.Schema) -> Iterator[str]:
    choice = schemas.choice_of(schema)
    known = {field.name for field in schema if schemas.is_json_text(field)}
    known.difference_update(field.name for field in schema if schemas.holds_others(field))
    for row in texts:
        yield json_rows.joined(
            {name: text for name, text in row.items() if name not in known and choice.keeps(name)}
        )
