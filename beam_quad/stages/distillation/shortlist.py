"""The examples that may be selected by the second order."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.distillation import (
    KernelRidge,
)
from beam_quad.errors import UsageError
from beam_quad.records import Budget, Split
from beam_quad.selection import NUM_LEVELS
from beam_quad.stages.base import GroupedTask
from beam_quad.stages.distillation.allocate import DistilledSelection
from beam_quad.stages.distillation.fit_propagation import load_ridge
from beam_quad.stages.distillation.interactions import (
    InteractionLandmarks,
)
from beam_quad.stages.distillation.propagate import read_influence
from beam_quad.stages.read.corpus import Corpus, piece_path, write_json
from beam_quad.stages.write.budget import load_search

# The shortlists of all targets; 40 MB in all with 256 landmarks, and a second to solve.
SHORTLIST = Budget(20_000, "examples")


_COEFFICIENT_DTYPE = np.dtype(np.float64)


@dataclasses.dataclass
class GatherShortlist(GroupedTask):
    """Brings together what the solution needs to know of each target's shortlist: numbers, and no text.

    Takes splits. Each example is on the list of the target that would take it next; of its place among the landmarks
    there are the coefficients by which interactions are propagated.

    Args:
      corpus: The corpus, embedded.
      first: The selection of the first order.
      landmarks: The landmarks whose interactions are exact.
      cut_dir: Folder of the last `CutBudget` of `SHORTLIST`.
      folder: Where the targets' lists go.
    """

    corpus: Corpus
    first: DistilledSelection
    landmarks: InteractionLandmarks
    cut_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "GatherShortlist"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "shortlist.json")

    def pieces(self) -> tuple[Split, ...]:
        if self._floor() > self.first.floor():
            raise UsageError(
                f"--order=2 solves for at most {SHORTLIST.amount:,} examples, and the first order selects more; "
                f"lower --budget_{self.first.budget.unit}, or pass --order=1"
            )
        return self.corpus.splits()

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        rows = self.corpus.rows(piece)
        influence = read_influence(self.first.allocated.ranking.folder, piece)
        packed = self.first.allocated.ranking.of(influence, rows.keys, self.corpus.seed)
        order = self.first.allocated.of(packed, rows.keys)[:, 0]
        is_example = self.first.allocated.ranking.is_example(self.corpus, rows)
        at = np.flatnonzero(is_example & (order >= self._floor()))
        if not len(at):
            return
        takers = self.first.allocated.takers(packed[at], rows.keys[at])
        path = piece_path(self.corpus.embeddings_dir or "", piece)
        coefficients = self._ridge().coefficients(aligned.read_some_embeddings(path, at))
        for target in np.unique(takers):
            own = takers == target
            table = {
                "key": pa.array(rows.keys[at[own]]),
                "priority": pa.array(order[at[own]]),
                "tokens": pa.array(rows.tokens[at[own]]),
                "influence": pa.array(influence[at[own], target]),
                "coefficients": aligned.vector_column(coefficients[own], _COEFFICIENT_DTYPE),
            }
            yield int(target), aligned.pack(pa.table(table))

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        # By key where priorities are equal, so that the order of the parts does not matter.
        order = [("priority", "descending"), ("key", "ascending")]
        table = aligned.unpack(parts).sort_by(order).combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        aligned.write_table(_shortlist_path(self.folder, group), table.schema, columns)
        taken = table.column("priority").to_numpy() >= self.first.floor()
        return Tally({f"shortlist/{group}": table.num_rows, f"taken/{group}": int(taken.sum())})

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, total.counts if total else {})

    def _floor(self) -> np.uint64:
        return load_search(self.cut_dir, NUM_LEVELS - 1, SHORTLIST).floors[0]

    def _ridge(self) -> KernelRidge:
        whole = load_ridge(self.first.propagation_dir)
        return cached(
            ("interaction ridge", self.landmarks, self.first.propagation_dir),
            lambda: self.landmarks.ridge(whole.bandwidth, whole.ridge),
        )


def read_shortlist(folder: str, target: int) -> dict[str, np.ndarray]:
    """Reads a target's shortlist, best first: `key`, `priority`, `tokens`, `influence`, `coefficients` [n, landmarks]."""
    table = aligned.read_table(_shortlist_path(folder, target))
    coefficients = aligned.unpack_vectors(table.column("coefficients"), _COEFFICIENT_DTYPE)
    numbers = table.drop(["coefficients"])
    columns = {name: numbers.column(name).to_numpy() for name in numbers.column_names}
    return {**columns, "coefficients": coefficients}


def _shortlist_path(folder: str, target: int) -> str:
    return files.join(folder, f"target-{target:03d}.parquet")
