"""Plain text, with one text per file, for query sets."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import files
from beam_quad.corpus.batches import Columns, Fault, RowBatch, make_batch
from beam_quad.corpus.json_types import Seen
from beam_quad.corpus.summaries import ShardSummary
from beam_quad.errors import UsageError
from beam_quad.records import Reason, Split

EXTENSIONS = re.compile(r"\.txt$", re.IGNORECASE)


def summarise(info: files.FileInfo, columns: Columns) -> ShardSummary:
    """Summarises the file's single row, whose text column is the content.

    Raises:
      UsageError: If a prompt column is required, which text files do not have.
    """
    if columns.has_answers:
        flag = columns.flag("messages" if columns.messages else "prompt")
        raise UsageError(
            f"{info.path}: a .txt file has no prompt; write JSON Lines or Parquet, or leave {flag} empty, as {flag}="
        )
    return ShardSummary(pa.schema([(columns.text, pa.string())]), None, 1, is_exact=True)


def num_groups(path: str) -> int:
    """Returns 0, because no group of rows can be read independently."""
    return 0


def rows(
    split: Split, columns: Columns, batch_rows: int, seen: Seen | None = None
) -> Iterator[RowBatch]:
    """Reads the single row; see `beam_quad.corpus.rows.read_rows`."""
    text, broken = _text(split)
    only_text = Columns(columns.text)
    yield make_batch(split.shard, 0, {columns.text: [text]}, only_text, broken)


def values(split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
    """Reads the single row, which has only a text; see `beam_quad.corpus.formats.Format`."""
    yield [None]


def selected(
    split: Split, schema: pa.Schema, row_numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Reads the single row; see `beam_quad.corpus.rows.read_selected`."""
    if len(row_numbers):
        values = [pa.array([_text(split)[0]], type=schema.field(0).type)]
        values += [pa.nulls(1, field.type) for field in list(schema)[1:]]
        yield row_numbers, pa.RecordBatch.from_arrays(values, schema=schema)


def _text(split: Split) -> tuple[str | None, dict[int, Fault]]:
    raw = files.read_bytes(split.path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, {0: (Reason.INVALID_UTF8, f"{error.reason} at byte {error.start}")}
    if "\0" in text:
        # Text has no zero bytes, but UTF-16 of mostly ASCII is valid UTF-8 with zeros as every second byte.
        return None, {0: (Reason.INVALID_UTF8, f"a zero at byte {raw.index(0)}: is it UTF-16?")}
    return text, {}
