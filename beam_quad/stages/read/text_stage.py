"""Stages whose files depend only on texts, and are made while texts are read for another stage."""

import abc
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar

import pyarrow as pa

from beam_quad import identity
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.corpus.rows import read_runs
from beam_quad.plan.work import Sizes, TextSizes
from beam_quad.records import Split
from beam_quad.stages.read.corpus import Corpus, piece_path
from beam_quad.stages.read.splits import SplitStage

_BATCH_ROWS = 256
_RUN_ROWS, _RUN_CHARACTERS = 4096, 1 << 22


@dataclasses.dataclass(frozen=True)
class TextStage(SplitStage):
    """A stage that makes one row-aligned file per split from texts alone, independent of tokenizer and embedder.

    `EmbedExamples` writes these files for the splits that it reads. The stage itself handles only splits read by an
    earlier run without these files, and reads their texts again.

    Attributes:
      schema: The columns of a file.
      group_rows: Rows of a row group.
    """

    schema: ClassVar[pa.Schema]
    group_rows: ClassVar[int] = 16_384

    corpus: Annotated[
        Corpus, identity.CountedAs(Corpus.texts, "texts are the same whatever embeds them")
    ]

    @abc.abstractmethod
    def made_from(self) -> tuple[object, ...]:
        """The inputs of the files besides the texts."""

    @abc.abstractmethod
    def columns_of(self, texts: Sequence[str | None]) -> dict[str, Any]:
        """Makes the columns of some rows, in the order of their texts; called in several threads."""

    @functools.cached_property
    def rows_folder(self) -> str:
        """Folder of the files of all splits, named by the columns read and the inputs of the files."""
        made_from = (self.version, self.corpus.columns, *self.made_from())
        return files.join(self.root, self.kind, identity.digest("rows", *made_from)[:20], "rows")

    def texts_of(self, sizes: Sizes) -> TextSizes:
        return sizes.missing

    def text_s(self, texts: TextSizes) -> float:
        """Estimates the CPU time of making the files while texts are read, in seconds; nothing worth telling by default."""
        return 0.0

    def pieces(self) -> Iterable[Split]:
        bad = self.corpus.bad_shards()
        return [split for split in self.corpus.splits() if split.shard not in bad]

    def prefixes(self) -> tuple[str, ...]:
        return (self.rows_folder,)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (self.path_of(piece),)

    def do(self, piece: Split, model: Any) -> Any:
        traffic.count("bytes_read", piece.size_bytes)
        split, columns = self.corpus.readable(piece), self.corpus.columns
        with self.writer(piece) as writer:
            for run in read_runs(split, columns, _BATCH_ROWS, _RUN_ROWS, _RUN_CHARACTERS):
                writer.write(self.columns_of(run.texts))
        return self.statistic(piece)

    def path_of(self, split: Split) -> str:
        """Path of the file of a split."""
        return piece_path(self.rows_folder, split)

    def writer(self, split: Split) -> AbstractContextManager[aligned.TableWriter]:
        """Opens the file of a split."""
        return aligned.table_writer(self.path_of(split), self.schema, self.group_rows)
