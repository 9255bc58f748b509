"""Stages whose work is the corpus, split by split."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.plan.work import Sizes, TextSizes, Work, pass_over
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

    def work(self, sizes: Sizes) -> Work:
        """By default a pass over a few numbers of every row."""
        return pass_over(self.texts_of(sizes))

    def texts_of(self, sizes: Sizes) -> TextSizes:
        """Returns the sizes of the splits that the stage works on."""
        return sizes.corpus if self.corpus.part is None else sizes.new

    def pieces(self) -> Any:
        return self.corpus.splits()

    def size_of(self, piece: Any) -> int:
        return piece.size_bytes if isinstance(piece, Split) else 0


class RowAlignedStage(SplitStage):
    """A stage that writes one row-aligned file per split, and its artifact from their sum.

    The files of a split depend on no other split. They are stored separately from the sum, so a corpus with one more
    shard reuses the files of all others. Facts from other splits, such as a repeated id, are added when rows are read.
    """

    @functools.cached_property
    def rows_folder(self) -> str:
        """Folder of the files of all splits, named by all their inputs."""
        # The corpus counts only by what each row depends on (`by_row`): a new shard must not rename the files of the
        # others.
        fields = [field for field in identity.fields_form(self) if field[0] != "corpus"]
        name = identity.digest("rows", self.kind, self.version, fields, self.corpus.by_row())
        return files.join(self.root, self.kind, name[:20], "rows")

    def texts_of(self, sizes: Sizes) -> TextSizes:
        return sizes.missing

    def prefixes(self) -> tuple[str, ...]:
        return (self.rows_folder,)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (self.rows_path(piece),)

    def rows_path(self, split: Split) -> str:
        """Path of the file of a split."""
        return piece_path(self.rows_folder, split)

    def write_rows(self, split: Split, schema: pa.Schema, columns: dict[str, Any]) -> None:
        """Writes the file of a split."""
        aligned.write_table(self.rows_path(split), schema, columns)

    def read_rows(self, split: Split) -> dict[str, np.ndarray]:
        """Reads the columns of a split, row-aligned."""
        return aligned.read_columns(self.rows_path(split))
