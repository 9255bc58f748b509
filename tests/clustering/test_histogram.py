import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.clustering import cluster_log_weights
from beam_quad.scoring import sampling_priority


def test_weights_are_shares_of_the_query_set_over_shares_of_the_corpus():
    query, corpus = np.array([6, 2, 0, 0]), np.array([100, 200, 700, 0])
    weights = np.exp(cluster_log_weights(query, corpus, prior=1e-9))
    np.testing.assert_allclose(weights, [0.75 / 0.1, 0.25 / 0.2, 0, 1], atol=1e-9)
    # A prior is documents spread like the corpus.
    smoothed = np.exp(cluster_log_weights(query, corpus, prior=2.0))
    shares = np.array([0.1, 0.2, 0.7])
    np.testing.assert_allclose(smoothed[:3], (query[:3] + 2 * shares) / 10 / shares)


def test_what_is_drawn_by_the_weights_has_the_histogram_of_the_query_set():
    corpus, query = np.array([6_000, 30_000, 64_000]), np.array([50, 30, 20])
    clusters = np.repeat(np.arange(3), corpus)
    keys = seeding.keys(map(str, range(len(clusters))))
    priority = sampling_priority(cluster_log_weights(query, corpus)[clusters], keys, seed=0)
    drawn = clusters[np.argsort(-priority)[:1_000]]
    # What is drawn is not put back: of the first cluster a twelfth is gone at the end.
    np.testing.assert_allclose(np.bincount(drawn) / 1_000, [0.5, 0.3, 0.2], atol=0.05)


def test_counts_that_do_not_fit_are_refused():
    some = np.array([1, 2])
    with pytest.raises(ValueError, match="different centers"):
        cluster_log_weights(some, np.array([1]))
    with pytest.raises(ValueError, match="some of each"):
        cluster_log_weights(np.zeros(2, int), some)
    with pytest.raises(ValueError, match="prior"):
        cluster_log_weights(some, some, prior=0)
