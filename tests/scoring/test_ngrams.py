import collections
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.gradients import tokenize
from beam_quad.gradients.windows import Documents, cut
from beam_quad.scoring.ngrams import (
    NUM_BIGRAM_BUCKETS,
    NgramScorer,
    TokenNgramCounts,
    bigram_buckets,
    count_taken,
    query_vector,
)
from tests.gradients import tiny
from tests.gradients.tiny import EXACT, VOCABULARY

# Windows of 16 tokens, 4 at most: a last window of one token, texts of no window, and one of which only pieces are read.
LENGTHS = [6, 33, 1, 0, 90, 16, 300]
TEXTS = tiny.texts(LENGTHS)
QUERY = tiny.texts([20, 40], seed=1)
NUM_BUCKETS = VOCABULARY + NUM_BIGRAM_BUCKETS


def read(texts):
    return Documents.of(texts, tiny.tokenizer(), context_length=16, max_windows=4)


def counts_of(texts):
    return TokenNgramCounts.of(read(texts), VOCABULARY)


def buckets_one_by_one(text):
    """The buckets of a text's uni- and bigrams, one n-gram at a time."""
    found = []
    (tokens,) = tokenize(tiny.tokenizer(), [text])
    for window in cut(tokens, 16, 4):
        found += window
        for pair in itertools.pairwise(window):
            found.append(VOCABULARY + int(bigram_buckets(np.array(pair))[0]))
    return found


def test_counts_are_those_of_the_uni_and_bigrams_within_each_window():
    expected = collections.Counter(bucket for text in TEXTS for bucket in buckets_one_by_one(text))
    found = counts_of(TEXTS).counts
    assert {int(i): int(found[i]) for i in np.flatnonzero(found)} == expected
    # Windows of 16 tokens have 31: two of the 33 tokens, three and one of 10 of the 90, three and one of 12 of the 300.
    assert sum(expected.values()) == 11 + 2 * 31 + (3 * 31 + 19) + 31 + (3 * 31 + 23)


@pytest.mark.parametrize("taken", [None, TEXTS[:2]])
def test_a_score_is_the_influence_of_a_softmax_over_n_grams_over_a_gradient_of_unit_length(taken):
    query, corpus = counts_of(QUERY), counts_of(TEXTS)
    # A model of one logit a bucket, dense, with the gradient of its mean loss by autograd.
    shares = torch.from_numpy(corpus.counts / corpus.counts.sum())
    own_taken = None if taken is None else counts_of(taken)
    if own_taken is not None:
        own_shares = torch.from_numpy(own_taken.counts / own_taken.counts.sum())
        shares = 0.9 * shares + 0.1 * own_shares

    def gradient(buckets):
        logits = shares.clamp_min(1e-300).log().requires_grad_()
        loss = -torch.log_softmax(logits, 0)[torch.tensor(buckets)].mean()
        return torch.autograd.grad(loss, logits)[0]

    of_query = gradient([bucket for text in QUERY for bucket in buckets_one_by_one(text)])
    target = of_query / (shares + 0.25 / NUM_BUCKETS)
    expected = [np.nan] * len(TEXTS)
    for i, text in enumerate(TEXTS):
        if buckets := buckets_one_by_one(text):
            own = gradient(buckets)
            expected[i] = float(own @ target / own.norm())
    found = NgramScorer({"query": query}, corpus, read, own_taken, damping=0.25).score(TEXTS)
    assert found.shape == (len(TEXTS), 1)
    np.testing.assert_allclose(found[:, 0], expected, **EXACT)


def test_the_query_vector_without_damping_is_the_newton_step_of_the_softmax():
    counts = np.zeros(NUM_BUCKETS, np.int64)
    counts[:40] = np.arange(1, 41)
    own = np.zeros(NUM_BUCKETS, np.int64)
    own[5:30] = 3
    p, q = counts[:40] / counts.sum(), own[:40] / own.sum()
    fisher = np.diag(p) - np.outer(p, p)
    expected = np.linalg.pinv(fisher) @ (q - p)
    found = query_vector(TokenNgramCounts(own), TokenNgramCounts(counts), damping=1e-9)[:40]
    # Logits mean the same if all are shifted alike.
    np.testing.assert_allclose(found - found.mean(), expected, rtol=1e-6, atol=1e-9)


def test_a_dump_of_a_few_n_grams_is_behind_a_text_of_the_query_set_s_kind():
    clinic = ["1 2 21 22 23 24 1 3", "2 3 25 26 27 28 3 1", "3 1 22 25 23 27 2 2"]
    others = ["11 12 13 14 15 16 17 18 19 20"] * 40 + ["21 22 23 24 25 26 27 28"]
    dump, note = "1 2 1 2 1 2 1 2", "1 2 21 22 26 27 3 1"
    query, corpus = counts_of(clinic), counts_of([*clinic, *others])
    vector = query_vector(query, corpus)
    means = [vector[buckets_one_by_one(text)].mean() for text in (dump, note)]
    scores = NgramScorer({"query": query}, corpus, read).score([dump, note])[:, 0]
    assert means[0] > means[1]
    assert scores[0] < scores[1]


