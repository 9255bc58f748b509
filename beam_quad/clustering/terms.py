"""Distinctive words of clusters, for the report."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

_WORD = r"[^\W\d_]{2,}"  # letters only, because numbers and identifiers do not describe a topic


def distinctive_terms(
    texts_by_cluster: Mapping[int, Sequence[str]], num_terms: int = 6
) -> dict[int, list[str]]:
    """Finds the words that distinguish each cluster's texts from those of the other clusters.

    The weight of a word in a cluster is the share of the cluster's texts with the word times log(1 + A / f), with f the
    number of texts of all clusters with the word and A the mean number of texts per cluster. This is BERTopic's c-TF-IDF
    with counts of texts instead of occurrences, so that one repetitive text cannot name a cluster.

    Args:
      texts_by_cluster: A few texts of each cluster.
      num_terms: Maximum number of words per cluster.

    Returns:
      Up to `num_terms` words per cluster, best first, with ties in alphabetical order; none for clusters without words.

    References:
      Grootendorst, BERTopic: Neural topic modeling with a class-based TF-IDF procedure, 2022.
    """
    clusters = [cluster for cluster, texts in texts_by_cluster.items() for _ in texts]
    texts = [text for cluster_texts in texts_by_cluster.values() for text in cluster_texts]
    vectorizer = CountVectorizer(token_pattern=_WORD, stop_words="english", binary=True)
    analyze = vectorizer.build_analyzer()
    terms: dict[int, list[str]] = {cluster: [] for cluster in texts_by_cluster}
    if not any(
        analyze(text) for text in texts
    ):  # CountVectorizer raises an error for an empty vocabulary
        return terms
    has_word = vectorizer.fit_transform(texts).astype(np.float64).tocsr()
    words = vectorizer.get_feature_names_out()
    rarity = np.log1p(len(texts) / len(terms) / has_word.sum(axis=0).A1)
    owner = np.asarray(clusters)
    for cluster in terms:
        rows = np.flatnonzero(owner == cluster)
        if len(rows):
            weights = has_word[rows].mean(axis=0).A1 * rarity
            best = np.lexsort((words, -weights))[:num_terms]
            terms[cluster] = [str(words[i]) for i in best if weights[i] > 0]
    return terms
