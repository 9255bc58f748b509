"""The influence of every example on every target, propagated from the landmarks."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.distillation.fit_propagation import FitPropagation
from beam_quad.stages.read.splits import RowAlignedStage

# Single precision: half precision would tie thousands of examples of a large corpus.
INFLUENCE_DTYPE = np.dtype(np.float32)
# A number of a landmark: in double precision, and scaled in single.
_LANDMARK_NUMBER_BYTES = 12


@dataclasses.dataclass(frozen=True)
class Propagate(RowAlignedStage):
    """Predicts the influence of every example on every target; landmarks keep their exact influence.

    Takes splits, writes one row-aligned file of influence for each (meaningless for rejected rows), and returns counts.
    The bits of a prediction depend only on its own row.

    Args:
      corpus: The embedded corpus.
      propagation: The regression.
    """

    kind = "propagated"
    version = 3
    artifact_name = "propagated.json"

    propagation: FitPropagation

    def work(self, sizes: Sizes) -> Work:
        texts, num_targets = self.texts_of(sizes), len(sizes.query)
        number, dim = self.propagation.landmarks.drawn.expected(sizes), sizes.embedder.dim
        # The kernel is computed in single precision, and its product with the duals in double.
        each = dim + num_targets / rates.FLOAT64_RATE
        return Work(
            "propagate",
            texts.documents,
            cpu_flops=2.0 * texts.documents * number * each,
            memory_bytes=float(_LANDMARK_NUMBER_BYTES * number * dim),
            bytes_stored=float(texts.documents * INFLUENCE_DTYPE.itemsize * num_targets),
            requests=texts.requests(4, 1),
        )

    def statistic(self, piece: Split) -> Tally:
        return Tally({"splits": 1})

    def do(self, piece: Split, model: Any) -> Tally:
        ridge = self.propagation.load()
        # Duplicates by id are predicted too, so the file does not depend on other splits.
        rows = self.corpus.own_rows(piece)
        influence = np.zeros((len(rows.keys), ridge.targets.shape[1]), INFLUENCE_DTYPE)
        if rows.usable.any():
            for first, vectors in self.corpus.embeddings(piece):
                at = slice(first, first + len(vectors))
                influence[at] = ridge.predict(vectors, rows.keys[at])
        column = aligned.vector_column(influence, INFLUENCE_DTYPE)
        schema = pa.schema([pa.field("influence", column.type)])
        self.write_rows(piece, schema, {"influence": column})
        return Tally({"splits": 1})

    def read(self, split: Split) -> np.ndarray:
        """Reads the influence of a split's rows, float32 [n, num_targets]."""
        table = aligned.read_table(self.rows_path(split))
        return aligned.unpack_vectors(table.column("influence"), INFLUENCE_DTYPE)
