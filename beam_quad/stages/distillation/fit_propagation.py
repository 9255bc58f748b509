"""The kernel ridge regression from embeddings to influence, fitted to the landmarks."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.distillation import KernelRidge
from beam_quad.errors import UsageError
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring.cosines import cosines
from beam_quad.scoring.halves import agreement, halves_agreement
from beam_quad.stages.base import Stage
from beam_quad.stages.distillation.landmark_scores import LandmarkScores
from beam_quad.stages.distillation.landmarks import GatherLandmarks
from beam_quad.stages.influence.query_vectors import FitQueryVectors


@dataclasses.dataclass(frozen=True)
class ScoredLandmarks:
    """The landmarks and their influence, ascending by key.

    Attributes:
      keys: Keys, uint64 [n].
      tokens: Numbers of tokens, int64 [n].
      example_ids: Example ids.
      groups: Group of each landmark, int32 [n].
      influence: Exact influence, float64 [n, num_targets].
      held_out: Influence predicted from the other landmarks, float64 [n, num_targets].
    """

    keys: np.ndarray
    tokens: np.ndarray
    example_ids: list[str]
    groups: np.ndarray
    influence: np.ndarray
    held_out: np.ndarray


_FLOAT64_BYTES = 8
# Key, tokens, id and group of a landmark, twice.
_LANDMARK_BYTES = 32


@dataclasses.dataclass(frozen=True)
class FitPropagation(Stage):
    """Turns the landmarks' scores into cosines and fits the regression that propagates them.

    Takes one piece and returns its facts. Writes the regression (`ridge.npz`), the landmarks with their exact and their
    held-out influence (`landmarks.parquet`), and the agreement of the two (`propagation.json`).

    Args:
      scores: The landmarks' scores.
      query: The vector of each target; scores are divided by its norm.
      ridge: Added to the diagonal of the kernel, whose entries are 1.
      seed: The run's seed.
    """

    kind = "propagation"
    version = 2
    artifact_name = "propagation.json"

    scores: LandmarkScores
    query: FitQueryVectors
    ridge: float
    seed: int

    @property
    def root(self) -> str:
        return self.scores.root

    @property
    def landmarks(self) -> GatherLandmarks:
        """The landmarks."""
        return self.scores.landmarks

    def work(self, sizes: Sizes) -> Work:
        number, num_targets = self.landmarks.drawn.expected(sizes), len(sizes.query)
        dim = sizes.embedder.dim
        # Twice the kernel and its factor; then its inverse, which leaves landmarks out one by one.
        flops = 2 * (2.0 * number**2 * dim + number**3 / 3) + 2.0 * number**3
        # One file holds the landmarks with their duals, another their exact and predicted influence.
        stored = 2.0 * dim + 4 * _FLOAT64_BYTES * num_targets + _LANDMARK_BYTES
        return Work(
            "fit",
            number,
            alone_flops=flops,
            flops_per_core_s=rates.FLOAT64_RATE * rates.CORE_FLOPS_PER_S,
            memory_bytes=3.0 * _FLOAT64_BYTES * number**2,
            bytes_stored=number * stored,
        )

    def pieces(self) -> range:
        return range(1)

    def do(self, piece: int, model: Any) -> dict[str, Any]:
        tables = list(files.in_parallel(self._read, self.landmarks.groups()))
        if not sum(table.num_rows for table in tables):
            raise UsageError(
                "no landmark has a token to predict, so that nothing can be propagated; check the corpus's texts"
            )
        landmarks = pa.concat_tables(tables)
        targets = self.query.groups()
        norms = np.array([target["norm"] for target in targets.values()])
        # The order of `ScoredLandmarks`.
        landmarks = landmarks.sort_by("key").combine_chunks()
        ridge = KernelRidge.fit(
            aligned.unpack_vectors(landmarks.column("embedding"), aligned.EMBEDDING_DTYPE),
            cosines(_matrix(landmarks.column("scores")), norms),
            landmarks.column("key").to_numpy(),
            seed=self.seed,
            ridge=self.ridge,
        )
        files.write_once(self.path("ridge.npz"), ridge.to_bytes())
        # In closed form from the one fit: no landmark is fitted again.
        held_out = ridge.leave_one_out()
        self._write_landmarks(landmarks, ridge.targets, held_out)
        return {
            "landmarks": landmarks.num_rows,
            "unscorable": sorted(
                set(self.landmarks.drawn.load().keys.tolist()).difference(ridge.keys.tolist())
            ),
            "bandwidth": ridge.bandwidth,
            "held_out_rank_correlation": {
                name: agreement(exact, predicted)
                for name, exact, predicted in zip(targets, ridge.targets.T, held_out.T, strict=True)
            },
            "halves": _halves(targets, landmarks.column("halves")),
        }

    def finish(self, total: dict[str, Any]) -> None:
        write_json(self.artifact, total)

    @once_per_process
    def load(self) -> KernelRidge:
        """Loads the regression, once per process."""
        return KernelRidge.from_bytes(files.read_bytes(self.path("ridge.npz")))

    @once_per_process
    def facts(self) -> dict[str, Any]:
        """Reads the facts of the fit, once per process."""
        return read_json(self.artifact)

    @once_per_process
    def unscorable(self) -> np.ndarray:
        """Reads the keys of the landmarks without a finite score, which are never selected, uint64 [n]."""
        return np.array(self.facts()["unscorable"], np.uint64)

    def known_keys(self) -> np.ndarray:
        """Reads the keys of the landmarks that were scored, uint64 [n]."""
        return self.scored_landmarks().keys

    @once_per_process
    def scored_landmarks(self) -> ScoredLandmarks:
        """Reads the scored landmarks, once per process."""
        table = aligned.read_table(self.path("landmarks.parquet"))
        return ScoredLandmarks(
            table.column("key").to_numpy(),
            table.column("tokens").to_numpy(),
            table.column("example_id").to_pylist(),
            table.column("group").to_numpy(),
            _matrix(table.column("influence")),
            _matrix(table.column("held_out")),
        )

    def _read(self, group: int) -> pa.Table:
        """Reads the scores of a group with the embeddings of its landmarks."""
        # Scores lack the landmarks without a finite score. Both files are in the order of the draw, so rows align.
        table = self.scores.read(group)
        landmarks = self.landmarks.read(group, ["key", "embedding"])
        kept = np.isin(landmarks.column("key").to_numpy(), table.column("key").to_numpy())
        embeddings = landmarks.filter(pa.array(kept)).column("embedding")
        table = table.append_column("embedding", embeddings)
        return table.append_column("group", pa.array([group] * table.num_rows, pa.int32()))

    def _write_landmarks(
        self, landmarks: pa.Table, influence: np.ndarray, held_out: np.ndarray
    ) -> None:
        table = landmarks.drop(["embedding", "scores", "halves"])
        table = table.append_column("influence", _column(influence))
        table = table.append_column("held_out", _column(held_out))
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        aligned.write_table(self.path("landmarks.parquet"), table.schema, columns)


def _column(matrix: np.ndarray) -> pa.Array:
    return pa.array(list(matrix), pa.list_(pa.float64()))


def _halves(targets: dict[str, dict[str, Any]], column: pa.ChunkedArray) -> dict[str, float | None]:
    num_halves = sum(len(target["halves"]) for target in targets.values())
    return halves_agreement(targets, _matrix(column.drop_null()).reshape(-1, num_halves))


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), np.float64)
