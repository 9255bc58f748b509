"""Counts of the licences and languages that the rows of a selection state."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_quad.additive import ByName, Tally
from beam_quad.artifacts import files
from beam_quad.corpus import formats, json_rows, jsonl
from beam_quad.records import NOT_STATED

# Kind of label by the lower-case name of a column or a struct field.
LABELS = {
    "license": "licence",
    "licence": "licence",
    "licenses": "licence",
    "license_type": "licence",
    "lang": "language",
    "language": "language",
}
_MAX_CHARACTERS = 80
# A column of more values names something else, as a link to the terms of each page.
_MOST_VALUES = 10_000
_TOO_MANY = f"more than {_MOST_VALUES:,} values"


@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """Rows by value of a column. An additive statistic, bounded.

    Attributes:
      counts: Rows by value; if there are too many values, all rows count under a name that says so.
    """

    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # Part of a column has no more values than the whole, so that any order of addition gives the same sum.
        if len(self.counts) > _MOST_VALUES or _TOO_MANY in self.counts:
            object.__setattr__(self, "counts", {_TOO_MANY: sum(self.counts.values())})

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        return LabelCounts((Tally(self.counts) + Tally(other.counts)).counts)


def label_columns(schema: pa.Schema) -> list[str]:
    """Finds the columns that name a licence or a language; a struct field is written `meta.license`."""
    return [path for path, name in _paths(schema, "") if name.lower() in LABELS]


def kind_of(column: str) -> str:
    """Returns the kind of a column from `label_columns`: `licence` or `language`."""
    return LABELS[column.rpartition(".")[2].lower()]


def count_labels(path: str, columns: Iterable[str]) -> ByName[LabelCounts]:
    """Counts the values of columns.

    Args:
      path: A part of a selection.
      columns: Names from `label_columns`; a row may lack a column.

    Returns:
      Rows by column and value; empty for a format without columns.
    """
    columns = list(columns)
    if not columns:
        return ByName()
    if path.endswith(".parquet"):
        return _count_parquet(path, columns)
    if formats.is_jsonl(path):
        return _count_jsonl(path, columns)
    return ByName()


def _paths(fields: Iterable[pa.Field], prefix: str) -> Iterator[tuple[str, str]]:
    for field in fields:
        if "." in field.name:
            continue
        if pa.types.is_struct(field.type):
            yield from _paths(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.name


def _count_parquet(path: str, columns: list[str]) -> ByName[LabelCounts]:
    with files.open_read(path) as file:
        parquet = pq.ParquetFile(file)
        columns = [c for c in columns if c.split(".")[0] in parquet.schema_arrow.names]
        counts = ByName({column: LabelCounts() for column in columns})
        for batch in parquet.iter_batches(columns=columns):
            for column in columns:
                first, *rest = column.split(".")
                values = batch.column(first)
                if rest:
                    values = pc.struct_field(values, rest)
                counts += ByName({column: _counted(values.to_pylist())})
    return counts


def _count_jsonl(path: str, columns: list[str]) -> ByName[LabelCounts]:
    found: dict[str, collections.Counter[str]] = {c: collections.Counter() for c in columns}
    for line in jsonl.lines_of(path):
        row = _parsed(line)
        for column, counter in found.items():
            value: Any = row
            for name in column.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            counter[_text(value)] += 1
    return ByName({column: LabelCounts(dict(counter)) for column, counter in found.items()})


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # Rows are carried unchanged, so they may have NaN, bytes that are not UTF-8, or deep nesting.
        return json_rows.escaped(json_rows.parse_exactly(line))


def _counted(values: list[Any]) -> LabelCounts:
    return LabelCounts(dict(collections.Counter(map(_text, values))))


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = "" if value is None else " ".join(str(value).split())
    return text[:_MAX_CHARACTERS] or NOT_STATED
