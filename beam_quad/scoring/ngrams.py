"""Importance weights of n-grams counted in the proxy's own tokens: a score of every text that needs no model.

A small proxy learns uni- and bigrams before all else, so they say most of what a short training on a text does. DSIR
hashes words; the tokens counted here are those that the proxy trains on.

N-grams are counted in the windows that influence looks at (`gradients.windows.cut`). A text is cut into windows of
`context_length` tokens that do not overlap. If there are more than `max_windows`, evenly spaced ones are taken, the first and
the last among them; a last window of a single token is dropped. A bigram never crosses two windows, so a window of n tokens
has 2n - 1 n-grams.

References:
  Xie, Santurkar, Ma & Liang, Data Selection for Language Models via Importance Resampling, 2023.
  Zhai & Lafferty, A Study of Smoothing Methods for Language Models Applied to Information Retrieval, 2004.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from beam_quad import archives
from beam_quad.gradients.windows import Documents

NUM_BIGRAM_BUCKETS = 30_011
# N-grams that the query set is smoothed with, as many as two texts of 500 tokens hold.
PRIOR_NGRAMS = 2_000.0
# Odd, of random bits; a pair of tokens is hashed by the upper half of its product.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class TokenNgramCounts:
    """Counts of the uni- and bigrams of token ids. An additive statistic.

    Attributes:
      counts: Occurrences per bucket, int64 [vocabulary + 30,011]: a unigram's bucket is its token id, a bigram's is drawn by
        a hash among the others.
    """

    counts: np.ndarray

    def __post_init__(self) -> None:
        if self.counts.dtype != np.int64 or len(self.counts) <= NUM_BIGRAM_BUCKETS:
            raise ValueError(
                f"counts must be int64 [more than {NUM_BIGRAM_BUCKETS}], "
                f"got {self.counts.dtype} {self.counts.shape}"
            )

    def __add__(self, other: "TokenNgramCounts") -> "TokenNgramCounts":
        if self.counts.shape != other.counts.shape:
            raise ValueError(
                f"cannot add counts of vocabularies of {self.vocabulary} and {other.vocabulary} "
                "tokens; were they counted with different proxies?"
            )
        return TokenNgramCounts(self.counts + other.counts)

    @classmethod
    def zero(cls, vocabulary: int) -> "TokenNgramCounts":
        """Counts of no texts, for token ids below `vocabulary`."""
        return cls(np.zeros(vocabulary + NUM_BIGRAM_BUCKETS, np.int64))

    @classmethod
    def of(cls, documents: Documents, vocabulary: int) -> "TokenNgramCounts":
        """Counts the n-grams of tokenised texts.

        Args:
          documents: The texts, cut into windows.
          vocabulary: Rows of the proxy's embedding; every token id is below it.

        Raises:
          ValueError: If a token id is not.
        """
        tokens = _Tokens.of(documents)
        tokens.refuse_from(vocabulary)
        unigrams = np.bincount(tokens.ids, minlength=vocabulary)
        buckets = bigram_buckets(tokens.ids)[~tokens.is_first[1:]]
        return cls(np.concatenate([unigrams, np.bincount(buckets, minlength=NUM_BIGRAM_BUCKETS)]))

    @property
    def vocabulary(self) -> int:
        """Number of buckets of unigrams."""
        return len(self.counts) - NUM_BIGRAM_BUCKETS

    def to_bytes(self) -> bytes:
        """Writes the counts as an npz file."""
        return archives.dump(counts=self.counts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "TokenNgramCounts":
        """Reads what `to_bytes` wrote."""
        return cls(**archives.parse(raw))


def log_ratios(
    query: TokenNgramCounts, corpus: TokenNgramCounts, prior: float = PRIOR_NGRAMS
) -> np.ndarray:
    """Computes how much likelier each n-gram is in the query set than in the corpus.

    The corpus's probabilities p are smoothed by one occurrence a bucket. The query set, which lacks most n-grams, is
    smoothed by `prior` n-grams drawn from p (a Dirichlet prior), so that with c of the N n-grams of the query set in a bucket

        w = log [(c + prior · p) / (N + prior)] - log p = log [(c / p + prior) / (N + prior)].

    A bucket that the query set lacks has one and the same weight, log [prior / (N + prior)], however rare it is.

    Args:
      query: Counts of the query set.
      corpus: Counts of the corpus, or of a uniform sample of it.
      prior: N-grams of the prior, positive.

    Returns:
      Float64 [num_buckets].

    Raises:
      ValueError: If the counts do not fit together, the query set has none, or `prior` is not positive.
    """
    if query.counts.shape != corpus.counts.shape:
        raise ValueError(
            f"the query set's vocabulary has {query.vocabulary} tokens, the corpus's "
            f"{corpus.vocabulary}; were they counted with different proxies?"
        )
    if not prior > 0:
        raise ValueError(f"prior must be positive, got {prior}")
    num_ngrams = int(query.counts.sum())
    if not num_ngrams:
        raise ValueError("the query set has no n-grams, so nothing is more like it")
    smoothed = corpus.counts + 1.0
    probabilities = smoothed / smoothed.sum()
    ratios: np.ndarray = np.log((query.counts / probabilities + prior) / (num_ngrams + prior))
    return ratios


class NgramScorer:
    """Scores a text by the mean log ratio of its n-grams: how much likelier they are in the query set than in the corpus.

    Higher: more like the query set. A mean, so that the length of a text is not rewarded.

    Args:
      queries: Counts of each query group.
      corpus: Counts of the corpus, or of a uniform sample of it.
      read: Tokenises texts and cuts them into windows, as `Proxy.read` does.
      prior: As in `log_ratios`.

    Raises:
      ValueError: If there is no group, or as `log_ratios`.
    """

    def __init__(
        self,
        queries: Mapping[str, TokenNgramCounts],
        corpus: TokenNgramCounts,
        read: Callable[[Sequence[str]], Documents],
        prior: float = PRIOR_NGRAMS,
    ) -> None:
        if not queries:
            raise ValueError("there is no query group to compare texts with")
        self.groups = tuple(queries)
        self._vocabulary = corpus.vocabulary
        ratios = [log_ratios(query, corpus, prior) for query in queries.values()]
        self._unigrams = [own[: self._vocabulary] for own in ratios]
        self._bigrams = [own[self._vocabulary :] for own in ratios]
        self._read = read

    def prepare(self, texts: Sequence[str]) -> Documents:
        """Tokenises texts for `score`."""
        return self._read(texts)

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts; each depends on nothing but itself.

        Args:
          texts: The texts, or prepared ones.

        Returns:
          Float64 [num_texts, num_groups]; nan for a text of fewer than 2 tokens.
        """
        documents = texts if isinstance(texts, Documents) else self._read(texts)
        tokens = _Tokens.of(documents)
        tokens.refuse_from(self._vocabulary)
        num_documents = len(documents.loss_tokens)
        counts = np.bincount(
            tokens.documents, weights=2 * tokens.lengths - 1, minlength=num_documents
        )
        # A bigram's weight stands at its second token.
        buckets = np.append(np.intp(0), bigram_buckets(tokens.ids))
        scores = np.full((num_documents, len(self.groups)), np.nan)
        for group, (unigrams, bigrams) in enumerate(
            zip(self._unigrams, self._bigrams, strict=True)
        ):
            weights = unigrams[tokens.ids] + np.where(tokens.is_first, 0.0, bigrams[buckets])
            by_window = np.add.reduceat(weights, tokens.starts) if len(weights) else weights
            sums = np.bincount(tokens.documents, weights=by_window, minlength=num_documents)
            np.divide(sums, counts, out=scores[:, group], where=counts > 0)
        return scores


