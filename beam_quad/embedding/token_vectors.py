"""Token vectors, and their mean as the embedding of a text."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
import torch

from beam_quad import archives
from beam_quad.embedding.norms import unit_rows

# The constant a of smooth inverse frequency: tokens with a higher probability lose weight.
_SIF = 1e-4
# A text is cut at this many characters per token read; English has about 4.5.
_CHARACTERS_PER_TOKEN = 8
# Texts per call of the tokenizer, whose encodings use memory until they are dropped.
_TEXTS_PER_CALL = 256


class Bags(NamedTuple):
    """The concatenated tokens of texts.

    Attributes:
      tokens: Token ids of all texts, int64 [num_tokens].
      starts: Start of each text, int64 [num_texts].
    """

    tokens: torch.Tensor
    starts: torch.Tensor


@dataclasses.dataclass(frozen=True)
class TokenVectors:
    """A vector for each token of a vocabulary.

    Attributes:
      tokenizer: The tokenizer, as JSON.
      vectors: Vectors by token id, float32 [num_tokens, dim].
    """

    tokenizer: str
    vectors: np.ndarray

    @classmethod
    def distilled(cls, tokenizer: str, embeddings: np.ndarray, dim: int) -> "TokenVectors":
        """Makes token vectors from the encoder's embeddings of single tokens, as model2vec does.

        The embeddings are centered, which removes what all tokens share, and projected on their principal components. Each
        token is weighted by smooth inverse frequency, a / (a + p). Tokenizers list frequent tokens first, so p is taken from
        Zipf's law in the order of the vocabulary.

        Args:
          tokenizer: The tokenizer, as JSON.
          embeddings: The encoder's embedding of each token by itself, float [num_tokens, full_dim]. Embeddings that are not
            finite, as for padding in some encoders, become zeros.
          dim: Number of components kept, at most `full_dim`.

        References:
          Tulkens & van Dongen, Model2Vec: Fast State-of-the-Art Static Embeddings, 2024. Arora, Liang & Ma, A Simple but
          Tough-to-Beat Baseline for Sentence Embeddings, 2017.
        """
        is_finite = np.isfinite(embeddings).all(axis=1, keepdims=True)
        mean = embeddings.mean(axis=0, dtype=np.float64, where=is_finite)
        centered = np.where(is_finite, embeddings - mean, 0.0)
        # Eigenvectors ascend by eigenvalue, so the principal components come last.
        _, directions = np.linalg.eigh(centered.T @ centered)
        components = centered @ directions[:, ::-1][:, :dim]
        # From 2, as in model2vec.
        probability = 1 / np.arange(2, len(embeddings) + 2)
        weights = _SIF / (_SIF + probability / probability.sum())
        return cls(tokenizer, (components * weights[:, None]).astype(np.float32))

    def to_bytes(self) -> bytes:
        """Writes the token vectors as an npz file."""
        tokenizer = np.frombuffer(self.tokenizer.encode(), np.uint8)
        return archives.dump(tokenizer=tokenizer, vectors=self.vectors)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "TokenVectors":
        """Reads what `to_bytes` wrote."""
        found = archives.parse(raw)
        return cls(found["tokenizer"].tobytes().decode(), found["vectors"])


class StaticEmbedder:
    """Embeds a text as the normalised mean of its tokens' vectors.

    A vector depends bit for bit on its text alone.

    Args:
      token_vectors: The vectors.
      max_tokens: Maximum number of tokens read from a text.
      dim: Number of leading components kept; None keeps all.

    Attributes:
      dim: Dimension of the vectors.
    """

    def __init__(
        self, token_vectors: TokenVectors, max_tokens: int, dim: int | None = None
    ) -> None:
        self._vectors = torch.from_numpy(token_vectors.vectors[:, :dim].copy())
        self._tokenizer = tokenizers.Tokenizer.from_str(token_vectors.tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._max_characters = max_tokens * _CHARACTERS_PER_TOKEN
        self.dim = int(self._vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [num_texts, dim], unit rows; see `Embedder.embed`."""
        return self.embed_prepared(self.prepare(texts))

    def prepare(self, texts: Sequence[str]) -> Bags:
        """Tokenises texts; see `PreparingEmbedder.prepare`."""
        parts, lengths = [], []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            cut = [text[: self._max_characters] for text in texts[start : start + _TEXTS_PER_CALL]]
            # A text without tokens is embedded as the first token of the vocabulary.
            found = [
                encoding.ids or [0]
                for encoding in self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)
            ]
            lengths += [len(ids) for ids in found]
            parts.append(np.fromiter(itertools.chain.from_iterable(found), np.int64))
        tokens = np.concatenate([*parts, np.zeros(0, np.int64)])
        starts = np.cumsum([0, *lengths[:-1]]) if lengths else np.zeros(0, np.int64)
        return Bags(torch.from_numpy(tokens), torch.from_numpy(starts))

    def embed_prepared(self, bags: Bags) -> np.ndarray:
        """Averages the vectors of tokens; see `PreparingEmbedder.embed_prepared`."""
        if not len(bags.starts):
            return np.zeros((0, self.dim), np.float32)
        means = torch.nn.functional.embedding_bag(
            bags.tokens, self._vectors, bags.starts, mode="mean"
        )
        return unit_rows(means.numpy())
