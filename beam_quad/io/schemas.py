"""One schema for all files, or the two files and the column that forbid it."""

from collections.abc import Iterable

import pyarrow as pa

from beam_quad.errors import UsageError
from beam_quad.io.batches import Columns

PROVENANCE = "beam_quad"


def unify(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """Unifies schemas: the columns of all, in order of first appearance, in the widest of their types, nullable.

    Args:
      schemas: Path and schema of every file.

    Raises:
      UsageError: If a column's types in two files have none in common.
    """
    first_of: dict[pa.Schema, str] = {}
    for path, schema in schemas:
        first_of.setdefault(schema, path)
    merged: dict[str, tuple[pa.DataType, str]] = {}
    for schema, path in first_of.items():
        for field in schema:
            known, owner = merged.get(field.name, (field.type, path))
            if known == field.type:
                merged[field.name] = known, owner
            else:
                merged[field.name] = _widest(field, known, owner, path), path
    return pa.schema([pa.field(name, data_type) for name, (data_type, _) in merged.items()])


def _widest(field: pa.Field, known: pa.DataType, owner: str, path: str) -> pa.DataType:
    pair = [pa.schema([(field.name, t)]) for t in _comparable(known, field.type)]
    try:
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise UsageError(
            f"column {field.name!r} is {known} in {owner} and {field.type} in {path}; "
            "convert one of them, or select from them separately"
        ) from error


def _comparable(a: pa.DataType, b: pa.DataType) -> tuple[pa.DataType, pa.DataType]:
    if pa.types.is_dictionary(a) != pa.types.is_dictionary(b):
        a, b = _decoded(a), _decoded(b)
    if pa.types.is_string_view(a) != pa.types.is_string_view(b):
        a, b = (pa.large_string() if pa.types.is_string_view(t) else t for t in (a, b))
    return _nullable(a), _nullable(b)


def _decoded(data_type: pa.DataType) -> pa.DataType:
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def _nullable(data_type: pa.DataType) -> pa.DataType:
    # A field of a struct that another file lacks will be null there.
    if pa.types.is_struct(data_type):
        return pa.struct([pa.field(f.name, _nullable(f.type)) for f in data_type])
    if pa.types.is_list(data_type):
        return pa.list_(_nullable(data_type.value_type))
    if pa.types.is_large_list(data_type):
        return pa.large_list(_nullable(data_type.value_type))
    return data_type


def check_has_columns(path: str, schema: pa.Schema, columns: Columns) -> None:
    """Refuses a file that lacks one of the columns.

    Raises:
      UsageError: With the columns that there are.
    """
    flags = {"text": columns.text, "id": columns.id, "tokens": columns.tokens}
    for flag, name in flags.items():
        if name and name not in schema.names:
            raise UsageError(
                f"{path} has no column {name!r}; pass --{flag}_column, one of: {', '.join(schema.names)}"
            )


def check_types(schema: pa.Schema, columns: Columns) -> None:
    """Refuses columns that cannot be what they are named for.

    Raises:
      UsageError: If the text is not of strings, an id neither string nor integer, tokens no numbers, or a column has
        the name of the one that the output adds.
    """
    if PROVENANCE in schema.names:
        raise UsageError(
            f"the input has a column {PROVENANCE!r}, the name of the one that is added; rename it"
        )
    text_type = schema.field(columns.text).type
    if not is_string(text_type):
        raise UsageError(f"the text column {columns.text!r} is {text_type}, not string")
    if columns.id:
        _check_id(columns.id, schema.field(columns.id).type)
    if columns.tokens:
        _check_tokens(columns.tokens, schema.field(columns.tokens).type)


def is_string(data_type: pa.DataType) -> bool:
    """Tells whether values of a type are strings, dictionary-encoded or not."""
    plain = _decoded(data_type)
    return (
        pa.types.is_string(plain)
        or pa.types.is_large_string(plain)
        or pa.types.is_string_view(plain)
    )


def _check_id(name: str, data_type: pa.DataType) -> None:
    if not (is_string(data_type) or pa.types.is_integer(data_type) or pa.types.is_null(data_type)):
        raise UsageError(f"the id column {name!r} is {data_type}, neither string nor integer")


def _check_tokens(name: str, data_type: pa.DataType) -> None:
    is_number = pa.types.is_integer(data_type) or pa.types.is_floating(data_type)
    if not (is_number or pa.types.is_null(data_type)):
        raise UsageError(f"the tokens column {name!r} is {data_type}, not integer")
