"""Cluster centers, fitted to a hash sample of the embeddings."""

import dataclasses
import itertools
from typing import Any, Protocol

import numpy as np

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.clustering import (
    POINTS_PER_CLUSTER,
    Centers,
    default_num_clusters,
    fit_centers,
    sample_rate,
)
from beam_quad.errors import UsageError
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Reason, Split, as_json
from beam_quad.stages.read import points
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.splits import SplitStage

# Passes over the points that a plan assumes: those of k-means, of its start, and of clusters that are split again.
_KMEANS_PASSES = 10


class HasCenters(Protocol):
    """A source of centers for the assignment of clusters."""

    @property
    def artifact(self) -> str:
        """Path that exists if and only if the centers are fitted."""

    def load(self) -> Centers:
        """Loads the centers, once per process."""

    def report(self) -> dict[str, Any]:
        """Reads the facts of the fit for the manifest and the report."""


@dataclasses.dataclass(frozen=True)
class FitCenters(SplitStage):
    """Draws points by hash from every split and fits the centers to them.

    Takes splits and writes one sample file for each, then `centers.npz` and `fit.json`. The result does not depend on the
    splits: `fit_centers` is independent of the order of its points.

    Args:
      corpus: The embedded corpus.
      num_clusters: K, or None for `default_num_clusters` of the corpus.
      max_cluster_share: Share of the sample above which a cluster is split again.
    """

    kind = "centers"
    artifact_name = "centers.npz"

    num_clusters: int | None
    max_cluster_share: float

    def work(self, sizes: Sizes) -> Work:
        texts, dim = sizes.corpus, sizes.embedder.dim
        num_clusters = expected_clusters(self, sizes)
        points = min(texts.documents, POINTS_PER_CLUSTER * num_clusters)
        return Work(
            "fit centers",
            points,
            # k-means runs in one process, while all other workers wait.
            alone_flops=2.0 * _KMEANS_PASSES * points * num_clusters * dim,
            flops_per_core_s=rates.KMEANS_FLOPS_PER_S,
            core_s=texts.documents * rates.PASS_ROW_S + points * rates.FIT_POINT_S,
            memory_bytes=4.0 * points * dim,
            bytes_stored=2.0 * points * dim + 4.0 * num_clusters * dim,
            requests=texts.requests(3, 1),
        )

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("sample"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (piece_path(self.path("sample"), piece),)

    def statistic(self, piece: Split) -> Tally:
        return Tally({"points": aligned.num_rows(self.paths(piece)[0])})

    def do(self, piece: Split, model: Any) -> Tally:
        # A rate by hash, so each split draws its points without knowing the others.
        rate = sample_rate(self._requested(), max(1, self.corpus.num_usable()))
        vectors = points.read(self.corpus, piece, rate)
        write_points(self.paths(piece)[0], vectors)
        return Tally({"points": len(vectors)})

    def finish(self, total: Tally) -> None:
        if not total["points"]:
            raise UsageError(f"no usable example in the corpus: {self._why_none()}")
        paths = [self.paths(split)[0] for split in self.corpus.splits()]
        sample = read_points(paths, total["points"])
        centers, report = fit_centers(
            sample, min(self._requested(), len(sample)), self.corpus.seed, self.max_cluster_share
        )
        write_json(self.path("fit.json"), as_json(report))
        files.write_once(self.artifact, centers.to_bytes())

    @once_per_process
    def load(self) -> Centers:
        """Loads the centers, once per process."""
        return Centers.from_bytes(files.read_bytes(self.artifact))

    def report(self) -> dict[str, Any]:
        """Reads which clusters were dropped and split."""
        return read_json(self.path("fit.json"))

    def _why_none(self) -> str:
        totals = self.corpus.totals()
        without = sum(totals.without_embedding.counts.values())
        rejected = sorted(f"{count} {reason}" for reason, count in totals.rejected.counts.items())
        reasons = [*rejected, *([f"{without} {Reason.NO_EMBEDDING}"] if without else [])]
        return (
            f"{totals.read} rows were read and all rejected ({', '.join(reasons) or 'unreadable files'}); "
            "check --input, --text_column, --tokens_column, and the models' tokenizers"
        )

    def _requested(self) -> int:
        return self.num_clusters or default_num_clusters(max(1, self.corpus.num_usable()))


def expected_clusters(centers: HasCenters, sizes: Sizes) -> int:
    """Returns the number of centers, estimated from the corpus's documents if they are not fitted yet."""
    asked = centers.num_clusters if isinstance(centers, FitCenters) else None
    return sizes.num_clusters or asked or default_num_clusters(sizes.corpus.documents)


def write_points(path: str, vectors: np.ndarray) -> None:
    """Writes a sample of embeddings, float16 [n, dim]."""
    schema = aligned.embeddings_schema(vectors.shape[1])
    aligned.write_table(path, schema, {"embedding": aligned.embedding_column(vectors)})


def read_points(paths: list[str], num_points: int) -> np.ndarray:
    """Reads the samples into one float32 array [n, dim].

    This is the largest array of a run: 5.5 GB for 10,000 clusters in 512 dimensions.
    """
    # Filled in place: a concatenation would hold the points twice.
    points, done = np.zeros((0, 1), np.float32), 0
    for vectors in itertools.chain.from_iterable(files.in_parallel(_read_sample, paths)):
        if not done:
            points = np.empty((num_points, vectors.shape[1]), np.float32)
        points[done : done + len(vectors)] = vectors
        done += len(vectors)
    return points[:done]


def _read_sample(path: str) -> list[np.ndarray]:
    return [vectors for _, vectors in aligned.read_embeddings(path)]
