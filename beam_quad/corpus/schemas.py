"""One schema for all files: the lossless common type of each column, or JSON text if there is none."""

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.corpus.batches import Columns
from beam_quad.corpus.json_types import (
    MAX_COLUMNS,
    MAX_DEPTH,
    MAX_FIELDS,
    OPEN_REASON,
    Shape,
    Shapes,
    TypesConflictError,
    data_type,
)
from beam_quad.errors import UsageError

PROVENANCE = "beam_quad"
# The column with all other columns as JSON text, for JSON Lines with more columns than a table supports.
OTHER_COLUMNS = "other_columns"

# Metadata of a field whose strings are JSON text; the value is the reason.
_JSON_TEXT = b"beam_quad.json_text"
# Metadata of a field of whole numbers that doubles represent exactly, by the statistics of the files.
_EXACT = b"beam_quad.exact"
# Metadata of a schema: the choice of columns.
_CHOICE = b"beam_quad.columns"
# Metadata of the field of `OTHER_COLUMNS`.
_OTHERS = b"beam_quad.others"
_LEFT_OUT = "!"


def json_text_field(name: str, why: str) -> pa.Field:
    """Makes the field of a column that is carried as JSON text."""
    return pa.field(name, pa.string(), metadata={_JSON_TEXT: why.encode()})


def is_json_text(field: pa.Field) -> bool:
    """Tells whether the strings of a column are JSON text."""
    return _JSON_TEXT in (field.metadata or {})


def holds_others(field: pa.Field) -> bool:
    """Tells whether a column holds the members of JSON Lines rows without their own column."""
    return _OTHERS in (field.metadata or {})


def why_json_text(field: pa.Field) -> str:
    """Returns the conflicting types of a column that is carried as JSON text."""
    return (field.metadata or {})[_JSON_TEXT].decode()


def exact_field(field: pa.Field) -> pa.Field:
    """Marks a field of whole numbers that doubles represent exactly."""
    return field.with_metadata({_EXACT: b"1"})


@dataclasses.dataclass(frozen=True)
class Choice:
    """The choice of columns that are carried to the output.

    Args:
      patterns: Globs of column names to carry, by default all; a glob with `!` before it leaves columns out.
      read: The columns that the run reads, which are always carried.
    """

    patterns: tuple[str, ...] = ()
    read: tuple[str, ...] = ()

    def keeps(self, name: str) -> bool:
        """Tells whether a column is carried."""
        if any(read == name or read.startswith(f"{name}.") for read in self.read):
            return True
        wanted = [pattern for pattern in self.patterns if not pattern.startswith(_LEFT_OUT)]
        unwanted = [pattern[1:] for pattern in self.patterns if pattern.startswith(_LEFT_OUT)]
        return (not wanted or _matches(wanted, name)) and not _matches(unwanted, name)

    def check(self, names: Sequence[str]) -> None:
        """Refuses a pattern without a wildcard that matches no column; a wildcard may match columns of later rows.

        Raises:
          UsageError: With the existing columns.
        """
        for pattern in self.patterns:
            name = pattern.removeprefix(_LEFT_OUT)
            if name not in names and not any(c in name for c in "*?["):
                raise UsageError(
                    f"--columns: no column is named {name!r}; there are: {', '.join(names)}"
                )

    def noted(self, schema: pa.Schema) -> pa.Schema:
        """Stores the choice in a schema's metadata; see `choice_of`."""
        return schema.with_metadata({_CHOICE: json.dumps(dataclasses.astuple(self))})


def choice_of(schema: pa.Schema) -> Choice:
    """Reads the choice stored in a schema; all columns if none is stored."""
    noted = (schema.metadata or {}).get(_CHOICE)
    return Choice(*map(tuple, json.loads(noted))) if noted else Choice()


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class _Column:
    """The type of a column across files; None, with the reason `why`, if the column must be JSON text."""

    type: pa.DataType | None
    is_exact: bool
    owner: str
    why: str = ""

    def field(self, name: str) -> pa.Field:
        if self.type is None:
            return json_text_field(name, self.why)
        field = pa.field(name, self.type)
        return exact_field(field) if self.is_exact and _is_whole(self.type) else field


