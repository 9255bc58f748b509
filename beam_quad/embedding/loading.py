"""From a spec to an embedder and its fingerprint. A new embedder is a file of its own and a branch in both."""

from beam_quad.embedding import hashing
from beam_quad.embedding.sources import locate, source_fingerprint
from beam_quad.embedding.spec import Embedder, EmbedderSpec


def load_embedder(spec: EmbedderSpec) -> Embedder:
    """Loads the embedder that a spec names.

    Raises:
      DeviceError: If the spec's device is not there.
      UsageError: If there is no such embedder.
    """
    if spec.name == "hashing":
        return hashing.HashingEmbedder(spec.dim or hashing.DEFAULT_DIM, spec.max_tokens)
    # Torch and transformers take seconds to import, and hashing needs neither.
    from beam_quad.embedding.sentence import SentenceEmbedder

    return SentenceEmbedder(locate(spec), spec)


def embedder_fingerprint(spec: EmbedderSpec) -> str:
    """Names what decides the vectors: the content of the model, the dimension and the cut.

    The device and the number of threads are left out: they change the last bits only. Where the model lies is left
    out, too.

    Raises:
      UsageError: If there is no such embedder.
    """
    if spec.name == "hashing":
        dim = spec.dim or hashing.DEFAULT_DIM
        return f"hashing:v{hashing.VERSION}:dim={dim}:max_words={spec.max_tokens}"
    return f"{source_fingerprint(spec)}:dim={spec.dim}:max_tokens={spec.max_tokens}"
