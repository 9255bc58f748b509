"""The influence of every example on every target, propagated from the landmarks."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import cached
from beam_quad.records import Split
from beam_quad.stages.base import Task
from beam_quad.stages.distillation.fit_propagation import load_ridge, read_propagation
from beam_quad.stages.read.corpus import Corpus, piece_path, write_json

# Single precision: half would tie thousands of a large corpus.
INFLUENCE_DTYPE = np.dtype(np.float32)


@dataclasses.dataclass
class Propagate(Task):
    """Predicts the influence of every example on every target; landmarks keep their exact one.

    Takes splits, writes one row-aligned file of influence each (meaningless for a rejected row), and gives counts.
    Predictions are made by row groups of the embeddings, which the data decide.

    Args:
      corpus: The corpus, embedded.
      propagation_dir: Folder of `FitPropagation`.
      folder: Where the influence by split and `propagated.json` go.
    """

    corpus: Corpus
    propagation_dir: str
    folder: str

    @property
    def name(self) -> str:
        return "Propagate"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "propagated.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def prefixes(self) -> tuple[str, ...]:
        return (files.join(self.folder, "rows"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (piece_path(self.prefixes()[0], piece),)

    def read(self, piece: Split) -> Tally:
        return Tally({"splits": 1})

    def do(self, piece: Split, model: Any) -> Tally:
        ridge = load_ridge(self.propagation_dir)
        rows = self.corpus.rows(piece)
        influence = np.zeros((len(rows.keys), ridge.targets.shape[1]), INFLUENCE_DTYPE)
        if rows.usable.any():
            path = piece_path(self.corpus.embeddings_dir or "", piece)
            for first, vectors in aligned.read_embeddings(path):
                at = slice(first, first + len(vectors))
                influence[at] = ridge.predict(vectors, rows.keys[at])
        column = aligned.vector_column(influence, INFLUENCE_DTYPE)
        schema = pa.schema([pa.field("influence", column.type)])
        aligned.write_table(self.paths(piece)[0], schema, {"influence": column})
        return Tally({"splits": 1})

    def finish(self, total: Tally | None) -> None:
        write_json(self.artifact, total.counts if total else {})


def read_influence(folder: str, split: Split) -> np.ndarray:
    """Reads the row-aligned influence of a split, float32 [n, num_targets]."""
    table = aligned.read_table(piece_path(files.join(folder, "rows"), split))
    return aligned.unpack_vectors(table.column("influence"), INFLUENCE_DTYPE)


def load_unscorable(folder: str) -> np.ndarray:
    """Loads the keys of the landmarks that have no finite score: no examples to select, uint64 [n]."""

    def read() -> np.ndarray:
        return np.array(read_propagation(folder)["unscorable"], np.uint64)

    return cached(("unscorable", folder), read)
