"""Embedders, from text to unit vectors: sentence encoders, token vectors, hashed words and a proxy's first blocks."""

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.loading import embedder_costs, embedder_fingerprint, load_embedder
from beam_quad.embedding.spec import (
    AnyEmbedderSpec,
    Embedder,
    EmbedderSpec,
    JvpSpec,
    PreparingEmbedder,
    StaticSpec,
)

__all__ = [
    "AnyEmbedderSpec",
    "Embedder",
    "EmbedderCosts",
    "EmbedderSpec",
    "JvpSpec",
    "PreparingEmbedder",
    "StaticSpec",
    "embedder_costs",
    "embedder_fingerprint",
    "load_embedder",
]
