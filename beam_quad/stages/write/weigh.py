"""Optimal weights of a selection (`--weighted`): two sums over the corpus, and every row's weight is its own affair."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from beam_quad import archives
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.distillation import BestLeft, SelectionWeights, TakenSums
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
        return _taken_path(self.folder)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> TakenSums:
        influence, takers, _ = _examples(self.corpus, self.selection, piece)
        return TakenSums.of(influence, takers)

    def finish(self, total: TakenSums | None) -> None:
        if total is None or not total.counts.sum():
            raise UsageError("nothing was selected, so that there is nothing to weigh")
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(total)))


@dataclasses.dataclass
class FindBestLeft(Task):
    """Finds the best influence that was left out, target by target, and with it the weights.

    Takes splits, gives `BestLeft`, and writes the `SelectionWeights`.

    Args:
      corpus: The corpus.
      selection: What was taken.
      folder: Folder of `SumTaken`; `weights.npz` goes there too.
    """

    corpus: Corpus
    selection: Weighable
    folder: str

    @property
    def name(self) -> str:
        return "FindBestLeft"

    @property
    def artifact(self) -> str:
        return _weights_path(self.folder)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> BestLeft:
        influence, takers, _ = _examples(self.corpus, self.selection, piece)
        return BestLeft.of(influence, takers, _load_taken(self.folder).lowest)

    def finish(self, total: BestLeft) -> None:
        weights = SelectionWeights.from_sums(_load_taken(self.folder), total)
        files.write_once(self.artifact, archives.dump(**dataclasses.asdict(weights)))


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a selection, by reference.

    Args:
      selection: What was taken.
      folder: Folder of `SumTaken` and `FindBestLeft`.
    """

    selection: Weighable
    folder: str

    def of(self, corpus: Corpus, split: Split, rows: aligned.Rows) -> np.ndarray:
        """Weighs the rows of a split: float64 [n], 0 for what was not taken. Over the corpus they sum to its examples."""
        weights = np.zeros(len(rows.keys))
        influence, takers, is_example = _examples(corpus, self.selection, split, rows)
        weights[is_example] = self._load().of(influence, takers)
        return weights

    def _load(self) -> SelectionWeights:
        path = _weights_path(self.folder)

        def read() -> SelectionWeights:
            return SelectionWeights(**archives.parse(files.read_bytes(path)))

        return cached(("weights", path), read)


def _examples(
    corpus: Corpus, selection: Weighable, split: Split, rows: aligned.Rows | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Influence and takers of the rows that could have been taken, and which these are."""
    taken = selection.taken(corpus, split, rows or corpus.rows(split))
    at = taken.is_example
    return taken.influence[at], taken.takers[at], at


def _load_taken(folder: str) -> TakenSums:
    path = _taken_path(folder)

    def read() -> TakenSums:
        found = archives.parse(files.read_bytes(path))
        return TakenSums(**(found | {"num_examples": int(found["num_examples"])}))

    return cached(("taken", path), read)


def _taken_path(folder: str) -> str:
    return files.join(folder, "taken.npz")


def _weights_path(folder: str) -> str:
    return files.join(folder, "weights.npz")
