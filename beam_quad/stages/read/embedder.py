"""What stages share that run texts through the embedder of the corpus."""

import dataclasses

from beam_quad.embedding import AnyEmbedderSpec, Embedder
from beam_quad.stages.base import ModelStage
from beam_quad.stages.read.distil import load_stored_embedder


@dataclasses.dataclass(frozen=True)
class EmbedderStage(ModelStage):
    """A stage that runs texts through the embedder of the corpus.

    Args:
      embedder: The embedder.
      embedder_fingerprint: Its content.
    """

    embedder: AnyEmbedderSpec
    embedder_fingerprint: str

    @property
    def model_key(self) -> str:
        return repr((self.embedder, self.embedder_fingerprint))

    @property
    def device(self) -> str:
        return self.embedder.device

    def load(self) -> Embedder:
        return load_stored_embedder(self.embedder)
