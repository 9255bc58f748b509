"""What names an embedder, and what an embedder is."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import numpy as np

from beam_quad import identity
from beam_quad.errors import UsageError

if TYPE_CHECKING:
    # It imports torch and transformers, which hashing needs not wait for.
    from beam_quad.gradients.proxy import ProxySpec

DTYPES = ("float32", "bfloat16")
JVP_DIM = 4096
JVP_BLOCKS = 4
JVP_TANGENTS = 2
STATIC_DIM = 256
STATIC_TOKENS = 512


def _first_window(proxy: "ProxySpec") -> "ProxySpec":
    return dataclasses.replace(proxy, max_windows=1)


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
      prompt: Put before every text by a sentence encoder, such as "query: "; None for the prompt that the model
        declares as its default, "" for none. Hashing has none.
      dtype: "float32" or "bfloat16": of the weights and activations of a sentence encoder. Hashing has none.

    Raises:
      UsageError: If a number is not positive, or the dtype another.
    """

    name: Annotated[str, identity.NotCounted("the embedder has a fingerprint")]
    revision: Annotated[str | None, identity.NotCounted("as the name")] = None
    device: Annotated[
        str, identity.CountedAs(identity.device_kind, "one device is as good as another")
    ] = "cpu"
    num_threads: Annotated[
        int | None,
        identity.NotCounted(
            "it changes last bits only, and a run goes on on a machine with other cores"
        ),
    ] = None
    dim: int | None = None
    max_tokens: int | None = None
    prompt: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(
                f"the embedder's dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}"
            )
        for field in ("num_threads", "dim", "max_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UsageError(f"the embedder's {field} must be at least 1, got {value}")


@dataclasses.dataclass(frozen=True)
class JvpSpec:
    """Names an embedder by Jacobian-vector products; small, picklable, and all that a worker needs to load it.

    Attributes:
      proxy: The model. Its `context_length` is what is read of a text.
      num_blocks: Transformer blocks that are passed; all where the model has fewer.
      num_tangents: Tangents, shared by all texts.
      dim: Dimension of the vectors, where the products have more components.
      seed: Decides tangents and projection.

    Raises:
      UsageError: If a number is not positive.
    """

    proxy: Annotated[
        "ProxySpec",
        identity.CountedAs(_first_window, "the windows after the first are not embedded"),
    ]
    num_blocks: int = JVP_BLOCKS
    num_tangents: int = JVP_TANGENTS
    dim: int = JVP_DIM
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("num_blocks", "num_tangents", "dim"):
            value = getattr(self, field)
            if value < 1:
                raise UsageError(f"the embedder's {field} must be at least 1, got {value}")

    @property
    def device(self) -> str:
        """Torch device of the proxy."""
        return self.proxy.device


@dataclasses.dataclass(frozen=True)
class StaticSpec:
    """Names an embedder by vectors of tokens, distilled from a sentence encoder; small, picklable, as the others.

    Attributes:
      encoder: What they are distilled from, and where; or a model of static embeddings, which is read as it is.
      table: Where a run stores what it has distilled; None distils anew.
      dim: Dimension of the vectors; by default 256, or all where there are fewer or where they are read as they are.
      max_tokens: Tokens of a text that are read.

    Raises:
      UsageError: If a number is not positive.
    """

    encoder: EmbedderSpec
    table: Annotated[str | None, identity.NotCounted("where it is stored")] = None
    dim: int | None = None
    max_tokens: int = STATIC_TOKENS

    def __post_init__(self) -> None:
        for field in ("dim", "max_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UsageError(f"the embedder's {field} must be at least 1, got {value}")

    @property
    def device(self) -> str:
        """Where texts are embedded: their tokens' vectors are only averaged."""
        return "cpu"

    def distilled_dim(self, full_dim: int) -> int:
        """Decides the dimension of what is distilled from an encoder of `full_dim` dimensions."""
        return min(self.dim or STATIC_DIM, full_dim)


def static_source(name: str) -> str | None:
    """Names what `static` or `static:NAME` is made from; None for the name of another embedder."""
    kind, _, source = name.partition(":")
    return (source or "minilm") if kind == "static" else None


AnyEmbedderSpec = EmbedderSpec | JvpSpec | StaticSpec


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
          Vectors of norm 1, float32 [num_texts, dim], in the order of `texts`; 0 for a text that the model gives no
          finite direction.
        """
        ...


@runtime_checkable
class PreparingEmbedder(Embedder, Protocol):
    """An embedder in two halves, of which the first needs no device and runs ahead in threads.

    `embed` is one after the other.
    """

    def prepare(self, texts: Sequence[str]) -> Any:
        """Does what needs no device, such as tokenising; called by several threads."""
        ...

    def embed_prepared(self, prepared: Any) -> np.ndarray:
        """Embeds what `prepare` made, as `embed` does; called by one thread at a time."""
        ...
