"""The input formats, by extension."""

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from beam_quad.artifacts.files import FileInfo
from beam_quad.corpus import arrow, jsonl, mds, parquet, txt
from beam_quad.corpus.batches import Columns, RowBatch
from beam_quad.corpus.json_types import Seen
from beam_quad.corpus.summaries import ShardSummary
from beam_quad.errors import UsageError
from beam_quad.records import Split


class Format(Protocol):
    """The interface of a format's module."""

    EXTENSIONS: re.Pattern[str]

    def summarise(self, info: FileInfo, columns: Columns) -> ShardSummary:
        """Summarises a file for planning from its header, footer or first rows."""

    def num_groups(self, path: str) -> int:
        """Counts the independently readable groups of rows; 0 if the format has none, so files are read to the end."""

    def rows(
        self, split: Split, columns: Columns, batch_rows: int, seen: Seen | None = None
    ) -> Iterator[RowBatch]:
        """Reads and checks all rows of a split."""

    def values(self, split: Split, name: str, batch_rows: int) -> Iterator[list[Any]]:
        """Reads a column of all rows of a split, unchecked, in runs of rows; None for a row without a value."""

    def selected(
        self, split: Split, schema: pa.Schema, row_numbers: np.ndarray
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Reads chosen rows of a split with all columns."""


_CORPUS: tuple[ModuleType, ...] = (parquet, arrow, mds, jsonl)
_QUERY: tuple[ModuleType, ...] = (*_CORPUS, txt)


def format_of(path: str, is_query: bool = True) -> Format:
    """Picks a format by a file's extension.

    Args:
      path: The file.
      is_query: Whether plain text, with one text per file, is a known format too.

    Raises:
      UsageError: If the extension names no format.
    """
    for module in _QUERY if is_query else _CORPUS:
        if module.EXTENSIONS.search(path):
            return cast(Format, module)
    raise UsageError(f"{path}: unknown extension; known are {known_extensions(is_query)}")


def has_format(path: str, is_query: bool = True) -> bool:
    """Tells whether a file's extension names a format; see `format_of`."""
    modules = _QUERY if is_query else _CORPUS
    return any(module.EXTENSIONS.search(path) for module in modules)


def known_extensions(is_query: bool) -> str:
    """Names the extensions that `format_of` knows, for messages."""
    known = ".parquet, .arrow, .feather, .mds, or .jsonl, .json, .ndjson, .tar and these with .gz, .zst, .bz2, .xz"
    return f"{known}{', .txt' * is_query}"


def has_statistics(path: str) -> bool:
    """Tells whether a shard's format stores the minimum and maximum of each column."""
    return parquet.EXTENSIONS.search(path) is not None


def is_jsonl(path: str) -> bool:
    """Tells whether a shard's rows are read as lines of JSON."""
    return jsonl.EXTENSIONS.search(path) is not None
