"""The embeddings of the protected texts."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad import archives
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.embedding import Embedder
from beam_quad.plan.work import Sizes, Work
from beam_quad.selection.paraphrases import MOST_ITEMS
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.embedder import EmbedderStage, embedding_work
from beam_quad.stages.read.leaks import Leaks


@dataclasses.dataclass(frozen=True)
class EmbedItems(EmbedderStage):
    """Embeds the items compared with documents, with the embedder of the corpus.

    Takes numbers of batches; writes one file of vectors per batch, then one file of all.

    Args:
      embedder, embedder_fingerprint: As in `EmbedderStage`.
      leaks: The items.
    """

    kind = "item_embeddings"
    artifact_name = "items.npz"

    leaks: Leaks

    @property
    def root(self) -> str:
        return self.leaks.root

    def work(self, sizes: Sizes) -> Work:
        number = min(MOST_ITEMS, sizes.num_items)
        # Items are taken to be as long as documents: they are texts of the query set and of benchmarks.
        flops = sizes.embedder.flops(sizes.corpus.mean_tokens) * number
        return embedding_work("paraphrases", self.embedder, number, flops)

    def pieces(self) -> list[int]:
        return list(range(-(-len(self.leaks.compared()) // BATCH_ROWS)))

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("parts"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (self.path("parts", f"{piece:04d}.npz"),)

    def statistic(self, piece: int) -> Tally:
        return Tally()

    def do(self, piece: int, model: Embedder) -> Tally:
        own = list(self.leaks.compared().values())[BATCH_ROWS * piece : BATCH_ROWS * (piece + 1)]
        points = model.embed(own).astype(aligned.EMBEDDING_DTYPE)
        files.write_once(self.paths(piece)[0], archives.dump(points=points))
        return Tally()

    def finish(self, total: Tally | None) -> None:
        parts = [
            archives.parse(files.read_bytes(self.paths(piece)[0]))["points"]
            for piece in self.pieces()
        ]
        points = np.concatenate(parts) if parts else np.zeros((0, 1), aligned.EMBEDDING_DTYPE)
        files.write_once(self.artifact, archives.dump(points=points))

    @once_per_process
    def points(self) -> np.ndarray:
        """Loads the vectors, unit rows, float16 [num_items, dim] in the order of `Leaks.compared`, once per process."""
        found: dict[str, Any] = archives.parse(files.read_bytes(self.artifact))
        return np.asarray(found["points"])
