"""Specs of embedders, and the protocols of an embedder."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import numpy as np

from beam_quad import identity
from beam_quad.errors import UsageError

if TYPE_CHECKING:
    # Imports torch and transformers, which takes seconds and which hashing does not need.
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
    """Spec of a hashing or sentence embedder: small, picklable, and sufficient to load it on a worker.

    Attributes:
      name: `hashing`, `minilm`, or the directory or hub id of a sentence encoder.
      revision: Branch, tag or commit of a hub id.
      device: Torch device of a sentence encoder; unused by hashing.
      num_threads: Torch threads of a sentence encoder; None keeps the current number. The last bits of an embedding depend
        on it, so pin it if runs are compared.
      dim: Dimension of the vectors. For hashing, the number of buckets, 512 by default. For a sentence encoder, the number
        of leading components kept (for models trained that way), all by default.
      max_tokens: Tokens (for hashing, words) at which texts are cut, to save time. By default a sentence encoder cuts at
        its own limit, and hashing does not cut.
      prompt: Prefix that a sentence encoder adds to every text, such as "query: "; None for the model's default prompt, ""
        for no prompt. Unused by hashing.
      dtype: Dtype of the weights and activations of a sentence encoder, "float32" or "bfloat16". Unused by hashing.

    Raises:
      UsageError: If a number is not positive, or the dtype is unknown.
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
    """Spec of an embedder by Jacobian-vector products: small, picklable, and sufficient to load it on a worker.

    Attributes:
      proxy: The model. Its `context_length` is the number of tokens read from a text.
      num_blocks: Number of transformer blocks used; all if the model has fewer.
      num_tangents: Number of tangents, shared by all texts.
      dim: Maximum dimension of the vectors.
      seed: Seed of tangents and projection.

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
    """Spec of an embedder by token vectors distilled from a sentence encoder: small and picklable.

    Attributes:
      encoder: The encoder to distil and the device to do it on, or a model of static embeddings, which is used unchanged.
      table: Path at which a run stores the distilled vectors; None distils them again.
      dim: Dimension of the vectors. By default 256 or all of an encoder's if it has fewer, and all of a static model's.
      max_tokens: Maximum number of tokens read from a text.

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
        """Device on which texts are embedded: the CPU, because token vectors are only averaged."""
        return "cpu"

    def distilled_dim(self, full_dim: int) -> int:
        """Decides the dimension of vectors distilled from an encoder of `full_dim` dimensions."""
        return min(self.dim or STATIC_DIM, full_dim)


def static_source(name: str) -> str | None:
    """Returns the source model of `static` or `static:NAME`; None for the name of another embedder."""
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
        """Embeds texts; the result depends only on the texts of this call.

        Args:
          texts: Texts of any length, including empty ones.

        Returns:
          Vectors of norm 1, float32 [num_texts, dim], in the order of `texts`; 0 if the model gives a text no finite
          direction.
        """
        ...


@runtime_checkable
class PreparingEmbedder(Embedder, Protocol):
    """An embedder in two steps. The first needs no device and runs ahead in threads.

    `embed` runs both steps.
    """

    def prepare(self, texts: Sequence[str]) -> Any:
        """Runs the step without a device, such as tokenising; several threads may call it at once."""
        ...

    def embed_prepared(self, prepared: Any) -> np.ndarray:
        """Embeds the result of `prepare`, as `embed` does; called by one thread at a time."""
        ...
