"""The cluster of every example."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.clustering import (
    ClusterSums,
    assign,
)
from beam_quad.records import Split
from beam_quad.stages.base import Task
from beam_quad.stages.clusters.centers import load_centers
from beam_quad.stages.read.corpus import (
    Corpus,
    piece_path,
)


@dataclasses.dataclass
class AssignClusters(Task):
    """Assigns every example to its nearest center, and counts the clusters.

    Takes splits; writes the row-aligned cluster and similarity of each, and gives `ClusterSums`. A rejected row has
    cluster -1.

    Args:
      corpus: The corpus, embedded.
      centers_dir: Folder of `FitCenters`.
      folder: Where the assignments and `clusters.npz` go.
    """

    corpus: Corpus
    centers_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "AssignClusters"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "clusters.npz")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "rows"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (piece_path(self.prefixes()[0], piece),)

    def read(self, piece: Split) -> ClusterSums:
        return self._sums(self.corpus.rows(piece), *read_assignment(self.folder, piece))

    def do(self, piece: Split, model: Any) -> ClusterSums:
        rows = self.corpus.rows(piece)
        clusters = np.full(len(rows.keys), -1, np.int32)
        similarity = np.zeros(len(rows.keys), np.float32)
        centers = load_centers(self.centers_dir)
        if rows.usable.any():
            embeddings = piece_path(self.corpus.embeddings_dir or "", piece)
            for first, vectors in aligned.read_embeddings(embeddings):
                run = slice(first, first + len(vectors))
                clusters[run], similarity[run] = assign(
                    vectors.astype(np.float32), rows.keys[run], centers, self.corpus.seed
                )
        clusters[~rows.usable] = -1
        aligned.write_table(
            self.paths(piece)[0], _ASSIGNMENT, {"cluster": clusters, "similarity": similarity}
        )
        return self._sums(rows, clusters, similarity)

    def finish(self, total: ClusterSums) -> None:
        files.write_once(self.artifact, total.to_bytes())

    def _sums(
        self, rows: aligned.Rows, clusters: np.ndarray, similarity: np.ndarray
    ) -> ClusterSums:
        return ClusterSums.of(
            clusters,
            rows.tokens,
            self.corpus.in_reserve(rows),
            similarity,
            rows.usable,
            load_centers(self.centers_dir).num_clusters,
        )


_ASSIGNMENT = pa.schema([pa.field("cluster", pa.int32()), pa.field("similarity", pa.float32())])


def load_cluster_sums(folder: str) -> ClusterSums:
    """Loads what `AssignClusters` counted, once per process."""
    path = files.join(folder, "clusters.npz")
    return cached(("clusters", path), lambda: ClusterSums.from_bytes(files.read_bytes(path)))


def read_assignment(folder: str, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Reads the cluster, int32 [n], and the similarity, float32 [n], of every row of a split."""
    columns = aligned.read_columns(piece_path(files.join(folder, "rows"), split))
    return columns["cluster"], columns["similarity"]
