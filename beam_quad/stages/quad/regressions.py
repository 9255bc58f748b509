"""Acceptance by prediction: what was scored of a cluster says what the rest of it is worth.

After the rounds, the scored examples of every cluster are the landmarks of a kernel ridge regression of its own, which
predicts the influence of the cluster's other examples; the budget is then cut over those predictions. Blocks are random
cuts of a cluster, so that a regression holds for those that were not pulled, too: to choose among pulled blocks alone
would forgo most of what the pulls have taught. Only where a cluster has too few scored examples for a regression its
pulled blocks are all that can be taken.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.bandit.scored import arm_code, pulled_blocks
from beam_quad.columns import find_sorted
from beam_quad.distillation.within_clusters import (
    fit_by_cluster,
)
from beam_quad.records import Split
from beam_quad.stages.base import GroupedTask
from beam_quad.stages.quad.candidates import group_of
from beam_quad.stages.quad.rounds import Bandit
from beam_quad.stages.quad.select import read_arms
from beam_quad.stages.read.corpus import Corpus, piece_path, write_json

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
class Pulled:
    """The pulled blocks of a bandit that has played, by reference.

    Args:
      bandit: The bandit.
      num_rounds: Rounds that were run, the pilot included.
      assignments_dir: Folder of `AssignClusters`.
    """

    bandit: Bandit
    num_rounds: int
    assignments_dir: str

    def scored(self) -> dict[str, np.ndarray]:
        """All scored examples, as `Bandit.scored`; read once per process."""
        return cached(("scored", self.bandit.folder), lambda: self.bandit.scored(self.num_rounds))

    def blocks(self) -> dict[str, np.ndarray]:
        """The pulled blocks: `code` (`arm_code`), ascending, `round` and mean `influence`, nan where none is finite."""
        return cached(("pulled", self.bandit.folder), lambda: pulled_blocks(self.scored()))

    def places(
        self, corpus: Corpus, split: Split, rows: aligned.Rows
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the cluster, the block and the place in `blocks` of each row; -1 where there is none, int64 [n]."""
        clusters, blocks = read_arms(
            self.bandit.blocks_dir, self.assignments_dir, corpus.seed, split, rows
        )
        places = find_sorted(self.blocks()["code"], arm_code(clusters, blocks))
        return clusters.astype(np.int64), blocks, np.where(clusters >= 0, places, -1)


@dataclasses.dataclass
class FitWithinClusters(GroupedTask):
    """Fits a regression for every cluster to the embeddings of its scored examples.

    Takes splits; what crosses the shuffle are the embeddings of the scored examples, packed by split and group of arms.
    Writes one file per group.

    Args:
      corpus: The corpus, embedded.
      pulled: The bandit's pulls.
      folder: Where the regressions go.
    """

    corpus: Corpus
    pulled: Pulled
    folder: str

    @property
    def name(self) -> str:
        return "FitWithinClusters"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "fit.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        scored, rows = self.pulled.scored(), self.corpus.rows(piece)
        place = find_sorted(scored["key"], rows.keys)
        at = np.flatnonzero(rows.usable & (place >= 0))
        at = at[np.isfinite(scored["influence"][place[at]])]
        if not len(at):
            return
        path = piece_path(self.corpus.embeddings_dir or "", piece)
        table = pa.table(
            {
                **{n: scored[n][place[at]] for n in ("cluster", "key", "tokens", "influence")},
                "embedding": aligned.embedding_column(aligned.read_some_embeddings(path, at)),
            }
        )
        clusters = scored["cluster"][place[at]].tolist()
        groups = np.array([group_of(self.pulled.bandit.blocks_dir, c) for c in clusters])
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
            columns["regression"].append(fitted.regression and fitted.regression.to_bytes())
            columns["keys"].append(key[own])
            columns["held_out"].append(fitted.held_out(influence[own], tokens[own]))
        aligned.write_table(regressions_path(self.folder, group), _REGRESSIONS, columns)
        fits = sum(regression is not None for regression in columns["regression"])
        return Tally(
            {"landmarks": len(key), "clusters": len(columns["cluster"]), "regressions": fits}
        )

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, total.counts if total else {})


def regressions_path(folder: str, group: int) -> str:
    """Where `FitWithinClusters` writes the regressions of a group of clusters."""
    return files.join(folder, "groups", f"group-{group:05d}.parquet")
