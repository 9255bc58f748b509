"""The shortlists of the second order."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json
from beam_quad.distillation import KernelRidge
from beam_quad.errors import UsageError
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Budget, Split
from beam_quad.selection import is_reached
from beam_quad.stages.base import GroupedStage
from beam_quad.stages.distillation.allocate import DistilledSelection
from beam_quad.stages.distillation.interactions import InteractionLandmarks
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.budget import Cut

# The most examples on all shortlists together: 40 MB with 256 landmarks, and one second to solve.
SHORTLIST = Budget(20_000, "examples")


_COEFFICIENT_DTYPE = np.dtype(np.float64)


@dataclasses.dataclass(frozen=True)
class GatherShortlist(SplitStage, GroupedStage):
    """Gathers the numbers that the second order needs for each target's shortlist; no texts.

    Takes splits. Each example is on the list of the target that would take it next. Its coefficients over the landmarks
    propagate their interactions to it.

    Args:
      corpus: The embedded corpus, within the budget.
      first: The first-order selection.
      landmarks: The landmarks with exact interactions.
      cut: Where `SHORTLIST` ends in the first-order ranking.
    """

    kind = "shortlist"
    version = 2
    artifact_name = "shortlist.json"

    first: DistilledSelection
    landmarks: InteractionLandmarks
    cut: Cut

    def work(self, sizes: Sizes) -> Work:
        texts = self.texts_of(sizes)
        # A list has the coefficients of its examples over the landmarks, in double precision.
        number = min(SHORTLIST.amount, texts.documents)
        lists = float(number * _COEFFICIENT_DTYPE.itemsize * self.landmarks.expected(sizes))
        own = pass_over(texts, "interactions")
        return dataclasses.replace(own, bytes_shuffled=lists, bytes_stored=lists)

    def pieces(self) -> tuple[Split, ...]:
        # The second order starts from the first-order selection, so the shortlist must contain all of it.
        if self.cut.floors()[0] > self.first.floor():
            raise UsageError(
                f"--order=2 solves for at most {SHORTLIST.amount:,} examples, and the first order selects more; "
                f"lower --budget_{self.first.budget.unit}, or pass --order=1"
            )
        return self.corpus.splits()

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        rows = self.corpus.rows(piece)
        ranking, allocated = self.first.ranking, self.first.allocated
        influence = ranking.influence.read(piece)
        packed = ranking.of(influence, rows.keys)
        order = allocated.priorities(piece, rows)[:, 0]
        at = np.flatnonzero(is_reached(order, self.cut.floors()[0]))
        if not len(at):
            return
        takers = allocated.takers(packed[at], rows.keys[at])
        coefficients = self._ridge().coefficients(self.corpus.some_embeddings(piece, at))
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
        # Keys break ties between priorities, so the order of the parts does not matter.
        order = [("priority", "descending"), ("key", "ascending")]
        table = aligned.unpack(parts).sort_by(order).combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        aligned.write_table(self.group_path(group), table.schema, columns)
        taken = table.column("priority").to_numpy() >= self.first.floor()
        return Tally({str(group): int(taken.sum())})

    def taken(self) -> dict[int, int]:
        """Reads the number of examples that each target takes in the first order; targets without any are absent."""
        return {int(target): number for target, number in read_json(self.artifact).items()}

    def read(self, target: int) -> dict[str, np.ndarray]:
        """Reads a target's shortlist, best first: `key`, `priority`, `tokens`, `influence`, `coefficients` [n, landmarks]."""
        table = aligned.read_table(self.group_path(target))
        coefficients = aligned.unpack_vectors(table.column("coefficients"), _COEFFICIENT_DTYPE)
        numbers = table.drop(["coefficients"])
        columns = {name: numbers.column(name).to_numpy() for name in numbers.column_names}
        return {**columns, "coefficients": coefficients}

    @once_per_process
    def _ridge(self) -> KernelRidge:
        whole = self.first.propagation.load()
        return self.landmarks.ridge(whole.bandwidth, whole.ridge)
