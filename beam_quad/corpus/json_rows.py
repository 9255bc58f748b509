"""Rows as JSON: parses lines, splits them into members, joins members, and dumps Arrow rows."""

import base64
import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import orjson
import pyarrow as pa

from beam_quad.corpus.json_types import MAX_DEPTH, OutOfRange, TooDeep
from beam_quad.corpus.schemas import is_json_text, is_string

BOM = b"\xef\xbb\xbf"
# Python's int() refuses more than 4,300 digits, and no type holds 20.
_MOST_DIGITS = 40

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"[^,\]} \t\n\r]+")
_BRACKET = re.compile(r'["\[\]{}]')
# Bytes that are not UTF-8, as decoded by `surrogateescape`, and lone surrogates from JSON escapes.
_RAW_BYTE = re.compile("[\udc80-\udcff]")
_HALF = re.compile("[\ud800-\udfff]")


def parse_exactly(line: bytes) -> Any:
    """Parses a row of Python's dialect of JSON: NaN and Infinity, whole numbers of any size, and bytes that are not UTF-8.

    Returns:
      The value. Strings may contain lone surrogates; a number beyond the range of doubles is `OutOfRange`; a column nested
      beyond Python's recursion limit is `TooDeep`.

    Raises:
      ValueError: If it is no JSON.
    """
    text = _text_of(line)
    try:
        return _loads(text)
    except RecursionError:
        return {name: _loads_shallow(value) for name, _, value in members(text)}


def _text_of(line: bytes) -> str:
    return line.removeprefix(BOM).decode("utf-8", "surrogateescape")


def _whole(digits: str) -> int | OutOfRange:
    return int(digits) if len(digits) <= _MOST_DIGITS else OutOfRange(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    return value if abs(value) != float("inf") else OutOfRange(value)


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_whole, parse_float=_fraction)


def _loads_shallow(text: str) -> Any:
    try:
        return _loads(text)
    except RecursionError:
        return TooDeep()


def is_utf8(text: str) -> bool:
    """Tells whether a string from `parse_exactly` can be written as UTF-8."""
    return _HALF.search(text) is None


def escaped(value: Any, levels: int = MAX_DEPTH) -> Any:
    r"""Writes bytes that are not UTF-8 as `\xNN` and lone surrogates as `\uNNNN` in all strings of a value.

    Args:
      value: A value from `parse_exactly`.
      levels: Maximum depth; deeper values stay unchanged.

    Returns:
      The value itself if there is nothing to escape.
    """
    kind = type(value)
    if levels == 0:
        return value
    if kind is str:
        if is_utf8(value):
            return value
        # Raw bytes first: as `surrogateescape` decodes them, they are lone surrogates too.
        value = _RAW_BYTE.sub(lambda found: rf"\x{ord(found[0]) - 0xDC00:02x}", value)
        return _HALF.sub(lambda found: rf"\u{ord(found[0]):04x}", value)
    if kind is dict:
        items = {escaped(name): escaped(item, levels - 1) for name, item in value.items()}
        is_same = items.keys() == value.keys() and all(items[name] is value[name] for name in items)
        return value if is_same else items
    if kind is list:
        new = [escaped(item, levels - 1) for item in value]
        return value if all(a is b for a, b in zip(new, value, strict=True)) else new
    return value


def members(text: str) -> Iterator[tuple[str, str, str]]:
    """Splits a JSON object into its members, at any depth of nesting.

    Args:
      text: One JSON object.

    Yields:
      Name, raw name and raw value of each member, in order; names may repeat.

    Raises:
      ValueError: If the text is not a JSON object. The inside of values is not checked.
    """
    at = _skip(text, _expect(text, _skip(text, 0), "{"))
    while text[at : at + 1] != "}":
        name, end = scanstring(text, _expect(text, at, '"'), True)
        written = text[at:end]
        at = _skip(text, _expect(text, _skip(text, end), ":"))
        end = _value_end(text, at)
        yield name, written, text[at:end]
        at = _skip(text, end)
        if text[at : at + 1] != "}":
            at = _skip(text, _expect(text, at, ","))
            if text[at : at + 1] == "}":
                raise ValueError(f"a comma before the end at character {at}")
    if text[at + 1 :].strip(" \t\r\n"):
        raise ValueError(f"more than one value, the second at character {at + 1}")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character} at character {at}")
    return at + 1


def _value_end(text: str, at: int) -> int:
    if text[at : at + 1] not in ('"', "[", "{"):
        found = _SCALAR.match(text, at)
        if not found:
            raise ValueError(f"expected a value at character {at}")
        return found.end()
    depth = 0
    while found := _BRACKET.search(text, at):
        at = found.end()
        if found[0] == '"':
            at = scanstring(text, at, True)[1]
        else:
            depth += 1 if found[0] in "[{" else -1
        if depth == 0:
            return at
    raise ValueError("unexpected end of the value")


