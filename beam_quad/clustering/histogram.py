"""Importance weights of clusters: how much more of the query set a cluster holds than of the corpus.

References:
  Grangier, Fan, Seto & Ablin, Task-Adaptive Pretrained Language Models via Clustered-Importance Sampling (CRISP), 2024,
  arXiv:2410.03735.
"""

import numpy as np

# Documents that the query set is smoothed with. The paper has none, and never samples a cluster without a query document;
# with one, such clusters come last, and a budget above what the others hold is still met.
PRIOR_EXAMPLES = 1.0


def cluster_log_weights(
    query_counts: np.ndarray, corpus_counts: np.ndarray, prior: float = PRIOR_EXAMPLES
) -> np.ndarray:
    """Computes the log importance weight of each cluster: the share of the query set in it over that of the corpus.

    The query set is smoothed by `prior` documents that are spread like the corpus, so that with q of its N documents in a
    cluster that has a share p of the corpus

        log w = log [(q + prior · p) / (N + prior)] - log p.

    Documents drawn in proportion to w (`scoring.sampling_priority`) have the query set's histogram of clusters, for as long as a
    cluster lasts: what is drawn is not put back.

    Args:
      query_counts: Query documents of each cluster, int64 [num_clusters].
      corpus_counts: Documents of the corpus in each cluster, int64 [num_clusters].
      prior: Documents of the prior, positive.

    Returns:
      Float64 [num_clusters]; 0 for a cluster without a document of the corpus, which has none to weigh.

    Raises:
      ValueError: If the counts do not fit together, either has none, or `prior` is not positive.
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
