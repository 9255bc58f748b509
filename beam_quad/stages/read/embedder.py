"""What stages share that run texts through the embedder of the corpus."""

import dataclasses

from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached_proxy
from beam_quad.embedding import (
    AnyEmbedderSpec,
    Embedder,
    EmbedderSpec,
    StaticSpec,
    load_embedder,
)
from beam_quad.embedding.token_vectors import StaticEmbedder, TokenVectors
from beam_quad.plan.work import Work
from beam_quad.stages.base import ModelStage


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


def load_stored_embedder(spec: AnyEmbedderSpec) -> Embedder:
    """Loads an embedder on a worker: with the process's proxy, or with the vectors of `DistilTokens`."""
    if isinstance(spec, StaticSpec) and spec.table is not None:
        vectors = TokenVectors.from_bytes(files.read_bytes(spec.table))
        return StaticEmbedder(vectors, spec.max_tokens)
    return load_embedder(spec, cached_proxy)
