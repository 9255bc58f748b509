"""Megatron's indexed datasets: the tokens of all documents in a `.bin`, and where each starts in an `.idx` beside it.

The index is `MMIDIDX`, two zeros, the version 1 (uint64), the code of the tokens' type (uint8), the number of sequences and that
of document bounds (uint64), the tokens of each sequence (int32), the byte at which each starts (int64), and the sequences at
which documents start, with the one after the last (int64). All little-endian. Here every document is one sequence.

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
# As `DType.optimal_dtype`: from so many tokens on, 16 bits are taken for too few.
_SHORT_VOCABULARY = 65_500


class Encoder(Protocol):
    """Makes tokens of documents."""

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes whole documents, each ended as the trainer wants: integers [num_tokens]."""


def token_type(vocabulary_size: int) -> np.dtype:
    """The type that holds the tokens of a vocabulary: what Megatron itself would take."""
    return np.dtype("<u2" if vocabulary_size < _SHORT_VOCABULARY else "<i4")


def write_tokens(
    path: str, documents: Iterable[np.ndarray], vocabulary_size: int, replace: bool = False
) -> tuple[WrittenPart, WrittenPart]:
    """Writes documents, each of at least one token; the index last, so that without it nothing is there.

    Args:
      path: The file of the tokens, which ends with `.bin`.
      documents: Their tokens, integers [num_tokens], ended as the trainer wants.
      vocabulary_size: Tokens that there are.
      replace: Whether to replace finished files.

    Raises:
      ValueError: If a token is beyond the vocabulary, or the path ends otherwise.
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
        file.write(struct.pack("<QBQQ", *head))
        for column in (sizes, starts, np.arange(len(sizes) + 1, dtype="<i8")):
            file.write(np.ascontiguousarray(column))
    return tokens_part, WrittenPart(index_path, file.sha256, 0, file.size_bytes)
