"""Megatron's indexed datasets: the tokens of all documents in a `.bin` file, and their offsets in an `.idx` file beside it.

The index consists of `MMIDIDX`, two zero bytes, the version 1 (uint64), the code of the tokens' type (uint8), the number of
sequences and the number of document bounds (uint64 each), the length of each sequence in tokens (int32), the first byte of
each sequence (int64), and the first sequence of each document, followed by the number of sequences (int64). All numbers are
little-endian. Here every document is one sequence.

References:
  https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/datasets/indexed_dataset.py
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from beam_quad.artifacts import files
from beam_quad.corpus.parts import WrittenPart, companion

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
# The codes of `DType` in Megatron.
_CODES = {np.dtype("<i4"): 4, np.dtype("<u2"): 8}
# From `DType.optimal_dtype`: vocabularies of this size or more do not use 16 bits.
_SHORT_VOCABULARY = 65_500


class Encoder(Protocol):
    """Encodes documents as tokens."""

    @property
    def vocabulary_size(self) -> int:
        """Returns the number of distinct tokens."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes whole documents, each with the trainer's end token: integers [num_tokens]."""


def token_type(vocabulary_size: int) -> np.dtype:
    """Returns the type that Megatron itself uses for the tokens of a vocabulary."""
    return np.dtype("<u2" if vocabulary_size < _SHORT_VOCABULARY else "<i4")


def write_tokens(
    path: str, documents: Iterable[np.ndarray], vocabulary_size: int, replace: bool = False
) -> tuple[WrittenPart, WrittenPart]:
    """Writes documents, each of at least one token; the index is written last, so its presence marks a complete part.

    Args:
      path: The file of the tokens, ending in `.bin`.
      documents: Tokens of each document, integers [num_tokens], with the trainer's end token.
      vocabulary_size: Number of distinct tokens.
      replace: Whether to replace finished files.

    Raises:
      ValueError: If a token is outside the vocabulary, or the path does not end in `.bin`.
    """
    index_path = companion(path)
    if index_path is None:
        raise ValueError(f"{path}: tokens of Megatron are in a .bin")
    data_type = token_type(vocabulary_size)
    lengths: list[int] = []
    with files.writing(path, replace) as file:
        for tokens in documents:
            if tokens.max(initial=0) >= vocabulary_size:
                raise ValueError(
                    f"token {tokens.max()} is beyond a vocabulary of {vocabulary_size}"
                )
            file.write(tokens.astype(data_type).tobytes())
            lengths.append(len(tokens))
    tokens_part = WrittenPart(path, file.sha256, len(lengths), file.size_bytes)
    sizes = np.array(lengths, "<i4")
    ends = np.cumsum(sizes, dtype="<i8") * data_type.itemsize
    starts = np.concatenate([np.zeros(1, "<i8"), ends])[: len(sizes)]
    with files.writing(index_path, replace) as file:
        file.write(_MAGIC)
        head = _VERSION, _CODES[data_type], len(sizes), len(sizes) + 1
        # `<` also leaves out padding, which Megatron does not expect.
        file.write(struct.pack("<QBQQ", *head))
        for column in (sizes, starts, np.arange(len(sizes) + 1, dtype="<i8")):
            file.write(np.ascontiguousarray(column))
    return tokens_part, WrittenPart(index_path, file.sha256, 0, file.size_bytes)
