"""Scores from a column of the input."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.artifacts import traffic
from beam_quad.corpus import seen
from beam_quad.corpus.rows import read_numbers
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Split
from beam_quad.scoring.sample import ScoreSample
from beam_quad.stages.influence.scored_rows import SCORE_DTYPE, ScoredRows
from beam_quad.stages.read.embed import BATCH_ROWS


@dataclasses.dataclass(frozen=True)
class ReadScoreColumn(ScoredRows):
    """Reads the scores from a numeric column of the input; no other column of a Parquet file is read.

    Args:
      corpus: The corpus.
      column: Name of the column; with dots, a field of a struct.
    """

    kind = "score_column"
    version = 2

    column: str

    def work(self, sizes: Sizes) -> Work:
        texts = self.texts_of(sizes)
        stored = float(SCORE_DTYPE.itemsize * texts.documents)
        own = pass_over(texts, "score column")
        return dataclasses.replace(own, bytes_read=texts.stored_bytes, bytes_stored=stored)

    def do(self, piece: Split, model: Any) -> ScoreSample:
        rows = self.corpus.own_rows(piece)
        scores = np.full(len(rows.keys), np.nan)
        if rows.usable.any():
            traffic.count("bytes_read", piece.size_bytes)
            first = 0
            readable = self.corpus.readable(piece)
            for numbers in read_numbers(readable, self.column, BATCH_ROWS):
                scores[first : first + len(numbers)] = numbers
                first += len(numbers)
            if piece.first_group == 0:
                # The stage that read the texts did not record this column. Once per file is enough, hence the first
                # split.
                columns = dataclasses.replace(self.corpus.columns, score=self.column)
                seen.record(self.corpus.seen_dir, readable, columns.names)
        # The column may have a number in a row that is rejected for its text.
        scores[~rows.usable] = np.nan
        return self.write(piece, scores, rows.usable)