def unify(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """Unifies the schemas of files: all columns, in order of first appearance, nullable at every depth.

    A column has the narrowest type that represents the values of all files without loss, or JSON text if there is none.

    Args:
      schemas: Name and schema of every file.
    """
    first_of: dict[bytes, tuple[str, pa.Schema]] = {}
    for owner, schema in schemas:
        # Serialised, because equality of schemas ignores their metadata.
        first_of.setdefault(bytes(schema.serialize()), (owner, schema))
    merged: dict[str, _Column] = {}
    types: dict[str, dict[pa.DataType, None]] = {}
    for owner, schema in first_of.values():
        for field in schema:
            column = _column(field, owner)
            known = merged.get(field.name)
            merged[field.name] = column if known is None else _join(known, column)
            types.setdefault(field.name, {})[field.type] = None
    fields = [_checked(column, types[name]).field(name) for name, column in merged.items()]
    everywhere = [set(schema.names) for _, schema in first_of.values()]
    return pa.schema([f if all(f.name in n for n in everywhere) else _lackable(f) for f in fields])


def _lackable(field: pa.Field) -> pa.Field:
    # Arrow can write a null fixed-size list to Parquet but cannot read it back.
    return field if is_json_text(field) else field.with_type(nullable(field.type, sizes=False))


def _column(field: pa.Field, owner: str) -> _Column:
    if is_json_text(field):
        return _Column(None, False, owner, why_json_text(field))
    if _depth(field.type) > MAX_DEPTH:
        return _Column(None, False, owner, OPEN_REASON)
    is_narrow = _is_whole(field.type) and field.type.bit_width <= 32
    return _Column(nullable(field.type), is_narrow or _EXACT in (field.metadata or {}), owner)


def _join(a: _Column, b: _Column) -> _Column:
    if a.type is None or b.type is None:
        return a if a.type is None else b
    is_exact = all(c.is_exact or not _is_whole(c.type) for c in (a, b))
    joined = join_types(a.type, b.type, is_exact)
    if joined is None:
        why = f"{a.type} in {a.owner} and {b.type} in {b.owner}"
        return _Column(None, False, a.owner, why)
    if _num_fields(joined) > max(MAX_FIELDS, _num_fields(a.type), _num_fields(b.type)):
        return _Column(None, False, a.owner, OPEN_REASON)
    return _Column(joined, is_exact, a.owner if joined == a.type else b.owner)


def _checked(column: _Column, types: Iterable[pa.DataType]) -> _Column:
    """Tries the conversions of the last stage; a type that Arrow or Parquet does not support becomes JSON text."""
    if column.type is None:
        return column
    try:
        for stored in types:
            if stored != column.type:
                pa.nulls(1, stored).cast(column.type)
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([("x", column.type)])).close()
    except pa.ArrowException as error:
        return _Column(None, False, column.owner, str(error).splitlines()[0])
    return column


def _depth(data_type: pa.DataType) -> int:
    fields = [data_type.field(i).type for i in range(data_type.num_fields)]
    return 1 + max(map(_depth, fields)) if fields else 0


def _num_fields(data_type: pa.DataType) -> int:
    fields = [data_type.field(i).type for i in range(data_type.num_fields)]
    return len(fields) * pa.types.is_struct(data_type) + sum(map(_num_fields, fields))


def _is_whole(data_type: pa.DataType | None) -> bool:
    return data_type is not None and bool(pa.types.is_integer(data_type))


def nullable(data_type: pa.DataType, sizes: bool = True) -> pa.DataType:
    """Makes everything inside a type nullable, because struct fields that other files lack become null.

    Args:
      data_type: A type.
      sizes: Whether fixed-size lists keep their size.
    """
    is_type = pa.types
    if is_type.is_struct(data_type):
        return pa.struct([pa.field(f.name, nullable(f.type, sizes)) for f in data_type])
    if is_type.is_map(data_type):
        return pa.map_(nullable(data_type.key_type, sizes), nullable(data_type.item_type, sizes))
    if is_type.is_large_list(data_type) or is_type.is_large_list_view(data_type):
        return pa.large_list(nullable(data_type.value_type, sizes))
    if is_type.is_fixed_size_list(data_type) and sizes:
        return pa.list_(nullable(data_type.value_type), data_type.list_size)
    if _is_list(data_type) or is_type.is_list_view(data_type):
        return pa.list_(nullable(data_type.value_type, sizes))
    return data_type


def join_types(a: pa.DataType, b: pa.DataType, is_exact: bool = False) -> pa.DataType | None:
    """Finds the narrowest type that represents the values of two types without loss; None if there is none.

    Args:
      a: A type, nullable inside.
      b: Another.
      is_exact: Whether doubles represent their 64-bit whole numbers exactly.
    """
    is_type = pa.types
    if a == b:
        return a
    if is_type.is_null(a) or is_type.is_null(b):
        return nullable(b if is_type.is_null(a) else a, sizes=False)
    if isinstance(a, pa.BaseExtensionType) or isinstance(b, pa.BaseExtensionType):
        return join_types(getattr(a, "storage_type", a), getattr(b, "storage_type", b), is_exact)
    if is_type.is_dictionary(a) or is_type.is_dictionary(b):
        return _join_dictionaries(a, b)
    if is_type.is_struct(a) and is_type.is_struct(b):
        return _join_structs(a, b)
    if is_type.is_map(a) and is_type.is_map(b):
        key, item = join_types(a.key_type, b.key_type), join_types(a.item_type, b.item_type)
        return pa.map_(key, item) if key is not None and item is not None else None
    if _is_list(a) and _is_list(b):
        item = join_types(a.value_type, b.value_type)
        is_large = is_type.is_large_list(a) or is_type.is_large_list(b)
        return None if item is None else (pa.large_list if is_large else pa.list_)(item)
    if _is_number(a) and _is_number(b):
        return _join_numbers(a, b, is_exact)
    if _is_bytes(a) and _is_bytes(b):
        return _join_bytes(a, b)
    return _join_others(a, b)


