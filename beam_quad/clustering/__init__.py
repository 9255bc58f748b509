"""Clusters of unit vectors: fits centers to a sample, assigns the corpus, sums over clusters, and names them."""

from beam_quad.clustering.assign import assign
from beam_quad.clustering.centers import Centers, FitReport
from beam_quad.clustering.histogram import cluster_log_weights
from beam_quad.clustering.kmeans import (
    POINTS_PER_CLUSTER,
    default_num_clusters,
    fit_centers,
    sample_rate,
)
from beam_quad.clustering.layout import layout
from beam_quad.clustering.similarity import PointSum, best_similarity, mean_similarity
from beam_quad.clustering.sums import ClusterSums
from beam_quad.clustering.terms import distinctive_terms

__all__ = [
    "POINTS_PER_CLUSTER",
    "Centers",
    "ClusterSums",
    "FitReport",
    "PointSum",
    "assign",
    "best_similarity",
    "cluster_log_weights",
    "default_num_clusters",
    "distinctive_terms",
    "fit_centers",
    "layout",
    "mean_similarity",
    "sample_rate",
]
