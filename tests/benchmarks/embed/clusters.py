"""Do clusters and cosines of embeddings tell domains apart?"""

import statistics

import numpy as np
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score

from beam_quad import seeding
from beam_quad.clustering import assign, fit_centers

_SEEDS = 5
_MAX_SHARE = 0.5


def information(points: np.ndarray, labels: np.ndarray, texts: list[str]) -> float:
    """Measures the mutual information of clusters and domains, normalised, a mean over seeds and numbers of clusters.

    Args:
      points: Unit rows, float32 [n, dim].
      labels: Domains, str [n].
      texts: The texts, for their keys.
    """
    keys, num_labels = seeding.keys(texts), len(np.unique(labels))
    found = []
    for num_clusters in (num_labels, 2 * num_labels):
        for seed in range(_SEEDS):
            centers, _ = fit_centers(points, num_clusters, seed, _MAX_SHARE)
            clusters, _ = assign(points, keys, centers, seed)
            found.append(float(normalized_mutual_info_score(labels, clusters)))
    return statistics.fmean(found)


def singled_out(points: np.ndarray, labels: np.ndarray) -> float:
    """Measures how well the mean cosine to a quarter of a domain's documents singles out the others: AUC, mean of domains.

    Args:
      points: Unit rows, float32 [n, dim].
      labels: Domains, str [n].
    """
    found = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        query = own[: len(own) // 4]
        rest = np.setdiff1d(np.arange(len(labels)), query)
        if len(query):
            cosines = points[rest] @ points[query].mean(axis=0)
            found.append(float(roc_auc_score(labels[rest] == label, cosines)))
    return statistics.fmean(found)
