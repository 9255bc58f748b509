"""Rows as JSON: Arrow rows dumped, raw lines with one more key."""

import base64
import datetime
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from beam_quad.io.parquet import as_bytes


def splice(line: bytes, name: str, value: Any) -> bytes:
    """Adds a key to a JSON object without touching what it holds.

    Args:
      line: One JSON object in UTF-8.
      name: The key, not one of the object's.
      value: What `orjson` dumps.

    Raises:
      ValueError: If the line is no JSON object.
    """
    row = orjson.loads(line)
    if type(row) is not dict:
        raise ValueError(f"not a JSON object: {line!r:.80}")
    comma = b"," if row else b""
    return line.rstrip()[:-1] + comma + orjson.dumps(name) + b":" + orjson.dumps(value) + b"}"


def dump_rows(batch: pa.RecordBatch) -> Iterator[bytes]:
    r"""Dumps every row as a JSON object.

    Bytes become base64, decimals strings, dates and times ISO 8601, maps lists of pairs, durations numbers in the column's unit,
    floats that are not finite null. Bytes of a string column that are not UTF-8 are written as `\xNN`.
    """
    names = batch.schema.names
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield orjson.dumps(dict(zip(names, values, strict=True)), default=_plain)


def _values(column: pa.Array) -> list[Any]:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    try:
        return column.cast(_json_type(column.type, exact_times=False)).to_pylist()
    except UnicodeDecodeError:
        raw = as_bytes(pa.chunked_array([column])).to_pylist()
        return [None if b is None else b.decode("utf-8", "backslashreplace") for b in raw]
    except (ValueError, OverflowError):
        # Nanoseconds, or a year above 9999: no Python datetime, but Arrow writes it.
        return column.cast(_json_type(column.type, exact_times=True)).to_pylist()


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
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)
