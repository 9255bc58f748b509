"""Influence under an n-gram model over the proxy's own tokens: a score for every text that needs no model.

A small proxy learns uni- and bigrams first, so they explain most of the effect of a short training on a text. DSIR hashes words;
here the proxy's training tokens are counted. The score is the `influence` of a model with one logit per bucket. It has a closed
form, so scoring a text takes only a lookup of its n-grams.

N-grams are counted in the same windows as influence (`gradients.windows.cut`). A text is cut into windows of `context_length`
tokens without overlap. If there are more than `max_windows`, evenly spaced ones are taken, including the first and the last; a
last window of a single token is dropped. A bigram never crosses two windows, so a window of n tokens has 2n - 1 n-grams. If a
text answers prompts (`beam_quad.answers`), only the tokens of answers are counted, with each answer treated as a window.

The score looks ahead. Texts that rank highest under the corpus's n-grams are all alike: they share the few n-grams that the
query set has more of, and a model that trains on them soon has enough of these. So the texts that a first look would take are
counted (`count_taken`), and texts are scored under the model that has learned some of them: an n-gram which is still missing
counts more than one of which there is plenty.

References:
  Xie, Santurkar, Ma & Liang, Data Selection for Language Models via Importance Resampling, 2023.
  Koh & Liang, Understanding Black-box Predictions via Influence Functions, 2017.
  Axelrod, Cynical Selection of Language Model Training Data, 2017 (what is taken changes what is worth taking).
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from beam_quad import archives
from beam_quad.columns import slices
from beam_quad.gradients.windows import Documents
from beam_quad.scoring.groups import combine_standardised

NUM_BIGRAM_BUCKETS = 30_011
# λ in units of the mean eigenvalue of the Fisher. Selections hardly change from .003 to 3. λ bounds the weight of an n-gram
# missing from the corpus, however large the corpus.
DAMPING = 0.1
# A first look takes this share of the corpus, and the model ahead gives what it takes this weight. The share need not follow the
# budget: budgets of 1 to 11 % gain with it. Twice the weight gains as much on a proxy of 1 M parameters, and loses on one of 5 M.
TAKEN_SHARE = 0.1
TAKEN_WEIGHT = 0.1
# Texts of a first look: of so many, a tenth has more n-grams than there are buckets.
NUM_LOOKED_AT = 20_000
# Texts per call of the scorer.
_RUN = 256
# An odd number of random bits; the hash of a pair of tokens is the upper half of its product with it.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class TokenNgramCounts:
    """Counts of the uni- and bigrams of token ids. An additive statistic.

    Attributes:
      counts: Occurrences per bucket, int64 [vocabulary + 30,011]. The bucket of a unigram is its token id; the bucket of a
        bigram is one of the others, chosen by a hash.
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
          ValueError: If a token id is out of range.
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


def counts_bytes(vocabulary: int) -> float:
    """Bytes of one file of `TokenNgramCounts`, without its header."""
    return 8.0 * (vocabulary + NUM_BIGRAM_BUCKETS)


def query_vector(
    query: TokenNgramCounts,
    corpus: TokenNgramCounts,
    taken: TokenNgramCounts | None = None,
    damping: float = DAMPING,
) -> np.ndarray:
    """Computes the preconditioned direction in which the n-gram model improves on the query set.

    The model gives bucket g the probability p[g] of the corpus, mixed with that of the texts a first look would take, by a
    softmax over B logits. For a set of n-grams with shares q, the gradient of the mean loss with respect to the logits is
    p - q. The Fisher is diag(p), except for a rank-one term that shifts all logits equally, and its mean eigenvalue is 1 / B.
    The preconditioned direction of falling loss is

        v[g] = (q[g] - p[g]) / (p[g] + damping / B),

    which is how many times likelier an n-gram is in the query set than under the model, less 1.

    Args:
      query: Counts of the query set.
      corpus: Counts of the corpus, or of a uniform sample of it.
      taken: Counts of what a first look would take (`count_taken`); None scores under the corpus alone.
      damping: λ over the mean eigenvalue, positive.

    Returns:
      Float64 [num_buckets].

    Raises:
      ValueError: If the counts do not fit together, the query set is empty, or `damping` is not positive.
    """
    if query.counts.shape != corpus.counts.shape:
        raise ValueError(
            f"the query set's vocabulary has {query.vocabulary} tokens, the corpus's "
            f"{corpus.vocabulary}; were they counted with different proxies?"
        )
    if not damping > 0:
        raise ValueError(f"damping must be positive, got {damping}")
    if not query.counts.any():
        raise ValueError("the query set has no n-grams, so nothing is more like it")
    shares, probabilities = _shares(query), _probabilities(corpus, taken)
    vector: np.ndarray = (shares - probabilities) / (probabilities + damping / len(shares))
    return vector


