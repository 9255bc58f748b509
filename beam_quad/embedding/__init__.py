"""Text to unit vectors: sentence encoders and hashed words, behind one protocol."""

from beam_quad.embedding.loading import embedder_fingerprint, load_embedder
from beam_quad.embedding.spec import Embedder, EmbedderSpec

__all__ = ["Embedder", "EmbedderSpec", "embedder_fingerprint", "load_embedder"]
