"""What stages share that run texts through the embedder of the corpus."""

import dataclasses

from beam_quad.embedding import AnyEmbedderSpec, Embedder, EmbedderSpec
from beam_quad.plan.work import Work
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


def embedding_work(line: str, spec: AnyEmbedderSpec | None, documents: float, flops: float) -> Work:
    """States the work of passing texts through an embedder, apart from reading them.

    Args:
      line: Line of the plan.
      spec: The embedder; None if nothing is embedded.
      documents: Number of texts.
      flops: Floating-point operations of all texts.
    """
    if isinstance(spec, EmbedderSpec) and spec.dtype == "float32":
        return Work(line, documents, float32_flops=flops)
    return Work(line, documents, flops=flops)
