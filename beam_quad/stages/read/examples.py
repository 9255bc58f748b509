"""A few examples of the input, by their rows."""

from collections.abc import Iterable, Iterator

from beam_quad.corpus.rows import read_rows
from beam_quad.records import Split
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.read.embed import BATCH_ROWS


def read_examples(
    corpus: Corpus, split: Split, rows: Iterable[int]
) -> Iterator[tuple[int, str, str]]:
    """Reads some rows of a split, stopping after the last one.

    Yields:
      Row, id and text of each, in the order of the split; a missing text is empty.
    """
    wanted = sorted(set(rows), reverse=True)
    first = 0
    for batch in read_rows(corpus.readable(split), corpus.columns, batch_rows=BATCH_ROWS):
        while wanted and wanted[-1] < first + len(batch.texts):
            row = wanted.pop()
            yield row, batch.ids[row - first], batch.texts[row - first] or ""
        if not wanted:
            return
        first += len(batch.texts)