def _join_dictionaries(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    values = join_types(_decoded(a), _decoded(b))
    if values is not None and pa.types.is_dictionary(a) and pa.types.is_dictionary(b):
        return pa.dictionary(pa.int32(), values)
    return values


def _join_structs(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    types = [{field.name: field.type for field in struct} for struct in (a, b)]
    fields = []
    for name in dict.fromkeys(name for known in types for name in known):
        joined = join_types(*(known.get(name, pa.null()) for known in types))
        if joined is None:
            return None
        fields.append((name, joined))
    return pa.struct(fields)


def _is_list(data_type: pa.DataType) -> bool:
    is_type = pa.types
    return (
        is_type.is_list(data_type)
        or is_type.is_large_list(data_type)
        or is_type.is_fixed_size_list(data_type)
    )


def _is_number(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(data_type) or pa.types.is_floating(data_type))


def _join_numbers(a: pa.DataType, b: pa.DataType, is_exact: bool) -> pa.DataType | None:
    is_type = pa.types
    floats = [t for t in (a, b) if is_type.is_floating(t)]
    if len(floats) == 2:
        return max(floats, key=lambda t: t.bit_width)
    if floats:
        whole = b if a == floats[0] else a
        # The narrowest float whose fraction has enough bits for an integer of each width.
        holding = {8: pa.float16(), 16: pa.float32(), 32: pa.float64(), 64: pa.float64()}
        if whole.bit_width == 64 and not is_exact:
            return None
        return max(floats[0], holding[whole.bit_width], key=lambda t: t.bit_width)
    if is_type.is_signed_integer(a) == is_type.is_signed_integer(b):
        return max(a, b, key=lambda t: t.bit_width)
    signed, unsigned = (a, b) if is_type.is_signed_integer(a) else (b, a)
    widths = {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}
    if unsigned.bit_width not in widths:
        return None
    return max(signed, widths[unsigned.bit_width], key=lambda t: t.bit_width)


def _is_bytes(data_type: pa.DataType) -> bool:
    return is_string(data_type) or is_binary(data_type)


def _join_bytes(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    is_large = any(
        pa.types.is_large_string(t)
        or pa.types.is_large_binary(t)
        or pa.types.is_string_view(t)
        or pa.types.is_binary_view(t)
        for t in (a, b)
    )
    if is_string(a) and is_string(b):
        return pa.large_string() if is_large else pa.string()
    return pa.large_binary() if is_large else pa.binary()


def _join_others(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    is_type = pa.types
    if is_type.is_timestamp(a) and is_type.is_timestamp(b):
        # Nanoseconds cannot represent the year 9999, a common placeholder (9999-12-31).
        is_safe = a.tz == b.tz and "ns" not in (a.unit, b.unit)
    else:
        kinds = (is_type.is_date, is_type.is_time, is_type.is_decimal)
        is_safe = any(kind(a) and kind(b) for kind in kinds)
    if not is_safe:
        return None
    try:
        pair = [pa.schema([("", t)]) for t in (a, b)]
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _decoded(data_type: pa.DataType) -> pa.DataType:
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def carried(stored: pa.Schema, shapes: Shapes, choice: Choice, known: pa.Schema) -> pa.Schema:
    """Determines the columns of the output and their types.

    Args:
      stored: The unified schema of the Parquet files.
      shapes: The shapes of the JSON Lines rows.
      choice: The columns to carry.
      known: Known order of columns and of the fields inside them; others follow, by name.
    """
    late = {*stored.names, *shapes.columns}.difference(known.names)
    names = [name for name in (*known.names, *sorted(late)) if choice.keeps(name)]
    if not shapes.is_open:
        fields = [_carried_field(name, stored, shapes, known) for name in names]
        # Every selected text was decoded as UTF-8, even if it is stored as bytes.
        fields = [_as_text(f) if f.name in choice.read[:1] else f for f in fields]
        return choice.noted(pa.schema(fields))
    # JSON Lines rows get one column besides the text, and use columns of the Parquet files for values that fit.
    fields = []
    # If no row has a name with dots as a column, the name is a field of a struct.
    text = [
        name
        for name in choice.read[:1]
        if name not in stored.names and (name in known.names or "." not in name)
    ]
    for name in dict.fromkeys([*text, *names]):
        pairs = [("Parquet", pa.schema([stored.field(name)]))] if name in stored.names else []
        if name in choice.read[:1]:
            pairs.append(("JSON Lines", pa.schema([(name, pa.string())])))
        if pairs:
            fields.append(_lackable(unify(pairs).field(0)))
    why = f"more than {MAX_COLUMNS:,} columns in rows of JSON Lines"
    other = json_text_field(free_name(OTHER_COLUMNS, stored.names), why)
    other = other.with_metadata({**other.metadata, _OTHERS: b"1"})
    return choice.noted(pa.schema([*fields, other]))


def _as_text(field: pa.Field) -> pa.Field:
    is_large = pa.types.is_large_binary(field.type)
    is_text = not is_binary(field.type) or pa.types.is_fixed_size_binary(field.type)
    return field if is_text else field.with_type(pa.large_string() if is_large else pa.string())


def _carried_field(name: str, stored: pa.Schema, shapes: Shapes, known: pa.Schema) -> pa.Field:
    before = known.field(name).type if name in known.names else pa.null()
    pairs: list[tuple[str, pa.Schema]] = []
    if name in stored.names:
        pairs.append(("Parquet", pa.schema([stored.field(name)])))
        before = stored.field(name).type if pa.types.is_null(before) else before
    if name in shapes.columns:
        field = _field_of(name, shapes.columns[name], before)
        pairs.append(("JSON Lines", pa.schema([field])))
    if not pairs:
        return known.field(name)
    field = unify(pairs).field(0)
    return _lackable(field) if shapes.columns and name not in shapes.columns else field


def _field_of(name: str, shape: Shape, like: pa.DataType) -> pa.Field:
    try:
        field = pa.field(name, data_type(shape, like))
    except TypesConflictError as conflict:
        return json_text_field(name, str(conflict))
    return exact_field(field) if shape.is_exact else field


def free_name(name: str, taken: Iterable[str]) -> str:
    """Finds a free name: the name itself, or the name with a number appended."""
    known, free, number = set(taken), name, 0
    while free in known:
        number += 1
        free = f"{name}_{number}"
    return free


def check_read_columns(
    path: str, columns: Columns, names: Sequence[str], types: Mapping[str, Sequence[pa.DataType]]
) -> None:
    """Refuses a file whose columns cannot have their roles.

    Args:
      path: The file.
      columns: The roles of the columns.
      names: The columns of the file.
      types: All non-null types that occur in each column read; a missing column has no entry.

    Raises:
      UsageError: With one line that names the flag, if a column is missing, the text has no strings, the id neither
        strings nor whole numbers, or the token count or score no numbers.
    """
    roles = (
        _content_role(columns),
        ("prompt", columns.flag("prompt"), columns.prompt, _is_bytes, "not string"),
        ("id", "--id_column", columns.id, _is_id, "neither string nor integer"),
        ("tokens", "--tokens_column", columns.tokens, _is_number, "not integer"),
        ("score", "--score_column", columns.score, _is_score, "not a number"),
    )
    for role, flag, name, is_usable, what in roles:
        if not name:
            continue
        if name not in types:
            raise UsageError(
                f"{path} has no column {name!r}; pass {flag}, one of: {', '.join(names)}"
            )
        found = [_decoded(t) for t in types[name] if not pa.types.is_null(t)]
        if found and not any(map(is_usable, found)):
            raise UsageError(
                f"{path}: the {role} column {name!r} is {found[0]}, {what}; pass another {flag}"
            )


def _content_role(
    columns: Columns,
) -> tuple[str, str, str, Callable[[pa.DataType], bool], str]:
    if columns.messages:
        return "messages", columns.flag("messages"), columns.messages, _is_list, "not a list"
    return "text", columns.flag("text"), columns.text, _is_bytes, "not string"


def _is_score(data_type: pa.DataType) -> bool:
    return _is_number(data_type) or bool(pa.types.is_decimal(data_type))


def _is_id(data_type: pa.DataType) -> bool:
    return _is_bytes(data_type) or bool(pa.types.is_integer(data_type))


def is_string(data_type: pa.DataType) -> bool:
    """Tells whether values of a type are strings."""
    is_type = pa.types
    return (
        is_type.is_string(data_type)
        or is_type.is_large_string(data_type)
        or is_type.is_string_view(data_type)
    )


def is_binary(data_type: pa.DataType) -> bool:
    """Tells whether values of a type are bytes."""
    is_type = pa.types
    return (
        is_type.is_binary(data_type)
        or is_type.is_large_binary(data_type)
        or is_type.is_binary_view(data_type)
        or is_type.is_fixed_size_binary(data_type)
    )
