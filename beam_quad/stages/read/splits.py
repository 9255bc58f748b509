"""Stages whose work is the corpus, split by split."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned
from beam_quad.records import Split
from beam_quad.stages.base import Stage
from beam_quad.stages.read.corpus import Corpus, piece_path


@dataclasses.dataclass(frozen=True)
class SplitStage(Stage):
    """A stage whose pieces are the splits of the corpus.

    Args:
      corpus: The corpus.
    """

    corpus: Corpus

    @property
    def root(self) -> str:
        return self.corpus.root

    def pieces(self) -> Any:
        return self.corpus.splits()


class RowAlignedStage(SplitStage):
    """A stage that writes one row-aligned file a split."""

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("rows"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (self.rows_path(piece),)

    def rows_path(self, split: Split) -> str:
        """Where the file of a split is stored."""
        return piece_path(self.path("rows"), split)

    def write_rows(self, split: Split, schema: pa.Schema, columns: dict[str, Any]) -> None:
        """Writes the file of a split."""
        aligned.write_table(self.rows_path(split), schema, columns)

    def read_rows(self, split: Split) -> dict[str, np.ndarray]:
        """Reads the columns of a split, row-aligned."""
        return aligned.read_columns(self.rows_path(split))
