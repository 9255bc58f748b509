import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad import seeding
from beam_quad.scoring.dsir import DSIRScorer, NgramCounts, count_ngrams, sampling_priority


def keys(num_keys):
    return seeding.keys(str(i) for i in range(num_keys))


def test_the_weight_is_the_sum_of_log_ratios_of_uni_and_bigrams():
    # Words a, b and the bigram "a b"; 10,000 buckets keep them apart. Smoothed by 1:
    # query  "a b", "a b": a 2, b 2, "a b" 2 of 6;  corpus "a", "b": a 1, b 1 of 2.
    query, corpus = NgramCounts.of(["a b", "a b"]), NgramCounts.of(["a", "b"])
    total_query, total_corpus = 6 + 10_000, 2 + 10_000
    word = math.log(3 / total_query) - math.log(2 / total_corpus)
    bigram = math.log(3 / total_query) - math.log(1 / total_corpus)
    score = DSIRScorer(query, corpus).score(["A b", "a", ""])
    np.testing.assert_allclose(score, [[2 * word + bigram], [word], [0]], rtol=1e-9, atol=1e-12)


def test_punctuation_is_a_word():
    assert count_ngrams(["Yes, no!?"]).sum() == 4 + 3


@given(cut=st.integers(0, 6))
def test_counts_do_not_depend_on_the_split(cut):
    texts = ["a b c", "", "b b", "c d e f", "!", "a b"]
    parts = NgramCounts.of(texts[cut:]) + NgramCounts.of(texts[:cut]) + NgramCounts.zero()
    assert parts.to_bytes() == NgramCounts.of(texts).to_bytes()
    assert parts.counts.dtype == np.int64
    np.testing.assert_array_equal(NgramCounts.from_bytes(parts.to_bytes()).counts, parts.counts)


def test_long_texts_weigh_like_one_chunk_of_themselves():
    query, corpus = NgramCounts.of(["good text " * 50]), NgramCounts.of(["bad noise " * 50])
    scorer = DSIRScorer(query, corpus)
    short, long = scorer.score(["good text " * 64, "good text " * 640])[:, 0]
    assert long == pytest.approx(short, rel=0.01)
    plain = DSIRScorer(query, corpus, chunk_words=None).score(["good text " * 640])[0, 0]
    assert plain == pytest.approx(10 * short, rel=0.01)


def test_higher_is_more_like_the_query_set():
    scorer = DSIRScorer(NgramCounts.of(["law court judge"]), NgramCounts.of(["cat dog law bird"]))
    court, cat = scorer.score(["the court", "the cat"])[:, 0]
    assert court > 0 > cat


def test_the_top_1_is_drawn_in_proportion_to_the_weights():
    log_weights = np.log(np.tile([0.1, 0.2, 0.7], (20_000, 1)))
    priority = sampling_priority(log_weights.ravel(), keys(60_000), seed=0).reshape(-1, 3)
    shares = np.bincount(priority.argmax(axis=1), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=0.015)


def test_a_priority_belongs_to_its_key():
    whole = sampling_priority(np.zeros(10), keys(10), seed=0)
    np.testing.assert_array_equal(sampling_priority(np.zeros(4), keys(10)[6:], seed=0), whole[6:])
    assert np.isfinite(whole).all()


def test_what_cannot_be_compared_is_refused():
    some = NgramCounts.of(["a"])
    with pytest.raises(ValueError, match="no words"):
        DSIRScorer(NgramCounts.zero(), some)
    with pytest.raises(ValueError, match="buckets"):
        DSIRScorer(NgramCounts.of(["a"], num_buckets=10), some)
    with pytest.raises(ValueError, match="smoothing"):
        DSIRScorer(some, some, smoothing=0)
    with pytest.raises(ValueError, match="cannot add"):
        some + NgramCounts.zero(10)
