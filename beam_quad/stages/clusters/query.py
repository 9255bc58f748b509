"""The query set's histogram over clusters, and the log weights that sample clusters by it."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import archives
from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.clustering import assign, cluster_log_weights
from beam_quad.plan.work import Sizes, Work
from beam_quad.stages.base import Stage
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.embed_query import EmbedQuery


@dataclasses.dataclass(frozen=True)
class CountQueryClusters(Stage):
    """Assigns the texts of the query set to the corpus's clusters and counts them, in one piece.

    Args:
      query: The embeddings of the query set.
      clusters: The clusters of the corpus.
    """

    kind = "query_clusters"
    artifact_name = "counts.npz"

    query: EmbedQuery
    clusters: AssignClusters

    @property
    def root(self) -> str:
        return self.clusters.root

    def work(self, sizes: Sizes) -> Work:
        return Work("query", sizes.query_documents)

    def pieces(self) -> list[int]:
        return [0]

    def do(self, piece: int, model: Any) -> Tally:
        centers = self.clusters.centers.load()
        found, _ = assign(*self.query.points(), centers, self.clusters.corpus.seed)
        counts = np.bincount(found, minlength=centers.num_clusters)
        return Tally({str(cluster): int(counts[cluster]) for cluster in np.flatnonzero(counts)})

    def finish(self, total: Tally) -> None:
        counts = [total[str(c)] for c in range(self.clusters.centers.load().num_clusters)]
        files.write_once(self.artifact, archives.dump(counts=np.array(counts, np.int64)))

    @once_per_process
    def log_weights(self) -> np.ndarray:
        """Returns the log of each cluster's share of the query set over its share of the corpus, once per process.

        Returns:
          Float64 [num_clusters], as `cluster_log_weights`.
        """
        counts = archives.parse(files.read_bytes(self.artifact))["counts"]
        return cluster_log_weights(counts, self.clusters.sums().examples)
