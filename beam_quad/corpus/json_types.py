"""Arrow types of JSON rows: the kinds of values in each column are summed over rows, and determine its type."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

Check = Callable[[list[Any]], bool]

# Kinds of values, as bits. A larger whole number implies the smaller kinds of its sign, so the bits determine the type.
_BOOL, _STRING, _STRUCT, _LIST, _DOUBLE = 1, 2, 4, 8, 16
_WHOLE = 32  # any whole number
_NEGATIVE = _WHOLE | 64
_INEXACT = _WHOLE | 128  # one that a double may not hold
_UNSIGNED = _INEXACT | 256  # one beyond int64
_BEYOND = _UNSIGNED | 512  # a number that neither uint64 nor double holds
_ESCAPED = 1024  # bytes or halves of surrogate pairs that UTF-8 cannot hold
_OPEN = 2048  # keys of their own in every row, or nesting, without end

# A struct of thousands of fields takes minutes to write, and readers fail on nesting that rows may well have.
MAX_FIELDS = 256
MAX_DEPTH = 32
MAX_COLUMNS = 1024
OPEN_REASON = f"more than {MAX_FIELDS} fields or {MAX_DEPTH} levels"

_EXACT = 2**53
# orjson reads a whole number beyond 64 bits as a double; a double below this bound cannot be one of them.
_SURELY_DOUBLE = 2.0**63


class OutOfRange(float):
    """A number beyond the range of doubles, or a whole number with too many digits to read."""


class TooDeep:
    """A value nested beyond the parser's limit."""


class TypesConflictError(Exception):
    """Values that no single type represents without loss."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The kinds of values of a column, a field or the items of lists. An additive statistic; null adds nothing.

    Attributes:
      kinds: Bits of the kinds of values.
      fields: Shapes of the values of objects, by key.
      item: Shape of the items of lists.
    """

    kinds: int = 0
    fields: Mapping[str, "Shape"] = dataclasses.field(default_factory=dict)
    item: "Shape | None" = None

    def __add__(self, other: "Shape") -> "Shape":
        kinds = self.kinds | other.kinds
        if kinds & _OPEN:
            # An open shape has no counts of its inside, so the sum has none either.
            return Shape(_OPEN)
        items = [item for item in (self.item, other.item) if item is not None]
        item = functools.reduce(operator.add, items) if items else None
        return Shape(kinds, _sum_by_name(self.fields, other.fields), item)

    @property
    def is_exact(self) -> bool:
        """Whether the values are whole numbers that doubles represent exactly."""
        return not self.kinds & ~_NEGATIVE

    @property
    def is_escaped(self) -> bool:
        """Whether strings are not valid UTF-8, so they are written with escapes."""
        return bool(self.kinds & _ESCAPED)