def _shares(counts: TokenNgramCounts) -> np.ndarray:
    return np.asarray(counts.counts / max(1, counts.counts.sum()))


def _probabilities(corpus: TokenNgramCounts, taken: TokenNgramCounts | None) -> np.ndarray:
    """Computes the model's probability of each bucket, float64 [num_buckets]."""
    if taken is None or not taken.counts.any():
        return _shares(corpus)
    return np.asarray((1 - TAKEN_WEIGHT) * _shares(corpus) + TAKEN_WEIGHT * _shares(taken))


class NgramScorer:
    """Scores a text by its influence on the query set under the n-gram model, with a normalised gradient.

    With f[g] the share of bucket g among the text's n-grams, and p and v as in `query_vector`,

        I = < f - p , v > / || f - p ||.

    A higher score means that the text's n-grams are likelier in the query set. Repetition makes the gradient longer, so a text
    of a few repeated n-grams scores low even if each is a little likelier there, as for digits in a data dump and clinical notes.

    Args:
      queries: Counts of each query group.
      corpus: Counts of the corpus, or of a uniform sample of it.
      read: Tokenises texts and cuts them into windows, like `Proxy.read`.
      taken: Counts of what a first look would take, as in `query_vector`.
      damping: As in `query_vector`.

    Raises:
      ValueError: If there is no group, or as `query_vector`.
    """

    def __init__(
        self,
        queries: Mapping[str, TokenNgramCounts],
        corpus: TokenNgramCounts,
        read: Callable[[Sequence[str]], Documents],
        taken: TokenNgramCounts | None = None,
        damping: float = DAMPING,
    ) -> None:
        if not queries:
            raise ValueError("there is no query group to compare texts with")
        self.groups = tuple(queries)
        self.vocabulary = corpus.vocabulary
        self._probabilities = _probabilities(corpus, taken)
        self._vectors = [query_vector(query, corpus, taken, damping) for query in queries.values()]
        self._read = read

    def prepare(self, texts: Sequence[str]) -> Documents:
        """Tokenises texts for `score`."""
        return self._read(texts)

    def score(self, texts: Sequence[str] | Documents) -> np.ndarray:
        """Scores texts; a score does not depend on the other texts.

        Args:
          texts: The documents, as texts or prepared.

        Returns:
          Float64 [num_texts, num_groups]; nan if a text has fewer than 2 tokens.
        """
        documents = texts if isinstance(texts, Documents) else self._read(texts)
        tokens = _Tokens.of(documents)
        tokens.refuse_from(self.vocabulary)
        num_documents = len(documents.loss_tokens)
        owners, buckets, counts = tokens.ngrams(self.vocabulary)

        def by_document(values: np.ndarray) -> np.ndarray:
            return np.bincount(owners, weights=values, minlength=num_documents)

        p = self._probabilities
        num_ngrams = by_document(counts)
        shares = counts / num_ngrams[owners]
        # ||f - p||² over the buckets missing from a text, where f = 0, without visiting them.
        # Rounding may leave a difference below 0, which has no root.
        lacking = np.maximum(p @ p - by_document(p[buckets] ** 2), 0.0)
        lengths = np.sqrt(by_document((shares - p[buckets]) ** 2) + lacking)
        scores = np.zeros((num_documents, len(self.groups)))
        for group, vector in enumerate(self._vectors):
            products = by_document(shares * vector[buckets]) - p @ vector
            np.divide(products, lengths, out=scores[:, group], where=lengths > 0)
        scores[num_ngrams == 0] = np.nan
        return scores


