"""Words that tell clusters apart, for people to read."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

_WORD = r"[^\W\d_]{2,}"  # letters only: numbers and identifiers name no topic


def distinctive_terms(
    texts_by_cluster: Mapping[int, Sequence[str]], num_terms: int = 6
) -> dict[int, list[str]]:
    """Finds the words that set each cluster's texts apart from the others'.

    The weight of a word in a cluster is the share of the cluster's texts that have it, times log(1 + A / f): f the
    texts of all clusters that have it, A the mean number of texts of a cluster. That is BERTopic's c-TF-IDF with
    texts counted instead of occurrences, so that one text cannot name a cluster by repeating itself.

    Args:
      texts_by_cluster: A few texts of each cluster.
      num_terms: Words wanted per cluster.

    Returns:
      Up to `num_terms` words per cluster, best first, ties in alphabetical order; none for clusters without words.

    References:
      Grootendorst, BERTopic: Neural topic modeling with a class-based TF-IDF procedure, 2022.
    """
    clusters = [cluster for cluster, texts in texts_by_cluster.items() for _ in texts]
    texts = [text for cluster_texts in texts_by_cluster.values() for text in cluster_texts]
    vectorizer = CountVectorizer(token_pattern=_WORD, stop_words="english", binary=True)
    analyze = vectorizer.build_analyzer()
    terms: dict[int, list[str]] = {cluster: [] for cluster in texts_by_cluster}
    if not any(analyze(text) for text in texts):  # CountVectorizer refuses an empty vocabulary
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
