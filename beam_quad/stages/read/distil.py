"""The token vectors of `--embedder=static`, distilled once from a sentence encoder for all runs."""

import dataclasses
from typing import Annotated, Any

import numpy as np

from beam_quad import identity
from beam_quad.additive import Tally
from beam_quad.artifacts import files
from beam_quad.embedding import Embedder, StaticSpec, load_embedder
from beam_quad.embedding.token_vectors import TokenVectors
from beam_quad.plan.work import Sizes, Work
from beam_quad.stages.base import ModelStage, NumberedStage
from beam_quad.stages.read.embedder import embedding_work

# Fixed, so the parts do not depend on the number of workers.
_NUM_GROUPS = 8


@dataclasses.dataclass(frozen=True)
class DistilTokens(NumberedStage, ModelStage):
    """Encodes every token of a sentence encoder's vocabulary, and distils the outputs into token vectors.

    Takes the number of a part of the vocabulary.

    Args:
      place: The folder of all artifacts.
      embedder: The static embedder and its encoder.
      embedder_fingerprint: Its content.
    """

    kind = "token_vectors"
    artifact_name = "vectors.npz"
    ending = "npz"

    place: Annotated[str, identity.NotCounted("where artifacts are stored")]
    embedder: StaticSpec
    embedder_fingerprint: str

    @property
    def root(self) -> str:
        return self.place

    @property
    def model_key(self) -> str:
        return repr((self.embedder.encoder, self.embedder_fingerprint))

    @property
    def device(self) -> str:
        return self.embedder.encoder.device

    def load(self) -> Embedder:
        return load_embedder(self.embedder.encoder)

    def work(self, sizes: Sizes) -> Work:
        return embedding_work("embed", self.embedder.encoder, 0, sizes.embedder.fit_flops)

    def pieces(self) -> range:
        return range(_NUM_GROUPS)

    def statistic(self, piece: int) -> Tally:
        return Tally({"parts": 1})

    def do(self, piece: int, model: Any) -> Tally:
        tokens = np.array_split(np.arange(model.num_tokens), _NUM_GROUPS)[piece]
        part = TokenVectors(model.tokenizer(), model.embed_tokens(tokens))
        files.write_once(self.group_path(piece, self.ending), part.to_bytes())
        return self.statistic(piece)

    def finish(self, total: Tally) -> None:
        parts = [
            TokenVectors.from_bytes(files.read_bytes(self.group_path(piece, self.ending)))
            for piece in self.pieces()
        ]
        embeddings = np.concatenate([part.vectors for part in parts])
        dim = self.embedder.distilled_dim(embeddings.shape[1])
        vectors = TokenVectors.distilled(parts[0].tokenizer, embeddings, dim)
        files.write_once(self.artifact, vectors.to_bytes())
