"""A score that the input brings."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.artifacts import traffic
from beam_quad.corpus import seen
from beam_quad.corpus.rows import read_numbers
from beam_quad.records import Split
from beam_quad.scoring.sample import ScoreSample
from beam_quad.stages.influence.scored_rows import ScoredRows
from beam_quad.stages.read.embed import BATCH_ROWS


@dataclasses.dataclass(frozen=True)
class ReadScoreColumn(ScoredRows):
    """Reads a column of numbers of the input; of Parquet no other column is read.

    Args:
      corpus: The corpus.
      column: The column or, with dots in it, a field of a struct.
    """

    kind = "score_column"
    version = 2

    column: str

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
                # The stage that read the texts recorded nothing of this column.
                columns = dataclasses.replace(self.corpus.columns, score=self.column)
                seen.record(self.corpus.seen_dir, readable, columns.names)
        scores[~rows.usable] = np.nan
        return self.write(piece, scores, rows.usable)