def test_a_first_look_takes_the_best_texts_until_they_hold_a_tenth_of_the_tokens():
    texts = tiny.texts([30] * 40, seed=2)
    scorer = NgramScorer({"query": counts_of(QUERY)}, counts_of(texts), read)
    tokens = read(texts).loss_tokens
    taken: list[str] = []
    for i in np.argsort(-scorer.score(texts)[:, 0]):
        if read(taken).loss_tokens.sum() < tokens.sum() / 10:
            taken.append(texts[i])
    assert 1 < len(taken) < 10
    found = count_taken(texts, scorer, [1.0])
    assert found.to_bytes() == counts_of(taken).to_bytes()


def test_an_n_gram_that_is_still_missing_counts_more_than_one_of_which_there_is_plenty():
    plenty, rare = "1 2 3 4 5 6", "11 12 13 14 15 16"
    corpus = [*[plenty] * 10, rare, *["21 22 23 24 25 26 27 28 29 30"] * 30]
    query, others = counts_of([plenty] * 12 + [rare]), counts_of(corpus)
    first = NgramScorer({"query": query}, others, read)
    ahead = NgramScorer({"query": query}, others, read, count_taken(corpus, first, [1.0]))
    assert np.diff(first.score([rare, plenty])[:, 0]) > 0
    assert np.diff(ahead.score([rare, plenty])[:, 0]) < 0


def test_higher_is_more_like_the_query_set_by_its_words_or_by_their_order():
    scorer = NgramScorer({"query": counts_of(["1 2 3 4"] * 4)}, counts_of(TEXTS), read)
    own, shuffled, other = scorer.score(["1 2 3 4", "4 3 2 1", "7 8 9 10"])[:, 0]
    assert own > shuffled > other


@given(cut=st.integers(0, len(TEXTS)))
def test_counts_do_not_depend_on_the_split(cut):
    parts = counts_of(TEXTS[cut:]) + counts_of(TEXTS[:cut]) + TokenNgramCounts.zero(VOCABULARY)
    assert parts.to_bytes() == counts_of(TEXTS).to_bytes()
    assert TokenNgramCounts.from_bytes(parts.to_bytes()).counts.dtype == np.int64
    assert parts.vocabulary == VOCABULARY


def test_a_score_depends_on_nothing_but_its_text():
    groups = {"one": counts_of(QUERY[:1]), "two": counts_of(QUERY[1:])}
    scorer = NgramScorer(groups, counts_of(TEXTS), read)
    whole = scorer.score(scorer.prepare(TEXTS))
    one_by_one = np.concatenate([scorer.score([text]) for text in TEXTS])
    np.testing.assert_array_equal(one_by_one, whole)
    alone = NgramScorer({"two": groups["two"]}, counts_of(TEXTS), read).score(TEXTS)
    np.testing.assert_array_equal(alone[:, 0], whole[:, 1])


def test_a_call_without_a_token_counts_and_scores_nothing():
    scorer = NgramScorer({"query": counts_of(QUERY)}, counts_of(TEXTS), read)
    assert np.isnan(scorer.score(["", "1"])).all()
    assert scorer.score([]).shape == (0, 1)
    assert counts_of(["", "1"]).counts.sum() == 0


def test_pairs_of_tokens_spread_evenly_over_the_buckets():
    first, second = np.meshgrid(np.arange(1000), np.arange(1000), indexing="ij")
    # All pairs of 1,000 tokens, each behind the last: every other bigram is one of them.
    pairs = np.stack([first.ravel(), second.ravel()], axis=1).ravel()
    found = np.bincount(bigram_buckets(pairs)[::2], minlength=NUM_BIGRAM_BUCKETS)
    expected = 1e6 / NUM_BIGRAM_BUCKETS
    chi_square = ((found - expected) ** 2 / expected).sum()
    assert chi_square < NUM_BIGRAM_BUCKETS + 6 * math.sqrt(2 * NUM_BIGRAM_BUCKETS)


def test_what_cannot_be_compared_is_refused():
    query, corpus = counts_of(QUERY), counts_of(TEXTS)
    other = TokenNgramCounts.zero(VOCABULARY + 1)
    with pytest.raises(ValueError, match="no n-grams"):
        query_vector(TokenNgramCounts.zero(VOCABULARY), corpus)
    with pytest.raises(ValueError, match="different proxies"):
        query_vector(query, other)
    with pytest.raises(ValueError, match="different proxies"):
        query + other
    with pytest.raises(ValueError, match="damping must be positive"):
        query_vector(query, corpus, damping=0)
    with pytest.raises(ValueError, match="no query group"):
        NgramScorer({}, corpus, read)
    with pytest.raises(ValueError, match="another proxy"):
        TokenNgramCounts.of(read(["3 31"]), vocabulary=31)
    with pytest.raises(ValueError, match="counts must be int64"):
        TokenNgramCounts(np.zeros(5))
