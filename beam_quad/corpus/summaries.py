"""What planning learns from a shard's header or footer."""

import dataclasses

import pyarrow as pa

from beam_quad.corpus.json_types import Shapes


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file.

    Attributes:
      num_rows: Its rows.
      size_bytes: Its size as stored, compressed.
    """

    num_rows: int
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """A shard, before it is read.

    Attributes:
      schema: The columns of a file that declares them; None of one that does not.
      shapes: What its first rows look like, where it declares none; None where there is no row that can be read.
      num_rows: Its rows.
      is_exact: Whether `num_rows` was counted, not estimated.
      groups: Its row groups; none where the shard cannot be entered in the middle.
      is_known: Whether all that can be read of it was seen: of a long file that declares nothing the first rows say
        little about the others.
      doubt: What the columns that are read look like in its first rows, if they cannot be used there; an error's text.
      problem: Why nothing of the shard can be used; empty for a good one.
    """

    schema: pa.Schema | None
    shapes: Shapes | None
    num_rows: int
    is_exact: bool
    groups: tuple[RowGroup, ...] = ()
    is_known: bool = True
    doubt: str = ""
    problem: str = ""
