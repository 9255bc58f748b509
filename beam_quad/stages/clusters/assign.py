"""The cluster of every example."""

import dataclasses
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.clustering import (
    ClusterSums,
    assign,
)
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.clusters.centers import HasCenters, expected_clusters
from beam_quad.stages.read.splits import RowAlignedStage

_ASSIGNMENT = pa.schema([pa.field("cluster", pa.int32()), pa.field("similarity", pa.float32())])
# Cluster, similarity, block and tokens of a row, before compression.
_STORED_ROW_BYTES = 24


@dataclasses.dataclass(frozen=True)
class AssignClusters(RowAlignedStage):
    """Assigns every example to its nearest center and counts the examples of each cluster.

    Takes splits, writes a row-aligned file of clusters and similarities for each, and returns `ClusterSums`. Rejected
    rows have cluster -1.

    Args:
      corpus: The embedded corpus.
      centers: The centers.
      label: Name of the stage in a chain, in CapWords.
    """

    kind = "clusters"
    version = 2
    artifact_name = "clusters.npz"
    # Four numbers a cluster, from every split.
    num_adders = 64

    centers: HasCenters
    label: Annotated[str, identity.NotCounted("a name for people")] = "AssignClusters"

    @property
    def name(self) -> str:
        return self.label

    def work(self, sizes: Sizes) -> Work:
        texts, dim = self.texts_of(sizes), sizes.embedder.dim
        num_clusters = expected_clusters(self.centers, sizes)
        return Work(
            "assign",
            texts.documents,
            cpu_flops=2.0 * texts.documents * num_clusters * dim,
            core_s=texts.documents * rates.ASSIGN_ROW_S,
            memory_bytes=4.0 * num_clusters * dim,
            bytes_stored=float(texts.documents * _STORED_ROW_BYTES),
            requests=texts.requests(4, 1),
        )

    def statistic(self, piece: Split) -> ClusterSums:
        return self._sums(self.corpus.rows(piece), *self.read(piece))

    def do(self, piece: Split, model: Any) -> ClusterSums:
        # Duplicates by id are assigned too and left out on reading, so the file does not depend on other splits.
        rows = self.corpus.own_rows(piece)
        clusters = np.full(len(rows.keys), -1, np.int32)
        similarity = np.zeros(len(rows.keys), np.float32)
        if rows.usable.any():
            centers = self.centers.load()
            for first, vectors in self.corpus.embeddings(piece):
                run = slice(first, first + len(vectors))
                clusters[run], similarity[run] = assign(
                    vectors.astype(np.float32), rows.keys[run], centers, self.corpus.seed
                )
        # A rejected row has a vector of zeros, which some center is nearest to.
        clusters[~rows.usable] = -1
        self.write_rows(piece, _ASSIGNMENT, {"cluster": clusters, "similarity": similarity})
        # Read back, so a piece that is done counts as one that is found: without the rows that other splits reject.
        return self.statistic(piece)

    def finish(self, total: ClusterSums) -> None:
        files.write_once(self.artifact, total.to_bytes())

    @once_per_process
    def sums(self) -> ClusterSums:
        """Loads the counts, once per process."""
        return ClusterSums.from_bytes(files.read_bytes(self.artifact))

    def read(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Reads the cluster, int32 [n], and the similarity, float32 [n], of every row of a split."""
        columns = self.read_rows(split)
        return self._own(split, columns["cluster"]), columns["similarity"]

    def of_rows(self, split: Split) -> np.ndarray:
        """Reads the cluster of every row of a split without its similarity, int32 [n]."""
        column = aligned.read_columns(self.rows_path(split), ["cluster"])["cluster"]
        return self._own(split, column)

    def _own(self, split: Split, column: np.ndarray) -> np.ndarray:
        clusters = column.copy()
        clusters[self.corpus.rejected_since(split)] = -1
        return clusters

    def _sums(
        self, rows: aligned.Rows, clusters: np.ndarray, similarity: np.ndarray
    ) -> ClusterSums:
        return ClusterSums.of(
            clusters,
            rows.tokens,
            self.corpus.in_reserve(rows),
            similarity,
            rows.usable,
            self.centers.load().num_clusters,
        )
