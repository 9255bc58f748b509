"""Writes the parts of a selection and of the rejected rows, with the same bytes on every run."""

import contextlib
import dataclasses
import itertools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_quad.artifacts import files
from beam_quad.corpus import formats, json_rows, jsonl, rows
from beam_quad.corpus.mds import Column
from beam_quad.corpus.mds_parts import write_samples
from beam_quad.corpus.megatron import Encoder, write_tokens
from beam_quad.corpus.parts import WrittenPart
from beam_quad.corpus.schemas import (
    PROVENANCE,
    choice_of,
    free_name,
    holds_others,
    is_json_text,
    is_string,
)
from beam_quad.corpus.tables import column_of
from beam_quad.errors import BadFileError
from beam_quad.records import Reason, Split

PROVENANCE_TYPE = pa.struct(
    [
        pa.field("example_id", pa.string()),
        pa.field("cluster", pa.int32()),
        pa.field("block", pa.int32()),
        pa.field("round", pa.int32()),
        pa.field("tokens", pa.int64()),
        pa.field("influence", pa.float64()),
        pa.field("block_influence", pa.float64()),
        pa.field("predicted_influence", pa.float64()),
        pa.field("target", pa.string()),
        pa.field("since", pa.int32()),
    ]
)
WEIGHT = "weight"
REJECTED_SCHEMA = pa.schema(
    [("shard", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)

_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Selected:
    """Chosen rows of a split.

    Attributes:
      split: The split.
      row_numbers: Rows of the shard, ascending, int64 [n].
      provenance: Why each row was chosen, `PROVENANCE_TYPE` [n]; see `provenance`.
      weights: Weight of each row in training, float64 [n]; None in a selection without weights.
    """

    split: Split
    row_numbers: np.ndarray
    provenance: pa.StructArray
    weights: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An unusable input row, or a whole unusable file if `row` is None."""

    shard: str
    row: int | None
    reason: Reason
    detail: str


def provenance(
    example_ids: Sequence[str],
    *,
    tokens: Any,
    cluster: Any = None,
    block: Any = None,
    round: Any = None,
    influence: Any = None,
    block_influence: Any = None,
    predicted_influence: Any = None,
    target: Any = None,
    since: Any = None,
) -> pa.StructArray:
    """Makes the provenance column, which says why rows were chosen.

    Args:
      example_ids: Ids, n of them.
      tokens: Token counts, integers [n].
      cluster: Clusters, integers [n]; None without clusters. All later arguments may be None too.
      block: Blocks within the clusters.
      round: Rounds in which the blocks were pulled.
      influence: Influences of the examples themselves; nan if not scored.
      block_influence: Influences of the blocks.
      predicted_influence: Influences of unscored examples, predicted from scored ones; nan if not predicted.
      target: Names of the query groups for which the examples were selected.
      since: Numbers of the runs that first selected the examples; 0 is the run without a base.
    """
    values = (
        list(example_ids), cluster, block, round, tokens, influence, block_influence, predicted_influence, target,
        since,
    )  # fmt: skip
    arrays = [
        pa.nulls(len(example_ids), field.type)
        if column is None
        else pa.array(column, type=field.type, from_pandas=True)
        for field, column in zip(PROVENANCE_TYPE, values, strict=True)
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(PROVENANCE_TYPE))


def output_schema(schema: pa.Schema, weighted: bool = False) -> pa.Schema:
    """Adds the provenance column and, in a weighted selection, the weight column to the schema of the input.

    An input column with one of these names is renamed; a selection used as input has such columns.
    """
    renamed = renamed_columns(schema, weighted)
    fields = [field.with_name(renamed.get(field.name, field.name)) for field in schema]
    fields.append(pa.field(PROVENANCE, PROVENANCE_TYPE))
    if weighted:
        fields.append(pa.field(WEIGHT, pa.float64()))
    return pa.schema(fields)


def renamed_columns(schema: pa.Schema, weighted: bool) -> dict[str, str]:
    """Returns the new names of input columns whose names the output reserves."""
    taken = [PROVENANCE, WEIGHT] if weighted else [PROVENANCE]
    return {
        name: free_name(name, [*schema.names, *taken]) for name in taken if name in schema.names
    }


def described(schema: pa.Schema | pa.StructType) -> list[dict[str, Any]]:
    """Describes columns as JSON: `name` and `type` of each; a type is a name, or a `struct` or `list` of types."""
    return [{"name": field.name, "type": _described(field.type)} for field in schema]


def _described(of: pa.DataType) -> Any:
    if pa.types.is_struct(of):
        return {"struct": described(of)}
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        return {"list": _described(of.value_type)}
    return str(of.value_type if pa.types.is_dictionary(of) else of)


def write_selected(
    path: str,
    selections: Iterable[Selected],
    schema: pa.Schema,
    replace: bool = False,
    weighted: bool = False,
    encoder: Encoder | None = None,
) -> tuple[WrittenPart, ...]:
    """Writes one part of the selection, in the format of its extension.

    Parquet has the input's columns in the types of the schema. JSON Lines keeps rows of JSON Lines unchanged except for the new
    key `beam_quad` (and `weight`), and dumps rows of Parquet. MDS has the text as a string and all other columns as JSON. A
    part of ids is written without reading the input, and Megatron's format holds only tokens.

    Args:
      path: The part, ending in one of `OUTPUT_FORMATS`.
      selections: Chosen rows, in the order of writing.
      schema: The carried columns; see `schemas.carried`.
      replace: Whether to replace a finished part.
      weighted: Whether the selections have weights.
      encoder: Encodes texts as tokens, for Megatron; None for other formats.

    Returns:
      The part and its companion file, if any (`parts.companion`).

    Raises:
      BadFileError: As `read_selected`; nothing is written then.
      ValueError: If the extension is unknown, or the format needs tokens and there is no encoder.
    """
    ending = posixpath.basename(path).partition(".")[2]
    if ending == "bin":
        if encoder is None:
            raise ValueError(f"{path}: tokens of Megatron need an encoder")
        documents = (tokens for own in selections for tokens in _documents(own, schema, encoder))
        return write_tokens(path, documents, encoder.vocabulary_size, replace)
    if ending not in WRITERS:
        raise ValueError(f"{path}: parts end with one of bin, {', '.join(WRITERS)}")
    return (WRITERS[ending](path, selections, schema, replace, weighted),)


def _write_parquet(
    path: str, selections: Iterable[Selected], schema: pa.Schema, replace: bool, weighted: bool
) -> WrittenPart:
    batches = (batch for selection in selections for batch in _batches(selection, schema))
    return write_parquet(path, output_schema(schema, weighted), batches, replace)


def _write_jsonl(
    path: str, selections: Iterable[Selected], schema: pa.Schema, replace: bool, weighted: bool
) -> WrittenPart:
    lines = (line for selection in selections for line in _lines(selection, schema))
    return write_jsonl(path, lines, replace)


def _write_ids(
    path: str, selections: Iterable[Selected], schema: pa.Schema, replace: bool, weighted: bool
) -> WrittenPart:
    return write_parquet(path, ids_schema(weighted), map(_ids, selections), replace)


def ids_schema(weighted: bool) -> pa.Schema:
    """The columns of a part of ids; the score is the influence if known, else the predicted one, else the block's."""
    fields = [("example_id", pa.string()), ("score", pa.float64())]
    return pa.schema([*fields, (WEIGHT, pa.float64())] if weighted else fields)


def _ids(selection: Selected) -> pa.RecordBatch:
    why = selection.provenance
    known = ("influence", "predicted_influence", "block_influence")
    arrays = [why.field("example_id"), pc.coalesce(*(why.field(name) for name in known))]
    if selection.weights is not None:
        arrays.append(pa.array(selection.weights))
    return pa.RecordBatch.from_arrays(arrays, schema=ids_schema(selection.weights is not None))


def _write_mds(
    path: str, selections: Iterable[Selected], schema: pa.Schema, replace: bool, weighted: bool
) -> WrittenPart:
    columns = mds_columns(schema, weighted)
    samples = (
        values
        for selection in selections
        for batch in _batches(selection, schema)
        for values in _encoded(batch, columns)
    )
    return write_samples(path, columns, samples, replace)


def mds_columns(schema: pa.Schema, weighted: bool) -> list[Column]:
    """The columns of an MDS shard, by name: the text as a string, the weight as a number, the others as nullable JSON."""
    text = next(iter(choice_of(schema).read), None)
    found = []
    for field in output_schema(schema, weighted):
        is_text = field.name == text and is_string(field.type) and not is_json_text(field)
        encoding, size = ("str", None) if is_text else ("json", None)
        if weighted and field.name == WEIGHT:
            encoding, size = "float64", 8
        found.append(Column(field.name, encoding, size))
    return sorted(found)


def _encoded(batch: pa.RecordBatch, columns: Sequence[Column]) -> Iterator[list[bytes]]:
    names = [column.name for column in columns if column.encoding == "json"]
    rest = batch.select(names)
    plain = {
        column.name: batch.column(column.name).to_pylist()
        for column in columns
        if column.encoding != "json"
    }
    for i, line in enumerate(json_rows.dump_rows(rest)):
        texts = json_rows.json_texts(line)
        yield [
            texts[column.name].encode()
            if column.encoding == "json"
            else column.encoded(plain[column.name][i])
            for column in columns
        ]


def _documents(selection: Selected, schema: pa.Schema, encoder: Encoder) -> Iterator[np.ndarray]:
    text = choice_of(schema).read[0]
    # Columnar formats read no other column.
    fields = [f for f in schema if f.name == text or text.startswith(f"{f.name}.")]
    only = schema if any(map(holds_others, schema)) else pa.schema(fields, schema.metadata)
    for _, batch in rows.read_selected(selection.split, only, selection.row_numbers):
        texts = column_of(pa.Table.from_batches([batch]), text).to_pylist()
        if text in only.names and is_json_text(only.field(text)):
            texts = list(map(orjson.loads, texts))
        yield from encoder.encode(texts)


# Writers by extension, the values of `records.OUTPUT_FORMATS`, except Megatron, which needs tokens.
WRITERS: dict[str, Callable[..., WrittenPart]] = {
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
    "jsonl.zst": _write_jsonl,
    "ids.parquet": _write_ids,
    "mds": _write_mds,
}
# Rows can be removed from parts of these formats without rewriting the remaining rows.
_CUT_IN_PLACE = ("parquet", "jsonl", "jsonl.zst")


def cuts_in_place(output_format: str) -> bool:
    """Tells whether rows can be removed from parts of a format without rewriting the rest; see `copy_rows`."""
    return output_format in _CUT_IN_PLACE


def _batches(selection: Selected, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    done = 0
    for _, batch in rows.read_selected(selection.split, schema, selection.row_numbers):
        end = done + batch.num_rows
        arrays = [*batch.columns, selection.provenance.slice(done, batch.num_rows)]
        if selection.weights is not None:
            arrays.append(pa.array(selection.weights[done:end]))
        weighted = selection.weights is not None
        yield pa.RecordBatch.from_arrays(arrays, schema=output_schema(schema, weighted))
        done = end


def _lines(selection: Selected, schema: pa.Schema) -> Iterator[bytes]:
    if not formats.is_jsonl(selection.split.path):
        yield from itertools.chain.from_iterable(
            map(json_rows.dump_rows, _batches(selection, schema))
        )
        return
    lines = rows.read_lines(selection.split, selection.row_numbers)
    weights = (
        [None] * len(selection.row_numbers)
        if selection.weights is None
        else selection.weights.tolist()
    )
    new_name = _new_names(schema, selection.weights is not None)
    for (row, line), why, weight in zip(lines, selection.provenance, weights, strict=True):
        try:
            kept = line if new_name is None else json_rows.rewritten(line, new_name)
            spliced = json_rows.splice(kept, PROVENANCE, why.as_py())
            yield spliced if weight is None else json_rows.splice(spliced, WEIGHT, weight)
        except ValueError as error:
            raise BadFileError(selection.split.path, f"row {row}: {error}") from error


def _new_names(schema: pa.Schema, weighted: bool) -> Callable[[str], str | None] | None:
    """Returns a map from members of a JSON Lines row to new names, or None if no member changes."""
    choice, renamed = choice_of(schema), renamed_columns(schema, weighted)
    if any(map(holds_others, schema)):
        # Members of rare rows are not in the schema, so every reserved name is mapped in case a row has it.
        renamed = {
            n: free_name(n, [*schema.names, n]) for n in (PROVENANCE, WEIGHT)[: 1 + weighted]
        }
    if not choice.patterns and not renamed:
        return None
    return lambda name: renamed.get(name, name) if choice.keeps(name) else None


class PartWriter:
    """Writes the batches of a part in sequence, each as a row group; see `writing_part`.

    Args:
      path: The part.
      file: The file of its bytes.
      writer: The Parquet writer.
    """

    def __init__(self, path: str, file: files.HashedFile, writer: pq.ParquetWriter) -> None:
        self._path = path
        self._file = file
        self._writer = writer
        self._num_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Writes a batch."""
        self._writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
        self._num_rows += batch.num_rows

    @property
    def written(self) -> WrittenPart:
        """Describes the part, once it is closed."""
        return WrittenPart(self._path, self._file.sha256, self._num_rows, self._file.size_bytes)


@contextlib.contextmanager
def writing_part(path: str, schema: pa.Schema) -> Iterator[PartWriter]:
    """Yields a writer of a Parquet file, for use beside another part; the file appears, complete, when the block ends."""
    with files.writing(path) as file, _parquet_writer(file, schema) as writer:
        yield PartWriter(path, file, writer)


def write_parquet(
    path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], replace: bool = False
) -> WrittenPart:
    """Writes a Parquet file whose bytes depend only on the batches, not on time, attempt or name."""
    num_rows = 0
    with files.writing(path, replace) as file, _parquet_writer(file, schema) as writer:
        for table in _row_groups(batches, schema):
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            num_rows += table.num_rows
    return WrittenPart(path, file.sha256, num_rows, file.size_bytes)


def _parquet_writer(file: files.HashedFile, schema: pa.Schema) -> pq.ParquetWriter:
    # With checksums, so a reader finds bytes that a disk or a copy has changed.
    return pq.ParquetWriter(
        file, schema, compression="zstd", compression_level=3, write_page_checksum=True
    )


def copy_rows(source: str, path: str, is_kept: np.ndarray) -> WrittenPart:
    """Writes a part with some rows of another, unchanged.

    Args:
      source: A part of the same format.
      path: The new part.
      is_kept: Which of its rows are kept, bool [num_rows].

    Raises:
      BadFileError: If the part's number of rows differs from `is_kept`.
    """
    if path.endswith(".parquet"):
        with files.open_read(source) as file:
            parquet = pq.ParquetFile(file)
            _check_num_rows(source, parquet.metadata.num_rows, is_kept)
            batches = _kept_batches(parquet, is_kept)
            return write_parquet(path, parquet.schema_arrow, batches)
    return write_jsonl(path, _kept_lines(source, is_kept))


def _kept_batches(parquet: pq.ParquetFile, is_kept: np.ndarray) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in parquet.iter_batches(_GROUP_ROWS):
        end = done + batch.num_rows
        yield batch.filter(pa.array(is_kept[done:end]))
        done = end


def _kept_lines(source: str, is_kept: np.ndarray) -> Iterator[bytes]:
    number = -1
    for number, line in enumerate(jsonl.lines_of(source)):
        if number < len(is_kept) and is_kept[number]:
            yield line
    _check_num_rows(source, number + 1, is_kept)


def _check_num_rows(source: str, num_rows: int, is_kept: np.ndarray) -> None:
    if num_rows != len(is_kept):
        raise BadFileError(source, f"holds {num_rows} rows where {len(is_kept)} were written")


def schema_of(part: str) -> pa.Schema | None:
    """Reads the schema of a part; None for JSON Lines, which needs none."""
    if not part.endswith(".parquet"):
        return None
    with files.open_read(part) as file:
        return pq.read_schema(file)


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    pending: list[pa.RecordBatch] = []
    num_rows = size_bytes = 0
    for batch in batches:
        pending.append(batch)
        num_rows += batch.num_rows
        size_bytes += batch.nbytes
        if num_rows >= _GROUP_ROWS or size_bytes >= _GROUP_BYTES:
            yield _table(pending, schema)
            pending, num_rows, size_bytes = [], 0, 0
    if num_rows:
        yield _table(pending, schema)


def _table(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    # Each shard has its own dictionaries, but a Parquet column chunk has only one.
    return pa.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()


def write_jsonl(path: str, lines: Iterable[bytes], replace: bool = False) -> WrittenPart:
    """Writes lines, compressed if the name ends in `.zst`."""
    num_rows = 0
    with files.writing(path, replace) as file, _compressing(file, path) as stream:
        for line in lines:
            stream.write(line + b"\n")
            num_rows += 1
    return WrittenPart(path, file.sha256, num_rows, file.size_bytes)


@contextlib.contextmanager
def _compressing(file: files.HashedFile, path: str) -> Iterator[Any]:
    if path.endswith(".zst"):
        with pa.CompressedOutputStream(file, "zstd") as stream:
            yield stream
    else:
        yield file


def write_rejected(path: str, rejected: Iterable[Rejected], replace: bool = False) -> WrittenPart:
    """Writes one part of the rejected rows as Parquet, in the order given."""
    return write_parquet(path, REJECTED_SCHEMA, _rejected_batches(iter(rejected)), replace)


def _rejected_batches(rejected: Iterator[Rejected]) -> Iterator[pa.RecordBatch]:
    while chunk := list(itertools.islice(rejected, _GROUP_ROWS)):
        columns = [
            [item.shard for item in chunk],
            [item.row for item in chunk],
            [str(item.reason) for item in chunk],
            [item.detail for item in chunk],
        ]
        arrays = [pa.array(c, type=f.type) for c, f in zip(columns, REJECTED_SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=REJECTED_SCHEMA)