def _sum_by_name(a: Mapping[str, Shape], b: Mapping[str, Shape]) -> dict[str, Shape]:
    merged = dict(a)
    for name, shape in b.items():
        merged[name] = merged[name] + shape if name in merged else shape
    return merged


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes of the columns of one or more splits. An additive statistic.

    Attributes:
      columns: Shapes by column name; empty if `is_open`.
      is_open: Whether there are more than `MAX_COLUMNS` columns.
    """

    columns: Mapping[str, Shape] = dataclasses.field(default_factory=dict)
    is_open: bool = False

    def __add__(self, other: "Shapes") -> "Shapes":
        columns = dict(self.columns)
        for name, shape in other.columns.items():
            columns[name] = _bounded(columns[name] + shape) if name in columns else shape
        if self.is_open or other.is_open or len(columns) > MAX_COLUMNS:
            return Shapes({}, is_open=True)
        return Shapes(columns)

    def as_json(self, as_found: bool = False) -> dict[str, Any]:
        """Converts the shapes for `json.dumps`; equal sums in any order give equal output.

        Args:
          as_found: Whether names keep the order of first appearance, which is the order of columns.
        """
        order = list if as_found else sorted
        columns = {name: _as_json(shape, order) for name, shape in order(self.columns.items())}
        return {"columns": columns, "is_open": self.is_open}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Shapes":
        """Reads the output of `as_json`."""
        columns = {name: _from_json(shape) for name, shape in stored["columns"].items()}
        return cls(columns, stored["is_open"])


def _as_json(shape: Shape, order: Callable[[Iterable[Any]], list[Any]]) -> list[Any]:
    fields = {name: _as_json(field, order) for name, field in order(shape.fields.items())}
    return [shape.kinds, fields, None if shape.item is None else _as_json(shape.item, order)]


def _from_json(stored: list[Any]) -> Shape:
    kinds, fields, item = stored
    return Shape(
        kinds,
        {name: _from_json(field) for name, field in fields.items()},
        None if item is None else _from_json(item),
    )


def _bounded(shape: Shape) -> Shape:
    return Shape(_OPEN) if _num_fields(shape) > MAX_FIELDS else shape


def _num_fields(shape: Shape) -> int:
    inside = sum(1 + _num_fields(field) for field in shape.fields.values())
    return inside + (_num_fields(shape.item) if shape.item is not None else 0)


def shape_of(value: Any) -> Shape:
    """Returns the shape of a parsed value; `TooDeep` and values beyond the limits have the open shape."""
    try:
        return _bounded(_shape_of(value, MAX_DEPTH))
    except RecursionError:
        return Shape(_OPEN)


def _shape_of(value: Any, levels: int) -> Shape:
    kind = type(value)
    if value is None:
        return Shape()
    if kind is TooDeep or levels == 0:
        return Shape(_OPEN)
    if kind is dict:
        fields = {name: _shape_of(item, levels - 1) for name, item in value.items()}
        is_open = any(field.kinds & _OPEN for field in fields.values())
        return Shape(_OPEN) if is_open else Shape(_STRUCT, fields)
    if kind is list:
        item = _shape_of_items(value, levels - 1)
        return Shape(_OPEN) if item.kinds & _OPEN else Shape(_LIST, item=item)
    return Shape(_kind_of(value))


def _shape_of_items(values: list[Any], levels: int) -> Shape:
    total = Shape()
    check = _check_of(total)
    for value in values:
        if not check([value]):
            total += _shape_of(value, levels)
            check = _check_of(total)
    return total


def _kind_of(value: Any) -> int:
    kind = type(value)
    if kind is int:
        if -_EXACT <= value <= _EXACT:
            return _WHOLE if value >= 0 else _NEGATIVE
        if value < 0:
            return _NEGATIVE | _INEXACT if value >= -(2**63) else _BEYOND
        if value < 2**63:
            return _INEXACT
        return _UNSIGNED if value < 2**64 else _BEYOND
    return {bool: _BOOL, float: _DOUBLE, str: _STRING, OutOfRange: _BEYOND}[kind]


class Seen:
    """Accumulates shapes batch by batch; for rows with known shapes it checks only the types of each column's values."""

    def __init__(self) -> None:
        self.shapes = Shapes()
        self._checks: dict[str, Check] = {}

    def fits(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Tells whether parsed rows leave the shapes unchanged."""
        return _fields_fit(self._checks, rows) or self.shapes.is_open

    def add(self, row: Mapping[str, Any], escaped: frozenset[str] = frozenset()) -> None:
        """Adds a row.

        Args:
          row: A row from `parse_exactly`, because `orjson` rounds whole numbers beyond 64 bits.
          escaped: Columns with escaped values.
        """
        new = {
            name: shape_of(value) + Shape(_ESCAPED * (name in escaped))
            for name, value in row.items()
            if name in escaped or name not in self._checks or not self._checks[name]([value])
        }
        self.shapes += Shapes(new)
        for name in new if not self.shapes.is_open else ():
            self._checks[name] = _check_of(self.shapes.columns[name])


def _fields_fit(checks: Mapping[str, Check], rows: Sequence[Mapping[str, Any]]) -> bool:
    names: set[str] = set().union(*rows)
    return names <= checks.keys() and all(checks[name](_column(rows, name)) for name in names)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    try:
        return list(map(operator.itemgetter(name), rows))
    except KeyError:
        return [row.get(name) for row in rows]


# Deciding once for a shape avoids a lookup for every value, and for most values any Python code.
def _check_of(shape: Shape) -> Check:
    kinds = shape.kinds
    if kinds & _OPEN:
        return lambda values: True
    decided: set[type] = {type(None)}
    decided.update(kind for kind, bit in ((str, _STRING), (bool, _BOOL)) if kinds & bit)
    inside: dict[type, Check] = {}
    if kinds & _WHOLE:
        inside[int] = _range_check(kinds)
    if kinds & _DOUBLE:
        inside[float] = _surely_doubles
    if kinds & _STRUCT:
        fields = {name: _check_of(field) for name, field in shape.fields.items()}
        inside[dict] = lambda values: _fields_fit(fields, values)
    if kinds & _LIST:
        check_items = _check_of(shape.item or Shape())
        inside[list] = lambda values: check_items(list(itertools.chain.from_iterable(values)))

    def check(values: list[Any]) -> bool:
        types = set(map(type, values))
        if types <= decided:
            return True
        if len(types) == 1:
            (only,) = types
            return only in inside and inside[only](values)
        return types <= decided | inside.keys() and all(
            inside[kind]([value for value in values if type(value) is kind])
            for kind in types - decided
        )

    return check


def _surely_doubles(values: list[float]) -> bool:
    return min(values) > -_SURELY_DOUBLE and max(values) < _SURELY_DOUBLE


def _range_check(kinds: int) -> Check:
    high = _EXACT
    if kinds & _INEXACT == _INEXACT:
        high = 2**64 - 1 if kinds & _UNSIGNED == _UNSIGNED else 2**63 - 1
    low = 0
    if kinds & _NEGATIVE == _NEGATIVE:
        low = -_EXACT if high == _EXACT else -(2**63)
    return lambda values: low <= min(values) and max(values) <= high


def data_type(shape: Shape, like: pa.DataType | None = None) -> pa.DataType:
    """Returns the Arrow type that represents every value of a shape without loss.

    Args:
      shape: The shape.
      like: A type whose fields come first, in its order; if it is a double, whole numbers exact in doubles become doubles.

    Raises:
      TypesConflictError: With the kinds that have no common type, or if no type within the limits exists.
    """
    return _data_type(shape, like, "")


def _data_type(shape: Shape, like: pa.DataType | None, path: str) -> pa.DataType:
    kinds = shape.kinds & ~_ESCAPED
    if kinds & _OPEN:
        raise TypesConflictError(OPEN_REASON)
    names = list(_names_of(kinds))
    if len(names) > 1 or kinds & _BEYOND == _BEYOND:
        where = f"{path.removeprefix('.')}: " if path else ""
        raise TypesConflictError(where + " and ".join(names))
    if kinds & _STRUCT:
        known = _fields_of(like)
        order = [
            *(n for n in known if n in shape.fields),
            *(n for n in shape.fields if n not in known),
        ]
        fields = [
            (name, _data_type(shape.fields[name], known.get(name), f"{path}.{name}"))
            for name in order
        ]
        # Parquet has no struct without fields, and {} carries no more information than null.
        return pa.struct(fields) if fields else pa.null()
    if kinds & _LIST:
        inside = getattr(like, "value_type", None)
        return pa.list_(_data_type(shape.item or Shape(), inside, f"{path}[]"))
    if kinds & _WHOLE and shape.is_exact and like is not None and pa.types.is_floating(like):
        return pa.float64()
    if names == ["int64"] and like == pa.uint64() and kinds & _NEGATIVE != _NEGATIVE:
        return pa.uint64()
    return _SCALARS[names[0]] if names else pa.null()


_SCALARS = {
    "bool": pa.bool_(),
    "string": pa.string(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "double": pa.float64(),
}


def _names_of(kinds: int) -> Iterator[str]:
    if kinds & _BOOL:
        yield "bool"
    whole = kinds & _BEYOND
    if whole == _BEYOND:
        yield "numbers beyond 64 bits"
    elif whole & _UNSIGNED == _UNSIGNED:
        yield "uint64"
        if kinds & _NEGATIVE == _NEGATIVE:
            yield "negative int64"
    elif whole and not (kinds & _DOUBLE and whole == _WHOLE):
        yield "int64"
    if kinds & _DOUBLE:
        yield "double"
    for bit, name in ((_STRING, "string"), (_STRUCT, "struct"), (_LIST, "list")):
        if kinds & bit:
            yield name


def _fields_of(data_type: pa.DataType | None) -> dict[str, pa.DataType]:
    if data_type is None or not pa.types.is_struct(data_type):
        return {}
    return {field.name: field.type for field in data_type}


def holds_null(data_type: pa.DataType) -> bool:
    """Tells whether a type is or contains the null type."""
    if pa.types.is_null(data_type):
        return True
    return any(holds_null(data_type.field(i).type) for i in range(data_type.num_fields))


def without_empty(value: Any) -> Any:
    """Replaces {} by null at any depth, for columns whose type `holds_null`."""
    if type(value) is dict:
        return {name: without_empty(item) for name, item in value.items()} or None
    return [without_empty(item) for item in value] if type(value) is list else value
