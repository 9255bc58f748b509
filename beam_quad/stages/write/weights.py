"""The best of what is left, and the weight of every row."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import archives
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.distillation import BestLeft, SelectionWeights, TakenSums
from beam_quad.records import Split
from beam_quad.stages.base import Task
from beam_quad.stages.quad.select import Weighable
from beam_quad.stages.read.corpus import Corpus
from beam_quad.stages.write.taken import examples_of, taken_path


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
        influence, takers, _ = examples_of(self.corpus, self.selection, piece)
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
        influence, takers, is_example = examples_of(corpus, self.selection, split, rows)
        weights[is_example] = self._load().of(influence, takers)
        return weights

    def _load(self) -> SelectionWeights:
        path = _weights_path(self.folder)

        def read() -> SelectionWeights:
            return SelectionWeights(**archives.parse(files.read_bytes(path)))

        return cached(("weights", path), read)


def _load_taken(folder: str) -> TakenSums:
    path = taken_path(folder)

    def read() -> TakenSums:
        found = archives.parse(files.read_bytes(path))
        return TakenSums(**(found | {"num_examples": int(found["num_examples"])}))

    return cached(("taken", path), read)


def _weights_path(folder: str) -> str:
    return files.join(folder, "weights.npz")
