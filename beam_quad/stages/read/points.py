"""The embeddings to which centers are fitted: a hash sample, set aside while texts are embedded."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_quad import seeding
from beam_quad.artifacts import aligned, files
from beam_quad.records import Split
from beam_quad.stages.read.corpus import Corpus, hash_sample, piece_path

# A fixed share, because the numbers of clusters and documents are unknown at this point. For 10,000 clusters it is
# enough if there are at least 90 million documents.
SHARE = 1 / 32
_PURPOSE = "centers"
# Rows are sorted by draw, so a lower rate skips the later row groups.
_GROUP_ROWS = 128


class PointsAside:
    """Sets aside a share of the embeddings of a split.

    Args:
      corpus: The corpus.
      split: The split.
    """

    def __init__(self, corpus: Corpus, split: Split) -> None:
        self._corpus = corpus
        self._split = split
        self._rows = [np.zeros(0, np.int64)]
        self._draws = [np.zeros(0)]
        self._vectors: list[np.ndarray] = []

    def add(self, first_row: int, rows: aligned.Rows, vectors: np.ndarray) -> None:
        """Takes a run of rows, the number of the first, and their embeddings, float32 [n, dim]."""
        at = hash_sample(self._corpus.seed, _PURPOSE, rows, SHARE)
        self._rows.append(first_row + at)
        self._draws.append(seeding.uniform(self._corpus.seed, _PURPOSE, rows.keys[at]))
        self._vectors.append(vectors[at])

    def write(self) -> None:
        """Writes the drawn embeddings, if any run was added."""
        if not self._vectors:
            return
        rows, draws = np.concatenate(self._rows), np.concatenate(self._draws)
        # Sorted by draw: a smaller sample is then the first row groups, and the others are not read.
        vectors, order = np.concatenate(self._vectors), np.argsort(draws, kind="stable")
        fields = [pa.field("row", pa.int64()), pa.field("draw", pa.float64())]
        schema = pa.schema([*fields, *aligned.embeddings_schema(vectors.shape[1])])
        path = piece_path(self._corpus.points_dir, self._split)
        with aligned.table_writer(path, schema, _GROUP_ROWS) as writer:
            for start in range(0, len(order), _GROUP_ROWS):
                at = order[start : start + _GROUP_ROWS]
                column = aligned.embedding_column(vectors[at])
                writer.write({"row": rows[at], "draw": draws[at], "embedding": column})


def read(corpus: Corpus, split: Split, rate: float) -> np.ndarray:
    """Reads the embeddings of a share of the usable rows, float16 [m, dim] by row.

    The full embeddings are read only if the rate exceeds `SHARE`, or if nothing was set aside because the split was
    embedded with another seed or tokenizer, or by an earlier version.
    """
    drawn = hash_sample(corpus.seed, _PURPOSE, corpus.rows(split), rate)
    path = piece_path(corpus.points_dir, split)
    if not len(drawn):
        return np.zeros((0, 1), aligned.EMBEDDING_DTYPE)
    if rate > SHARE or not files.exists(path):
        return corpus.some_embeddings(split, drawn)
    with files.open_read(path) as file:
        table = pq.read_table(
            file, columns=["row", "embedding"], filters=pc.field("draw") < rate
        ).sort_by("row")
    # A row may have been rejected after it was set aside, for example as a duplicate.
    kept = np.isin(table.column("row").to_numpy(), drawn)
    vectors = aligned.unpack_vectors(table.column("embedding"), aligned.EMBEDDING_DTYPE)
    return np.asarray(vectors[kept])
