"""The Arrow types of JSON rows: inferred from the first rows, held against the later ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from beam_quad.io.batches import json_type

Check = Callable[[Any], str | None]

# Types that the Python type alone decides; all others are looked into.
_DECIDED = {pa.string(): str, pa.large_string(): str, pa.bool_(): bool, pa.float64(): float}


class RowFit:
    """Holds parsed rows against a schema.

    A null fits every type. An integer fits a double that represents it exactly; nothing else is converted.

    Args:
      schema: The schema, or the fields of a struct.
      exempt: Fields that may hold anything.
    """

    def __init__(self, schema: Iterable[pa.Field], exempt: Iterable[str] = ()) -> None:
        fields = list(schema)
        self._checks: dict[str, Check] = {f.name: _check_of(f.type) for f in fields}
        self._decided: dict[str, type] = {
            f.name: _DECIDED[f.type] for f in fields if f.type in _DECIDED
        }
        self._checks.update(dict.fromkeys(exempt, lambda value: None))

    def misfit(self, row: Mapping[str, Any]) -> str | None:
        """Says which field of a row does not fit and why; None where all do."""
        checks, decided = self._checks, self._decided
        for name, value in row.items():
            if value is None and name in checks:
                continue
            if type(value) is decided.get(name):
                continue
            if name not in checks:
                return f"field {name!r} ({json_type(value)}) is not in the schema"
            problem = checks[name](value)
            if problem:
                return f"{name}{problem}"
        return None


def _check_of(expected: pa.DataType) -> Check:
    if pa.types.is_struct(expected):
        return _struct_check(expected)
    if pa.types.is_list(expected) or pa.types.is_large_list(expected):
        return _list_check(expected)
    fits = _fits(expected)
    return lambda value: None if value is None or fits(value) else _mismatch(expected, value)


def _mismatch(expected: pa.DataType, value: Any) -> str:
    return f": the schema has {expected}, the row {json_type(value)} {value!r:.60}"


def _fits(expected: pa.DataType) -> Callable[[Any], bool]:
    # Decided here, once for a schema: looking at Arrow types row by row costs more than parsing the rows.
    is_type = pa.types
    if expected in _DECIDED and expected != pa.float64():
        kind = _DECIDED[expected]
        return lambda value: type(value) is kind
    if is_type.is_null(expected):
        return lambda value: value == {}
    if is_type.is_floating(expected):
        return lambda value: type(value) is float or (type(value) is int and float(value) == value)
    if is_type.is_integer(expected):
        low, high = _range_of(expected)
        return lambda value: type(value) is int and low <= value <= high
    if is_type.is_binary(expected) or is_type.is_large_binary(expected):
        return lambda value: type(value) is str
    if is_type.is_decimal(expected):
        return lambda value: type(value) is int and _converts(value, expected)
    return lambda value: False


def _range_of(integers: pa.DataType) -> tuple[int, int]:
    if pa.types.is_signed_integer(integers):
        half: int = 2 ** (integers.bit_width - 1)
        return -half, half - 1
    return 0, 2**integers.bit_width - 1


def _converts(value: int, expected: pa.DataType) -> bool:
    try:
        pa.scalar(value, expected)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _struct_check(expected: pa.StructType) -> Check:
    fit = RowFit(expected)

    def check(value: Any) -> str | None:
        if type(value) is not dict:
            return _mismatch(expected, value)
        problem = fit.misfit(value)
        return f".{problem}" if problem else None

    return check


def _list_check(expected: pa.ListType) -> Check:
    check_item = _check_of(expected.value_type)
    decided = {type(None), _DECIDED.get(expected.value_type, type(None))}

    def check(value: Any) -> str | None:
        if type(value) is not list:
            return _mismatch(expected, value)
        if decided.issuperset(map(type, value)):
            return None
        problems = (check_item(item) for item in value if item is not None)
        problem = next(filter(None, problems), None)
        return f"[]{problem}" if problem else None

    return check


def infer(rows: Iterable[Mapping[str, Any]], text_column: str) -> pa.Schema:
    """Infers a schema from parsed rows; a row that contradicts those before it is left out, to be rejected later.

    Args:
      rows: Parsed JSON objects.
      text_column: Always a string: a text of another type is that row's own fault.
    """
    fields: dict[str, pa.DataType] = {}
    fit = RowFit(())
    for row in rows:
        if fit.misfit(row) is None and row.keys() <= fields.keys():
            continue
        try:
            fields = _merge_fields(fields, _types_of(row, text_column))
        except TypeError:
            continue
        fit = RowFit(
            pa.schema(fields.items()), exempt=[text_column] if text_column in fields else []
        )
    return pa.schema(fields.items())


def _types_of(row: Mapping[str, Any], text_column: str) -> dict[str, pa.DataType]:
    return {n: pa.string() if n == text_column else _type_of(v) for n, v in row.items()}


def _type_of(value: Any) -> pa.DataType:
    # Parquet has no struct without fields: {} says as little as null does.
    if value is None or value == {}:
        return pa.null()
    if type(value) is list:
        merged = pa.null()
        for item in value:
            merged = _merge(merged, _type_of(item))
        return pa.list_(merged)
    if type(value) is dict:
        return pa.struct([(name, _type_of(item)) for name, item in value.items()])
    if type(value) is int:
        return pa.int64() if value < 2**63 else pa.uint64()
    return {bool: pa.bool_(), float: pa.float64(), str: pa.string()}[type(value)]


def _merge(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        merged = _merge_fields({f.name: f.type for f in a}, {f.name: f.type for f in b})
        return pa.struct(merged.items())
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(_merge(a.value_type, b.value_type))
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise TypeError(f"{a} and {b}")


def _merge_fields(
    a: Mapping[str, pa.DataType], b: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    merged = dict(a)
    for name, data_type in b.items():
        merged[name] = _merge(merged[name], data_type) if name in merged else data_type
    return merged


def holds_null(data_type: pa.DataType) -> bool:
    """Tells whether a type is, or holds, one of which only nulls are known."""
    if pa.types.is_null(data_type):
        return True
    return any(holds_null(data_type.field(i).type) for i in range(data_type.num_fields))


def without_empty(value: Any) -> Any:
    """Writes null for {}, at any depth: for columns in which `holds_null`."""
    if type(value) is dict:
        return {name: without_empty(item) for name, item in value.items()} or None
    return [without_empty(item) for item in value] if type(value) is list else value
