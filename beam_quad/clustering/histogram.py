"""Importance weights of clusters: the share of the query set in a cluster relative to the cluster's share of the corpus.

References:
  Grangier, Fan, Seto & Ablin, Task-Adaptive Pretrained Language Models via Clustered-Importance Sampling (CRISP), 2024,
  arXiv:2410.03735.
"""

import numpy as np

# Pseudo-documents that smooth the query set. The paper uses none and never samples a cluster without a query document. With
# one, such clusters come last, so a budget larger than the other clusters can still be met.
PRIOR_EXAMPLES = 1.0


def cluster_log_weights(
    query_counts: np.ndarray, corpus_counts: np.ndarray, prior: float = PRIOR_EXAMPLES
) -> np.ndarray:
    """Computes the log importance weight of each cluster: its share of the query set over its share of the corpus.

    The query set is smoothed by `prior` pseudo-documents distributed like the corpus. For a cluster with q of the N query
    documents and a share p of the corpus,

        log w = log [(q + prior · p) / (N + prior)] - log p.

    Documents drawn in proportion to w (`scoring.sampling_priority`) have the query set's histogram of clusters until a cluster
    is exhausted, because they are drawn without replacement.

    Args:
      query_counts: Query documents of each cluster, int64 [num_clusters].
      corpus_counts: Corpus documents of each cluster, int64 [num_clusters].
      prior: Number of pseudo-documents, positive.

    Returns:
      Float64 [num_clusters]; 0 for a cluster without corpus documents.

    Raises:
      ValueError: If the lengths differ, the query set or the corpus is empty, or `prior` is not positive.
    """
    if query_counts.shape != corpus_counts.shape:
        raise ValueError(
            f"the query set has {len(query_counts)} clusters, the corpus {len(corpus_counts)}; "
            "were they assigned to different centers?"
        )
    if not prior > 0:
        raise ValueError(f"prior must be positive, got {prior}")
    num_queries, num_examples = int(query_counts.sum()), int(corpus_counts.sum())
    if not num_queries or not num_examples:
        raise ValueError(
            f"{num_queries} query documents and {num_examples} of the corpus have a cluster; "
            "there must be some of each"
        )
    shares = corpus_counts / num_examples
    ratios = np.divide(query_counts, shares, out=np.zeros(len(shares)), where=corpus_counts > 0)
    log_weights = np.log((ratios + prior) / (num_queries + prior))
    return np.where(corpus_counts > 0, log_weights, 0.0)
