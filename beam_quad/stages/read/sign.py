"""Signatures of texts, by which near-duplicates are found."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files, traffic
from beam_quad.corpus.rows import read_runs
from beam_quad.records import Split
from beam_quad.selection.near_duplicates import (
    NUM_HASHES,
    SIGNATURE_DTYPE,
    SIGNATURE_VERSION,
    sign,
)
from beam_quad.stages.read.corpus import Corpus, piece_path
from beam_quad.stages.read.splits import SplitStage

_SCHEMA = pa.schema([pa.field("signature", pa.binary(SIGNATURE_DTYPE.itemsize * NUM_HASHES))])
# Rows of a row group: few rows are looked at, and groups without one are not read.
_GROUP_ROWS = 4096
_BATCH_ROWS = 256
_RUN_CHARACTERS = 1 << 22


@dataclasses.dataclass(frozen=True)
class SignTexts(SplitStage):
    """Signs the texts of the splits that were read without being signed.

    `EmbedExamples` signs texts while it reads them. What is left are splits that an earlier run read, which wanted no
    signatures. Takes splits and writes one row-aligned file each.

    Args:
      corpus: The corpus.
    """

    kind = "signatures"
    artifact_name = "signatures.json"

    corpus: Annotated[
        Corpus, identity.CountedAs(Corpus.texts, "texts are signed whatever embeds them")
    ]

    @functools.cached_property
    def rows_folder(self) -> str:
        """Where the files of all splits are stored, named by what is read of them and how it is signed."""
        made_from = (self.version, self.corpus.columns, SIGNATURE_VERSION)
        return files.join(self.root, self.kind, identity.digest("rows", *made_from)[:20], "rows")

    def pieces(self) -> Iterable[Split]:
        bad = self.corpus.bad_shards()
        return [split for split in self.corpus.splits() if split.shard not in bad]

    def prefixes(self) -> tuple[str, ...]:
        return (self.rows_folder,)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (self.path_of(piece),)

    def statistic(self, piece: Split) -> Tally:
        return Tally()

    def do(self, piece: Split, model: Any) -> Tally:
        traffic.count("bytes_read", piece.size_bytes)
        columns = self.corpus.columns
        with self.writer(piece) as writer:
            for run in read_runs(
                self.corpus.readable(piece), columns, _BATCH_ROWS, _GROUP_ROWS, _RUN_CHARACTERS
            ):
                write_signatures(writer, sign_rows(run.texts))
        return Tally()

    def path_of(self, split: Split) -> str:
        """Where the signatures of a split are stored."""
        return piece_path(self.rows_folder, split)

    def writer(self, split: Split) -> AbstractContextManager[aligned.TableWriter]:
        """Opens the file of a split for `write_signatures`."""
        return aligned.table_writer(self.path_of(split), _SCHEMA, _GROUP_ROWS)

    def read(self, split: Split, rows: np.ndarray) -> np.ndarray:
        """Reads the signatures of some rows of a split, int64 [m] ascending: uint16 [m, NUM_HASHES]."""
        if not len(rows):
            return np.zeros((0, NUM_HASHES), SIGNATURE_DTYPE)
        return aligned.read_some_vectors(self.path_of(split), "signature", SIGNATURE_DTYPE, rows)


def sign_rows(texts: Sequence[str | None]) -> np.ndarray:
    """Signs the texts of rows, uint16 [n, NUM_HASHES]; 0 for a row without a text."""
    has_text = np.array([text is not None for text in texts], bool)
    signatures = np.zeros((len(texts), NUM_HASHES), SIGNATURE_DTYPE)
    signatures[has_text] = sign([text for text in texts if text is not None])
    return signatures


def write_signatures(writer: aligned.TableWriter, signatures: np.ndarray) -> None:
    """Adds the signatures of rows, uint16 [n, NUM_HASHES], to a file of `SignTexts`."""
    writer.write({"signature": aligned.vector_column(signatures, SIGNATURE_DTYPE)})
