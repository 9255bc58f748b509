"""Sentence encoders, through sentence-transformers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.spec import EmbedderSpec
from beam_quad.errors import DeviceError, IntegrityError, UsageError
from beam_quad.gradients.passes import is_out_of_memory

# Texts per micro-batch; halved along the ladder when a GPU's memory runs out. A CPU gains nothing from larger ones.
_LADDER = {"cpu": (32,), "cuda": (256, 128, 64, 32, 16, 8)}
# Characters per token beyond which a text is cut before it is tokenised: English has about 4.5, and the tail of a
# book need not be tokenised to be thrown away.
_CHARACTERS_PER_TOKEN = 32


class SentenceEmbedder:
    """Embeds texts with a sentence encoder.

    Micro-batches have a fixed size and are cut from the texts of one call sorted by length and text, so that the
    result of a call does not depend on other calls, nor on the order of its texts. (Another composition of a
    micro-batch changes the last bits, about 1e-7.)

    Attributes:
      dim: Dimension of the vectors.
      num_halvings: How often a micro-batch was halved because the device's memory ran out.
    """

    def __init__(self, directory: Path, spec: EmbedderSpec) -> None:
        """Loads the encoder and pins the number of threads.

        Raises:
          DeviceError: If the spec's device is not there.
          UsageError: If the encoder cannot be loaded, or has fewer dimensions than the spec asks for.
        """
        device = _checked_device(spec.device)
        if spec.num_threads is not None:
            torch.set_num_threads(spec.num_threads)
        self._model = _load(directory, device)
        self._ladder = _LADDER.get(device.type, _LADDER["cpu"])
        self._max_characters = _limit_tokens(self._model, spec.max_tokens)
        self.num_halvings = 0
        full_dim = int(self._encode(["dimension"]).shape[1])
        self.dim = spec.dim or full_dim
        if self.dim > full_dim:
            raise UsageError(f"{spec.name} has {full_dim} dimensions, fewer than {self.dim}")

    @property
    def costs(self) -> EmbedderCosts:
        """Twice the encoder's parameters for each token, its tables of embeddings aside; attention is left out."""
        modules = [m for m in self._model.modules() if not isinstance(m, nn.Embedding)]
        entries = sum(p.numel() for m in modules for p in m.parameters(recurse=False))
        return EmbedderCosts(self.dim, self._model.max_seq_length, token_flops=2.0 * entries)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [num_texts, dim], unit rows; see `Embedder.embed`.

        Raises:
          IntegrityError: If the encoder gives a vector that is zero or not finite.
        """
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        cut = [text[: self._max_characters] for text in texts]
        order = sorted(range(len(cut)), key=lambda i: (len(cut[i]), cut[i]))
        vectors = np.empty((len(cut), self.dim), np.float32)
        vectors[order] = self._encode([cut[i] for i in order])[:, : self.dim]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms).all() and norms.all()):
            bad = int(np.flatnonzero(~np.isfinite(norms) | (norms == 0))[0])
            raise IntegrityError(
                f"the encoder gave no finite, non-zero vector for {texts[bad][:80]!r}"
            )
        vectors /= norms
        return vectors

    def _encode(self, texts: list[str]) -> np.ndarray:
        for batch_size in self._ladder[:-1]:
            try:
                return self._encode_in_batches(texts, batch_size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.num_halvings += 1
                torch.cuda.empty_cache()
        return self._encode_in_batches(texts, self._ladder[-1])

    def _encode_in_batches(self, texts: list[str], batch_size: int) -> np.ndarray:
        return np.asarray(
            self._model.encode(texts, batch_size=batch_size, show_progress_bar=False), np.float32
        )


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}: pass cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"no device {name!r} for the embedder here; pass --device=cpu")
    return device


def _load(directory: Path, device: torch.device) -> SentenceTransformer:
    try:
        return SentenceTransformer(
            str(directory),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        ).eval()
    except (OSError, ValueError, KeyError, ImportError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{directory} does not load as a sentence encoder: {detail}") from error


def _limit_tokens(model: SentenceTransformer, max_tokens: int | None) -> int | None:
    """Lowers the model's limit to `max_tokens`; returns the characters a text may keep, None for all."""
    limits = [limit for limit in (model.max_seq_length, max_tokens) if limit is not None]
    if not limits:
        return None
    model.max_seq_length = int(min(limits))
    return int(min(limits)) * _CHARACTERS_PER_TOKEN
