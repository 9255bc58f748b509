import numpy as np
import pytest

from beam_quad.selection import cluster_weighted_mean, weighted_mean

INFLUENCE = np.array([3.0, 7.0, -1.0, 2.0])
TOKENS = np.array([30, 10, 50, 10])
CLUSTERS = np.array([0, 0, 2, 2])


def test_the_mean_is_per_token():
    assert weighted_mean(INFLUENCE, TOKENS) == (90 + 70 - 50 + 20) / 100
    assert weighted_mean(INFLUENCE[:0], TOKENS[:0]) is None


def test_the_mean_is_exact_where_adding_one_by_one_is_not():
    values, ones = np.array([1e16, 1.0, -1e16, 1.0]), np.ones(4, np.int64)
    assert weighted_mean(values, ones) == 0.5


def test_clusters_weigh_what_they_have_in_the_corpus_and_examples_their_tokens():
    # Cluster 0 averages 4 per token, cluster 2 -1/2; cluster 1 was not scored and does not count.
    corpus_tokens = np.array([1000, 10**9, 3000, 0])
    found = cluster_weighted_mean(INFLUENCE, TOKENS, CLUSTERS, corpus_tokens)
    assert found == (1000 * 4.0 + 3000 * -0.5) / 4000
    assert cluster_weighted_mean(INFLUENCE[:0], TOKENS[:0], CLUSTERS[:0], corpus_tokens) is None


def test_a_pilot_of_equally_many_examples_a_cluster_estimates_the_mean_of_the_corpus():
    rng = np.random.default_rng(0)
    sizes = np.array([20_000, 2000, 200])
    clusters = np.repeat(np.arange(3), sizes)
    tokens = rng.integers(5, 100, len(clusters))
    # Influence that grows with the length, so that a mean over examples is another.
    influence = np.array([-1.0, 2.0, 10.0])[clusters] + tokens / 50 + rng.normal(size=len(clusters))
    pilot = np.concatenate([np.flatnonzero(clusters == c)[:150] for c in range(3)])
    corpus_tokens = np.bincount(clusters, weights=tokens).astype(np.int64)
    found = cluster_weighted_mean(influence[pilot], tokens[pilot], clusters[pilot], corpus_tokens)
    assert found == pytest.approx(np.average(influence, weights=tokens), abs=0.3)
    assert weighted_mean(influence[pilot], tokens[pilot]) > 3
