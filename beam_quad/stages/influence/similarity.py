"""Similarity of every example to the query set, from the stored embeddings."""

import dataclasses
from typing import Any, Literal

import numpy as np

from beam_quad.clustering import best_similarity, mean_similarity
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.scoring.sample import ScoreSample
from beam_quad.stages.influence.scored_rows import SCORE_DTYPE, ScoredRows
from beam_quad.stages.read.embed_query import EmbedQuery


@dataclasses.dataclass(frozen=True)
class ScoreSimilarity(ScoredRows):
    """Compares the embedding of every example with those of the query set; no text is read.

    Args:
      corpus: The embedded corpus.
      query: The embeddings of the query set, by the same embedder.
      similarity: "best" for the cosine to the nearest query text, "mean" for the mean cosine to all query texts.
    """

    kind = "similarity"
    version = 2

    query: EmbedQuery
    similarity: Literal["best", "mean"]

    def work(self, sizes: Sizes) -> Work:
        texts = self.texts_of(sizes)
        compared = sizes.query_documents if self.similarity == "best" else 1
        return Work(
            "similarity",
            texts.documents,
            cpu_flops=2.0 * texts.documents * compared * sizes.embedder.dim,
            core_s=texts.documents * rates.ASSIGN_ROW_S,
            bytes_stored=float(SCORE_DTYPE.itemsize * texts.documents),
            requests=texts.requests(4, 1),
        )

    def do(self, piece: Split, model: Any) -> ScoreSample:
        rows = self.corpus.own_rows(piece)
        scores = np.full(len(rows.keys), np.nan)
        if rows.usable.any():
            for first, vectors in self.corpus.embeddings(piece):
                scores[first : first + len(vectors)] = self._compare(vectors)
        # A rejected row has a vector of zeros, and so a similarity of 0.
        scores[~rows.usable] = np.nan
        return self.write(piece, scores, rows.usable)

    def _compare(self, vectors: np.ndarray) -> np.ndarray:
        if self.similarity == "mean":
            return mean_similarity(vectors, self.query.point_sum())
        # NumPy has no fast product of float16.
        return best_similarity(vectors.astype(np.float32), self.query.points()[0])