def json_texts(line: bytes) -> dict[str, str]:
    """Returns the members of a row as raw JSON text; bytes that are not UTF-8 are escaped.

    Raises:
      ValueError: If the line is no JSON object.
    """
    return {
        escaped(name): _RAW_BYTE.sub(lambda found: rf"\\x{ord(found[0]) - 0xDC00:02x}", value)
        for name, _, value in members(_text_of(line))
    }


def joined(texts: Mapping[str, str]) -> str:
    """Joins members, with values as JSON text, into an object."""
    return "{" + ", ".join(f"{_dumps(name)}: {text}" for name, text in texts.items()) + "}"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def rewritten(line: bytes, name_of: Callable[[str], str | None]) -> bytes:
    """Renames and drops members of a row; all others keep their bytes.

    Args:
      line: One JSON object.
      name_of: Maps a member's name to its new name, or to None to drop it.

    Raises:
      ValueError: If the line is no JSON object.
    """
    kept = []
    for name, written, value in members(_text_of(line)):
        new = name_of(name)
        if new is not None:
            kept.append(f"{written if new == name else _dumps(new)}: {value}")
    return ("{" + ", ".join(kept) + "}").encode("utf-8", "surrogateescape")


def splice(line: bytes, name: str, value: Any) -> bytes:
    """Adds a key to a JSON object without parsing or changing the rest.

    Args:
      line: One JSON object.
      name: The key, which the object must not have.
      value: A value that `orjson` can dump.

    Raises:
      ValueError: If the line does not begin and end like a JSON object.
    """
    row = line.rstrip()
    if not (row.lstrip().startswith(b"{") and row.endswith(b"}")):
        raise ValueError(f"not a JSON object: {line!r:.80}")
    comma = b"," if row.lstrip()[1:-1].strip() else b""
    return row[:-1] + comma + orjson.dumps(name) + b":" + orjson.dumps(value) + b"}"


def dump_rows(batch: pa.RecordBatch) -> Iterator[bytes]:
    r"""Dumps every row as a JSON object.

    Bytes become base64, decimals strings, dates and times ISO 8601, maps lists of pairs, durations numbers in the column's
    unit, and non-finite floats null. Invalid UTF-8 bytes of a string column are written as `\xNN`. A column of JSON text
    becomes the JSON value.
    """
    names = batch.schema.names
    columns = [
        map(_fragment, column.to_pylist()) if is_json_text(field) else _values(column)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]
    for values in zip(*columns, strict=True):
        yield orjson.dumps(dict(zip(names, values, strict=True)), default=_plain)


def _fragment(text: str | None) -> Any:
    return None if text is None else orjson.Fragment(text)


def as_json_text(column: pa.Array) -> pa.Array:
    """Writes every value as JSON text like `dump_rows`, except NaN and Infinity as in Python; null stays null."""
    return pa.array(
        [None if value is None else _dumps(value) for value in _values(column)], pa.string()
    )


def _values(column: pa.Array) -> list[Any]:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    try:
        return column.cast(_json_type(column.type, exact_times=False)).to_pylist()
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(_undecoded(column.type)).to_pylist()]
    except (ValueError, OverflowError):
        # Python's datetime has no nanoseconds and no years above 9999, but Arrow can write both.
        return column.cast(_json_type(column.type, exact_times=True)).to_pylist()


def _undecoded(data_type: pa.DataType) -> pa.DataType:
    """Replaces string types by binary types at any depth."""
    is_type = pa.types
    if is_type.is_struct(data_type):
        return pa.struct([f.with_type(_undecoded(f.type)) for f in data_type])
    if is_type.is_map(data_type):
        return pa.map_(_undecoded(data_type.key_type), _undecoded(data_type.item_type))
    if is_type.is_list(data_type):
        return pa.list_(_undecoded(data_type.value_type))
    if is_type.is_large_list(data_type):
        return pa.large_list(_undecoded(data_type.value_type))
    if is_type.is_dictionary(data_type):
        return _undecoded(data_type.value_type)
    return pa.large_binary() if is_string(data_type) else data_type


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_decoded(name): _decoded(item) for name, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _json_type(data_type: pa.DataType, exact_times: bool) -> pa.DataType:
    is_type = pa.types
    if is_type.is_dictionary(data_type):
        return _json_type(data_type.value_type, exact_times)
    if is_type.is_struct(data_type):
        return pa.struct([f.with_type(_json_type(f.type, exact_times)) for f in data_type])
    if is_type.is_list(data_type):
        return pa.list_(_json_type(data_type.value_type, exact_times))
    if is_type.is_large_list(data_type):
        return pa.large_list(_json_type(data_type.value_type, exact_times))
    if is_type.is_timestamp(data_type):
        return pa.string() if exact_times else pa.timestamp("us", data_type.tz)
    if is_type.is_decimal(data_type) or is_type.is_time(data_type):
        return pa.string()
    if is_type.is_date(data_type) and exact_times:
        return pa.string()
    return pa.int64() if is_type.is_duration(data_type) else data_type


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)
