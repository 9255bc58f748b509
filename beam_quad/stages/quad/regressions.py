"""Acceptance by prediction: the scored examples of a cluster predict the influence of the others.

After the rounds, each cluster gets its own kernel ridge regression, with its scored examples as landmarks. The budget
is then cut over the predictions. Blocks are random cuts of a cluster, so the regression holds for unpulled blocks too,
and selecting from pulled blocks alone would waste most of what the pulls have taught. If a cluster has too few scored
examples for a regression, only its pulled blocks can be selected.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.columns import find_sorted, look_up
from beam_quad.distillation import KernelRidge
from beam_quad.distillation.within_clusters import ClusterRegression, fit_by_cluster
from beam_quad.records import Split
from beam_quad.stages.base import GroupedStage
from beam_quad.stages.quad.pulled import Pulled
from beam_quad.stages.read.splits import SplitStage

_REGRESSIONS = pa.schema(
    [
        pa.field("cluster", pa.int32()),
        pa.field("mean", pa.float64()),
        pa.field("regression", pa.large_binary()),
        pa.field("keys", pa.list_(pa.uint64())),
        pa.field("held_out", pa.list_(pa.float64())),
    ]
)


@dataclasses.dataclass(frozen=True)
class FitWithinClusters(SplitStage, GroupedStage):
    """Fits a regression for every cluster on the embeddings of the examples that this run or an earlier one scored.

    Takes splits. The embeddings of the scored examples cross the shuffle, packed by split and group of arms. Writes one
    file per group.

    Args:
      corpus: The embedded corpus.
      pulled: The bandit's pulls.
    """

    kind = "regressions"
    artifact_name = "fit.json"

    pulled: Pulled

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        scored, rows = self.pulled.all_scored(), self.corpus.rows(piece)
        place = find_sorted(scored["key"], rows.keys)
        at = np.flatnonzero(rows.usable & (place >= 0))
        # An example without a finite score cannot be a landmark.
        at = at[np.isfinite(scored["influence"][place[at]])]
        if not len(at):
            return
        table = pa.table(
            {
                **{n: scored[n][place[at]] for n in ("cluster", "key", "tokens", "influence")},
                "embedding": aligned.embedding_column(self.corpus.some_embeddings(piece, at)),
            }
        )
        clusters = scored["cluster"][place[at]].tolist()
        # Grouped as candidates are, so that the number of a cluster tells the file of its regression.
        groups = np.array([self.pulled.bandit.candidates.group_of(c) for c in clusters])
        for group in np.unique(groups).tolist():
            yield group, aligned.pack(table.take(pa.array(np.flatnonzero(groups == group))))

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        table = aligned.unpack(parts)
        vectors = aligned.unpack_vectors(table.column("embedding"), aligned.EMBEDDING_DTYPE)
        cluster, key, tokens, influence = (table.column(i).to_numpy() for i in range(4))
        columns: dict[str, list[Any]] = {name: [] for name in _REGRESSIONS.names}
        for arm, own, fitted in fit_by_cluster(
            cluster, vectors, influence, tokens, key, self.corpus.seed
        ):
            columns["cluster"].append(arm)
            columns["mean"].append(fitted.mean)
            # A cluster with too few scored examples has a mean alone.
            columns["regression"].append(fitted.regression and fitted.regression.to_bytes())
            columns["keys"].append(key[own])
            columns["held_out"].append(fitted.held_out(influence[own], tokens[own]))
        aligned.write_table(self.group_path(group), _REGRESSIONS, columns)
        fits = sum(regression is not None for regression in columns["regression"])
        return Tally(
            {"landmarks": len(key), "clusters": len(columns["cluster"]), "regressions": fits}
        )

    @once_per_process
    def load(self, group: int) -> dict[int, ClusterRegression]:
        """Loads the regressions of a group of arms, by cluster, once per process."""
        path = self.group_path(group)
        # A group without a scored example has no file.
        if not files.exists(path):
            return {}
        table = aligned.read_table(path).select(["cluster", "mean", "regression"])
        return {
            row["cluster"]: ClusterRegression(
                row["mean"], row["regression"] and KernelRidge.from_bytes(row["regression"])
            )
            for row in table.to_pylist()
        }

    def regression(self, cluster: int) -> ClusterRegression | None:
        """Loads the regression of a cluster; None if none of its examples was scored."""
        return self.load(self.pulled.bandit.candidates.group_of(cluster)).get(cluster)

    @once_per_process
    def held_out(self) -> dict[str, np.ndarray]:
        """Reads the held-out predictions: ascending `key`, and `held_out`, predicted from the cluster's other examples."""
        paths = [info.path for info in files.find(self.path("groups"))]
        keys, values = [np.zeros(0, np.uint64)], [np.zeros(0)]
        for table in files.in_parallel(_read_held_out, paths):
            keys.append(table.column("keys").combine_chunks().flatten().to_numpy())
            values.append(table.column("held_out").combine_chunks().flatten().to_numpy())
        order = np.argsort(np.concatenate(keys))
        return {"key": np.concatenate(keys)[order], "held_out": np.concatenate(values)[order]}

    def held_out_of(self, keys: np.ndarray) -> np.ndarray:
        """Reads the held-out predictions of examples by key, uint64 [n]: float64 [n], nan if there is none."""
        table = self.held_out()
        return look_up(table["key"], table["held_out"], keys, np.nan)


def _read_held_out(path: str) -> pa.Table:
    with files.open_read(path) as file:
        return pq.read_table(file, columns=["keys", "held_out"])
