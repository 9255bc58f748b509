"""The changes of a refresh to its base; the parts are rewritten by them."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.joining import parts_of
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split, as_json
from beam_quad.selection import SHARD_CHANGED, SHARD_GONE, Changes, all_left, changes_of
from beam_quad.stages.read.corpus import piece_name
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.refresh.base import Base
from beam_quad.stages.write.ranked import Selection


@dataclasses.dataclass(frozen=True)
class Compared:
    """A split of the present corpus or of the base's corpus.

    Attributes:
      split: The split.
      number: Its number in the present corpus; None if it is gone.
    """

    split: Split
    number: int | None


@dataclasses.dataclass(frozen=True)
class CompareWithBase(SplitStage):
    """Counts the rows that stay selected, are added, and leave.

    Takes a `Compared` for every split of the corpus and every split of the base alone, and returns `Changes`.

    Args:
      corpus: The corpus, within the budget.
      selection: The new selection.
      base: The selection before.
    """

    kind = "changes"
    artifact_name = "changes.json"

    selection: Selection
    base: Base

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="compare")

    def pieces(self) -> list[Compared]:
        splits, names = self.corpus.splits(), self._splits()
        gone = [split for name, split in self.base.splits().items() if name not in names]
        return [
            *(Compared(split, number) for number, split in enumerate(splits)),
            *(Compared(split, None) for split in gone),
        ]

    def do(self, piece: Compared, model: Any) -> Changes:
        held = self.base.selected(piece.split)
        if piece.number is None:
            return all_left(held["tokens"], self._why_gone(piece.split))
        rows = self.corpus.rows(piece.split)
        kept = self.selection.keep(piece.split, rows)
        reasons = {
            row: str(aligned.reason_of(int(rows.reasons[row])))
            for row in held["row"].tolist()
            if not rows.usable[row]
        }
        is_added = ~np.isin(kept.rows, held["row"], assume_unique=True)
        # Training on a row of negative influence raises the query loss; the report warns of added ones.
        harmful = int(np.count_nonzero(kept.influence[is_added] < 0))
        changes = changes_of(
            piece.number, rows.tokens, kept.rows, held["row"], held["part"], reasons
        )
        return dataclasses.replace(changes, harmful=harmful)

    def finish(self, total: Changes | None) -> None:
        write_json(self.artifact, as_json(total or Changes()))

    @once_per_process
    def load(self) -> Changes:
        """Loads the changes, once per process."""
        return Changes.from_json(read_json(self.artifact))

    @once_per_process
    def numbers(self) -> dict[int, int]:
        """Returns the new number of each part of the base with rows that stay selected, by its old number."""
        parts = self.load().parts
        # A part of which nothing is selected any more is not copied.
        old = [number for number in range(len(self.base.parts())) if parts[str(number)]]
        return {number: new for new, number in enumerate(old)}

    def count_splits(self) -> dict[str, int]:
        """Counts the `new` and `kept` splits, and the base's splits that are `gone` or `changed`."""
        pieces = self.pieces()
        gone = [self._why_gone(piece.split) for piece in pieces if piece.number is None]
        there = [self.base.has(piece.split) for piece in pieces if piece.number is not None]
        return {
            "new": there.count(False),
            "kept": there.count(True),
            "gone": gone.count(SHARD_GONE),
            "changed": gone.count(SHARD_CHANGED),
        }

    def still_selected(self, number: int, name: str) -> np.ndarray:
        """Returns which rows of a split in a part of the base stay selected, bool [m].

        Args:
          number: Number of the part in the base.
          name: Name of the split's artifacts.
        """
        before = self.base.rows_in(number, name)
        split = self._splits().get(name)
        if split is None or not len(before):
            return np.zeros(len(before), bool)
        kept = self.selection.keep(split, self.corpus.rows(split))
        return np.isin(before, kept.rows, assume_unique=True)

    @once_per_process
    def _splits(self) -> dict[str, Split]:
        return {piece_name(split): split for split in self.corpus.splits()}

    def _why_gone(self, split: Split) -> str:
        # A split may join several small shards. It changed if any of them is still in the corpus.
        shards = {part.shard for part in parts_of(split)}
        return SHARD_GONE if shards.isdisjoint(self._shards()) else SHARD_CHANGED

    @once_per_process
    def _shards(self) -> frozenset[str]:
        splits = self.corpus.splits()
        return frozenset(part.shard for split in splits for part in parts_of(split))