def bigram_buckets(ids: np.ndarray) -> np.ndarray:
    """Hashes each token id with the one after it: int64 [n], at least 1, to int64 [n - 1] in [0, 30,011)."""
    unsigned = ids.astype(np.uint64)
    hashed = ((unsigned[:-1] << np.uint64(32)) | unsigned[1:]) * _MULTIPLIER
    # The multiplier's halves differ, so that the upper half of the product depends on both tokens and on their order.
    upper = (hashed >> np.uint64(32)).astype(np.uint32)
    buckets: np.ndarray = (upper % np.uint32(NUM_BIGRAM_BUCKETS)).astype(np.intp)
    return buckets


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """All windows of a call, one after the other.

    Attributes:
      ids: Token ids, int64 [num_tokens].
      starts: Where each window begins, int64 [num_windows].
      lengths: Tokens of each window, at least 2, int64 [num_windows].
      documents: Document of each window, ascending, int64 [num_windows].
      is_first: Whether a token is the first of its window, bool [num_tokens].
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    documents: np.ndarray
    is_first: np.ndarray

    @classmethod
    def of(cls, documents: Documents) -> "_Tokens":
        windows = documents.windows
        lengths = np.array([len(window.tokens) for window in windows], np.int64)
        tokens = itertools.chain.from_iterable(window.tokens for window in windows)
        ids = np.fromiter(tokens, np.int64, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        is_first = np.zeros(len(ids), bool)
        is_first[starts] = True
        of_window = np.array([window.document for window in windows], np.int64)
        return cls(ids, starts, lengths, of_window, is_first)

    def refuse_from(self, vocabulary: int) -> None:
        if len(self.ids) and not (self.ids.min() >= 0 and self.ids.max() < vocabulary):
            raise ValueError(
                f"token ids {self.ids.min()} to {self.ids.max()} are not all in [0, {vocabulary}); "
                "was the text tokenised for another proxy?"
            )
