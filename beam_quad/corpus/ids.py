"""Lists of example ids: text with one id a line, or a column of Parquet or JSON Lines."""

from collections.abc import Iterator, Sequence
from typing import Any

from beam_quad.artifacts import files
from beam_quad.corpus import formats, txt
from beam_quad.errors import BadFileError, UsageError
from beam_quad.records import Split

# The column that a selection names its examples by.
EXAMPLE_ID = "example_id"
_BATCH_ROWS = 1 << 16


def read_ids(path: str, names: Sequence[str]) -> list[str]:
    """Reads a list of ids.

    Args:
      path: Text with one id a line, stripped, with blank lines ignored; or Parquet or JSON Lines with an id in every row.
      names: Columns that may hold the ids, or with dots fields of structs; the first one in the file is read.

    Returns:
      The ids in order, at least one.

    Raises:
      UsageError: With one line that names the file, if it is unreadable, lacks such a column, has no ids, or has a row
        without an id.
    """
    try:
        ids = _lines(path) if txt.EXTENSIONS.search(path) else _column(path, names)
    except BadFileError as error:
        raise UsageError(f"{error.path}: {error.detail}; repair the file") from error
    if not ids:
        raise UsageError(f"{path}: holds no id; leave it out")
    return ids


def _lines(path: str) -> list[str]:
    try:
        # With or without a byte order mark, which would become part of the first id.
        text = files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFileError(path, f"is not UTF-8: {error.reason} at byte {error.start}") from error
    # Not `splitlines`, because an id may contain other line breaks of Unicode.
    return [line for line in map(str.strip, text.split("\n")) if line]


def _column(path: str, names: Sequence[str]) -> list[str]:
    split, is_empty = _whole(path), True
    for name in names:
        found = list(_values(split, name))
        if any(value is not None for value in found):
            return [_id(path, row, name, value) for row, value in enumerate(found)]
        is_empty = not found
    if is_empty:
        return []
    columns = " or ".join(map(repr, names))
    raise UsageError(
        f"{path}: no row has an id in the column {columns}; name it so, or pass --id_column"
    )


def _id(path: str, row: int, name: str, value: Any) -> str:
    # A bad row fails the whole list: a partial list would miss examples that must be excluded.
    if type(value) is str and value:
        return value
    if type(value) is int:
        return str(value)
    raise UsageError(f"{path}: row {row} has no id in the column {name!r}; mend or remove the row")


def _values(split: Split, name: str) -> Iterator[Any]:
    for values in formats.format_of(split.path).values(split, name, _BATCH_ROWS):
        yield from values


def _whole(path: str) -> Split:
    """Makes a split that covers a whole file."""
    return Split(path, 0, formats.format_of(path).num_groups(path), 0, -1, path, 0, "")