def count_taken(
    texts: Sequence[str], scorer: NgramScorer, group_weights: Sequence[float]
) -> TokenNgramCounts:
    """Counts the n-grams of what a first look would take: the texts that score highest, until they hold a tenth of all tokens.

    Args:
      texts: A uniform sample of the corpus, of about `NUM_LOOKED_AT` texts. Of equal scores the first is taken.
      scorer: Scores under the corpus alone.
      group_weights: Weight of each query group.

    Returns:
      Counts of the taken texts; of none if no text can be scored.
    """
    scores = np.zeros((len(texts), len(scorer.groups)))
    tokens = np.zeros(len(texts), np.int64)
    for run in slices(len(texts), _RUN):
        documents = scorer.prepare(texts[run])
        scores[run], tokens[run] = scorer.score(documents), documents.loss_tokens
    ranks = combine_standardised(scores, group_weights)
    # nan sorts last, so the finite ranks come first.
    best = np.argsort(-ranks, kind="stable")[: np.count_nonzero(np.isfinite(ranks))]
    before = np.cumsum(tokens[best]) - tokens[best]
    taken = np.sort(best[before < TAKEN_SHARE * tokens.sum()])
    counts = TokenNgramCounts.zero(scorer.vocabulary)
    for run in slices(len(taken), _RUN):
        own = scorer.prepare([texts[i] for i in taken[run]])
        counts = counts + TokenNgramCounts.of(own, scorer.vocabulary)
    return counts


def bigram_buckets(ids: np.ndarray) -> np.ndarray:
    """Hashes each token id with the next one: int64 [n], n >= 1, to int64 [n - 1] in [0, 30,011)."""
    unsigned = ids.astype(np.uint64)
    hashed = ((unsigned[:-1] << np.uint64(32)) | unsigned[1:]) * _MULTIPLIER
    # The halves of the multiplier differ, so the upper half of the product depends on both tokens and their order.
    upper = (hashed >> np.uint64(32)).astype(np.uint32)
    buckets: np.ndarray = (upper % np.uint32(NUM_BIGRAM_BUCKETS)).astype(np.intp)
    return buckets


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """The concatenated windows of a call; in texts with answers, each answer is a window.

    Attributes:
      ids: Token ids, int64 [num_tokens].
      starts: Start of each window, int64 [num_windows].
      lengths: Tokens of each window, at least 1, int64 [num_windows].
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
        counted = [
            (window.document, tokens)
            for window in documents.windows
            for tokens in window.answer_tokens()
        ]
        lengths = np.array([len(tokens) for _, tokens in counted], np.int64)
        tokens = itertools.chain.from_iterable(tokens for _, tokens in counted)
        ids = np.fromiter(tokens, np.int64, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        is_first = np.zeros(len(ids), bool)
        is_first[starts] = True
        of_window = np.array([document for document, _ in counted], np.int64)
        return cls(ids, starts, lengths, of_window, is_first)

    def ngrams(self, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts each document's distinct uni- and bigrams: document, bucket and occurrences, each int64 [n], ascending."""
        num_buckets = vocabulary + NUM_BIGRAM_BUCKETS
        first = np.repeat(self.documents, self.lengths) * num_buckets
        is_second = ~self.is_first[1:]
        bigrams = first[1:] + vocabulary + bigram_buckets(self.ids)
        pairs = np.concatenate([first + self.ids, bigrams[is_second]])
        # The document is part of each number, so one sort serves all documents of a call.
        distinct, counts = np.unique(pairs, return_counts=True)
        return *np.divmod(distinct, num_buckets), counts

    def refuse_from(self, vocabulary: int) -> None:
        if len(self.ids) and not (self.ids.min() >= 0 and self.ids.max() < vocabulary):
            raise ValueError(
                f"token ids {self.ids.min()} to {self.ids.max()} are not all in [0, {vocabulary}); "
                "was the text tokenised for another proxy?"
            )
