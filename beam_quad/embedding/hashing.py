"""Hashed words: an embedding without a model."""

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.spec import EmbedderSpec

DEFAULT_DIM = 512
VERSION = 1  # part of the fingerprint; raise it when the vectors of any text change

# Han and kana are written without spaces. Each character is a word, otherwise a whole sentence would be one.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class HashingEmbedder:
    """Embeds a text as its hashed words, with unsigned log(1 + count) in each bucket, normalised.

    Unsigned logarithmic counts give much purer clusters than signed plain counts (METHODS D: .81-.86 against .63). A text
    without words is embedded by its characters, and a blank text by a bucket of its own.

    Args:
      dim: Number of buckets.
      max_words: Maximum number of words read from a text; None reads all.
    """

    def __init__(self, dim: int = DEFAULT_DIM, max_words: int | None = None) -> None:
        self.dim = dim
        self._max_words = max_words
        self._vectorizer = HashingVectorizer(
            n_features=dim, alternate_sign=False, norm=None, dtype=np.float32, analyzer=self._words
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [num_texts, dim], unit rows; see `Embedder.embed`."""
        # The vectoriser refuses an empty list.
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        counts = self._vectorizer.transform(texts)
        np.log1p(counts.data, out=counts.data)
        vectors: np.ndarray = counts.toarray()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _words(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower())[: self._max_words]
        return words or list("".join(text.split())) or [""]


def load(spec: EmbedderSpec, _: object) -> HashingEmbedder:
    """As `EmbedderModule`."""
    return HashingEmbedder(spec.dim or DEFAULT_DIM, spec.max_tokens)


def fingerprint(spec: EmbedderSpec, _: object) -> str:
    """As `EmbedderModule`."""
    return f"hashing:v{VERSION}:dim={spec.dim or DEFAULT_DIM}:max_words={spec.max_tokens}"


def costs(spec: EmbedderSpec) -> EmbedderCosts:
    """As `EmbedderModule`."""
    return EmbedderCosts(spec.dim or DEFAULT_DIM, spec.max_tokens)
