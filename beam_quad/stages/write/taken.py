"""Sums over what is selected, from which its weights follow."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad import archives
from beam_quad.artifacts import aligned, files
from beam_quad.distillation import TakenSums
from beam_quad.errors import UsageError
from beam_quad.records import Split
from beam_quad.stages.base import Task
from beam_quad.stages.quad.select import Weighable
from beam_quad.stages.read.corpus import Corpus


class RowWeights(Protocol):
    """Weighs the rows of a split."""

    def of(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Returns float64 [n], 0 for what was not taken. Over the corpus they sum to its examples."""


@dataclasses.dataclass
class SumTaken(Task):
    """Sums the influence of what was taken, exactly, target by target.

    Takes splits and gives `TakenSums`.

    Args:
      corpus: The corpus.
      selection: What was taken.
      folder: Where `taken.npz` goes.
    """

    corpus: Corpus
    selection: Weighable
    folder: str

    @property
    def name(self) -> str:
        return "SumTaken"

    @property
    def artifact(self) -> str:
        return taken_path(self.folder)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> TakenSums:
        influence, takers, _ = examples_of(self.corpus, self.selection, piece)
        return TakenSums.of(influence, takers)

    def finish(self, total: TakenSums | None) -> None:
        if total is None or not total.counts.sum():
            raise UsageError("nothing was selected, so that there is nothing to weigh")
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(total)))


def examples_of(
    corpus: Corpus, selection: Weighable, split: Split, rows: aligned.Rows | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Influence and takers of the rows that could have been taken, and which these are."""
    taken = selection.taken(corpus, split, rows or corpus.rows(split))
    at = taken.is_example
    return taken.influence[at], taken.takers[at], at


def taken_path(folder: str) -> str:
    """Where `SumTaken` writes."""
    return files.join(folder, "taken.npz")
