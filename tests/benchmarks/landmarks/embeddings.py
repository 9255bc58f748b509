"""The embeddings that are compared: three of the package's, and two that bound them."""

from collections.abc import Callable, Sequence

import numpy as np

from beam_quad import seeding
from beam_quad.embedding.jvp import JvpEmbedder
from beam_quad.embedding.loading import load_embedder
from beam_quad.embedding.sources import locate
from beam_quad.embedding.spec import Embedder, EmbedderSpec
from beam_quad.gradients import Proxy, load_tokenizer
from tests.benchmarks.landmarks.material import Material

JVP, MINILM, HASHING, RANDOM, LABELS = "jvp", "minilm", "hashing", "random", "labels"
_RANDOM_DIM = 384


def embedder(name: str, proxy: Proxy) -> Embedder:
    """Loads one of the package's embedders with its defaults, on one thread."""
    if name == JVP:
        return JvpEmbedder(proxy)
    return load_embedder(EmbedderSpec(name, num_threads=1))


def minilm_tokens(texts: Sequence[str]) -> float:
    """Counts the tokens that MiniLM's own tokenizer makes of texts, on average."""
    tokenizer = load_tokenizer(str(locate(EmbedderSpec(MINILM))), None)
    return float(np.mean([len(ids) for ids in tokenizer(list(texts))["input_ids"]]))


def embed(material: Material, say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Embeds the pool in every way.

    Returns:
      By name, float16 as a run keeps them, [num_documents, dim], unit rows. "random" says nothing of a document and
      "labels" its domain and nothing else: a floor, and what telling the domains apart is worth.
    """
    embeddings = {}
    for name in (JVP, MINILM, HASHING):
        embeddings[name] = embedder(name, material.proxy).embed(material.texts)
        say(f"embedded by {name}, {embeddings[name].shape[1]} dimensions")
    draws = np.stack(
        [
            seeding.generator(0, "random embedding", int(key)).standard_normal(_RANDOM_DIM)
            for key in material.keys
        ]
    )
    embeddings[RANDOM] = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    domains = material.domains
    embeddings[LABELS] = domains[:, None] == np.unique(domains)
    return {name: vectors.astype(np.float16) for name, vectors in embeddings.items()}
