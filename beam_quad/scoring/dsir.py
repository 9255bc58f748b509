"""DSIR, a baseline without a model: importance weights from hashed n-grams, and sampling by them.

References:
  Xie, Santurkar, Ma & Liang, Data Selection for Language Models via Importance Resampling, 2023.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import HashingVectorizer

from beam_quad import answers, archives, seeding

NUM_BUCKETS = 10_000
# The paper cuts the Pile into examples of 128 words before weighting them.
CHUNK_WORDS = 128


@dataclasses.dataclass(frozen=True)
class NgramCounts:
    """Counts of hashed word uni- and bigrams of a set of texts.

    Attributes:
      counts: Occurrences per bucket, int64 [num_buckets].
    """

    counts: np.ndarray

    def __add__(self, other: "NgramCounts") -> "NgramCounts":
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"cannot add counts of {len(self.counts)} and {len(other.counts)} buckets"
            )
        return NgramCounts(self.counts + other.counts)

    @classmethod
    def zero(cls, num_buckets: int = NUM_BUCKETS) -> "NgramCounts":
        """Counts of no texts."""
        return cls(np.zeros(num_buckets, np.int64))

    @classmethod
    def of(cls, texts: Sequence[str], num_buckets: int = NUM_BUCKETS) -> "NgramCounts":
        """Counts the n-grams of texts."""
        ngrams = count_ngrams(texts, num_buckets)
        return cls(np.asarray(ngrams.sum(axis=0), np.int64).reshape(num_buckets))

    def to_bytes(self) -> bytes:
        """Writes the counts as an npz file."""
        return archives.dump(counts=self.counts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "NgramCounts":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(raw))


class DSIRScorer:
    """Scores a text by its log importance weight, log p_query(text) - log p_corpus(text).

    Both p are bags of hashed n-grams, so the weight is the sum of log p_query - log p_corpus over the buckets of a text's
    uni- and bigrams. A higher weight means more like the query set.

    The sum grows with the length of a text. The paper's sums are comparable because the corpus is cut into examples of 128 words
    first. Here whole documents are selected, so a document longer than `chunk_words` gets the mean weight of a chunk of that
    length, and a shorter one its plain sum. Words are runs of word characters or of punctuation, lower-cased, as in the paper.

    Args:
      query: Counts of the query set.
      corpus: Counts of the corpus, or of a uniform sample of it.
      smoothing: Added to every bucket's count, > 0. (The published code adds 1e-8 to every probability instead, so a single
        n-gram missing from a small query set outweighs many that are present.)
      chunk_words: Length to which longer texts are reduced; None for the plain sum at any length.

    Raises:
      ValueError: If the counts do not fit together, the query set is empty, or `smoothing` is not positive.
    """

    def __init__(
        self,
        query: NgramCounts,
        corpus: NgramCounts,
        smoothing: float = 1.0,
        chunk_words: int | None = CHUNK_WORDS,
    ) -> None:
        if query.counts.shape != corpus.counts.shape:
            raise ValueError(
                f"the query set has {len(query.counts)} buckets, the corpus {len(corpus.counts)}"
            )
        if smoothing <= 0:
            raise ValueError(f"smoothing must be positive, got {smoothing}")
        if not query.counts.sum():
            raise ValueError("the query set has no words, so nothing is more like it")
        self._log_ratio = _log_probability(query, smoothing) - _log_probability(corpus, smoothing)
        self._chunk_words = chunk_words

    def prepare(self, texts: Sequence[str]) -> Sequence[str]:
        """Returns the texts unchanged, because `score` does all the work."""
        return texts

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Scores texts, float64 [num_texts, 1]; a text without words gets 0."""
        ngrams = count_ngrams(texts, len(self._log_ratio))
        log_weights = np.asarray(ngrams @ self._log_ratio)
        if self._chunk_words is not None:
            # w words have w unigrams and w - 1 bigrams.
            words = (np.asarray(ngrams.sum(axis=1)).reshape(-1) + 1) / 2
            log_weights = log_weights * np.minimum(1, self._chunk_words / words)
        return log_weights.reshape(-1, 1)


def sampling_priority(log_weights: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
    """Adds Gumbel noise; the k highest priorities are a sample without replacement in proportion to the weights.

    Args:
      log_weights: Log importance weights, float64 [n].
      keys: Keys of the examples (`seeding.keys`), uint64 [n], from which the noise is drawn.
      seed: The run's seed.

    Returns:
      Priorities, float64 [n].

    References:
      Kim, Sabharwal & Ermon, Exact Sampling with Gumbel-top-k, 2016.
    """
    # A draw may be 0, and its logarithm infinite.
    uniform = np.maximum(seeding.uniform(seed, "dsir", keys), 2.0**-54)
    priority: np.ndarray = log_weights - np.log(-np.log(uniform))
    return priority


def count_ngrams(texts: Sequence[str], num_buckets: int = NUM_BUCKETS) -> scipy.sparse.csr_matrix:
    """Counts the hashed uni- and bigrams of each text, int64 [num_texts, num_buckets], sparse.

    If a text has marks (`beam_quad.answers`), only its answers are counted.
    """
    vectorizer = HashingVectorizer(
        n_features=num_buckets,
        ngram_range=(1, 2),
        token_pattern=r"\w+|[^\w\s]+",
        # Signs would let n-grams that share a bucket cancel each other, and a count could be negative.
        alternate_sign=False,
        norm=None,
        dtype=np.int64,
    )
    # The vectoriser refuses an empty list.
    if not texts:
        return scipy.sparse.csr_matrix((0, num_buckets), dtype=np.int64)
    return vectorizer.transform(map(answers.answers_of, texts))


def _log_probability(ngrams: NgramCounts, smoothing: float) -> np.ndarray:
    # Without smoothing, an n-gram missing from the query set alone would give a weight of minus infinity.
    smoothed = ngrams.counts + smoothing
    log_probability: np.ndarray = np.log(smoothed / smoothed.sum())
    return log_probability
