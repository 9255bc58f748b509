"""What names an embedder, and what an embedder is."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from beam_quad.errors import UsageError


@dataclasses.dataclass(frozen=True)
class EmbedderSpec:
    """Names an embedder; small, picklable, and all that a worker needs to load it.

    Attributes:
      name: `hashing`, `minilm`, a directory of a sentence encoder, or its hub id.
      revision: Branch, tag or commit of a hub id.
      device: Torch device of a sentence encoder; hashing has none.
      num_threads: Torch threads of a sentence encoder; None leaves them as they are. The last bits of an embedding
        depend on it, so pin it where runs are compared.
      dim: Dimension of the vectors. Hashing: number of buckets, 512 by default. A sentence encoder: only the
        leading `dim` components are kept (for models trained that way), all by default.
      max_tokens: Texts are cut there (hashing: at that many words), which is faster; by default a sentence encoder
        cuts at its own limit and hashing nowhere.

    Raises:
      UsageError: If a number is not positive.
    """

    name: str
    revision: str | None = None
    device: str = "cpu"
    num_threads: int | None = None
    dim: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in ("num_threads", "dim", "max_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UsageError(f"the embedder's {field} must be at least 1, got {value}")


class Embedder(Protocol):
    """Turns texts into unit vectors.

    Attributes:
      dim: Dimension of the vectors.
    """

    dim: int

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts; the result depends on the texts of this call alone.

        Args:
          texts: Texts, any length; an empty one is a text like any other.

        Returns:
          Vectors of norm 1, float32 [num_texts, dim], in the order of `texts`.
        """
        ...
