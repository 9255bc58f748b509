"""Paraphrases: documents with the content of an item in other words, or in another order.

A document is flagged if two conditions hold: its embedding is closer to an item than those of nearly all documents,
with a cosine of at least `LEAST_COSINE`; and it has most of the item's words, in any order. Embeddings alone would
match machine-made texts such as tables of the same form; words alone would match any long document with a short item.
"""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.selection.leaks import Words

Array = np.ndarray[Any, np.dtype[Any]]

LEAST_COSINE = 0.8
# A document is closer to an item than this share of the corpus.
QUANTILE = 0.99
# Smallest share of the item's distinct words.
LEAST_SHARE = 0.75
# Further items are not compared: a matrix product with this many costs little compared with embedding a document.
MOST_ITEMS = 4096

_NUM_BINS = 2000
_ROWS_AT_ONCE = 1024


def nearest_items(vectors: Array, items: Array) -> tuple[Array, Array]:
    """Finds the nearest item of each document.

    Args:
      vectors: Unit vectors of the documents, float [n, dim].
      items: Those of the items, at least one, float [num_items, dim].

    Returns:
      Numbers of items, int64 [n], and the cosines to them, float32 [n].
    """
    columns = np.ascontiguousarray(items.T, np.float32)
    nearest, cosines = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        run = slice(first, first + _ROWS_AT_ONCE)
        products = vectors[run].astype(np.float32) @ columns
        nearest[run] = products.argmax(axis=1)
        cosines[run] = products.max(axis=1)
    return nearest, cosines


def words_of(text: str) -> frozenset[bytes]:
    """The distinct words of a text, ignoring case and punctuation."""
    return frozenset(Words(text).words[:-1])


def word_share(text: str, item: str) -> float:
    """The share of an item's distinct words found in a text; 0 for an item without words."""
    words = words_of(item)
    return len(words & words_of(text)) / len(words) if words else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Cosines:
    """A histogram of cosines with equal bins over [-1, 1]. An additive statistic.

    Attributes:
      counts: int64 [num_bins].
    """

    counts: Array

    @classmethod
    def of(cls, cosines: Array) -> "Cosines":
        """Counts cosines, float [n]."""
        bins = np.clip((cosines.astype(np.float64) + 1) / 2 * _NUM_BINS, 0, _NUM_BINS - 1)
        return cls(np.bincount(bins.astype(np.int64), minlength=_NUM_BINS).astype(np.int64))

    def __add__(self, other: "Cosines") -> "Cosines":
        return Cosines(self.counts + other.counts)

    def threshold(self) -> float:
        """The `QUANTILE` of the cosines, at least `LEAST_COSINE`."""
        if not self.counts.any():
            return LEAST_COSINE
        below = np.cumsum(self.counts) / self.counts.sum()
        # The upper edge of the bin: documents in the bin of the quantile itself are not flagged.
        upper = 2 * (int(np.argmax(below >= QUANTILE)) + 1) / _NUM_BINS - 1
        return max(LEAST_COSINE, upper)
