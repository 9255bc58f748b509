"""Summaries of shards from their headers or footers, for planning."""

import dataclasses

import pyarrow as pa

from beam_quad.corpus.json_types import Shapes


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file.

    Attributes:
      num_rows: Number of rows.
      size_bytes: Compressed size.
    """

    num_rows: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """The summary of a shard before it is read.

    Attributes:
      schema: The declared columns; None if the format declares none.
      shapes: Shapes of the first rows if no columns are declared; None if no row is readable.
      num_rows: Number of rows.
      is_exact: Whether `num_rows` is counted, not estimated.
      groups: Row groups; empty if the shard allows no random access.
      is_known: Whether all readable rows were seen; the first rows of a long file without declared columns say little
        about the others.
      doubt: An error message if the columns do not fit their roles in the first rows.
      problem: Why the whole shard is unusable; empty for a good one.
    """

    schema: pa.Schema | None
    shapes: Shapes | None
    num_rows: int
    is_exact: bool
    groups: tuple[RowGroup, ...] = ()
    is_known: bool = True
    doubt: str = ""
    problem: str = ""
