"""Loads embedders from specs, and computes their fingerprints and costs.

A new embedder is a module with `load`, `fingerprint` and `costs`, an entry in `NAMED`, and a test.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.spec import AnyEmbedderSpec, Embedder, EmbedderSpec, JvpSpec, StaticSpec

if TYPE_CHECKING:
    from beam_quad.gradients.proxy import Proxy, ProxySpec

# Modules of the named embedders; any other name is a sentence encoder. Modules are imported on demand, because torch and
# transformers take seconds to import and hashing needs neither.
NAMED = {
    "hashing": "beam_quad.embedding.hashing",
    "jvp": "beam_quad.embedding.jvp",
    "static": "beam_quad.embedding.static",
}
_OF_TYPE = {JvpSpec: "jvp", StaticSpec: "static"}
_SENTENCE_ENCODERS = "beam_quad.embedding.sentence"


class EmbedderModule(Protocol):
    """Functions that the module of an embedder defines."""

    def load(self, spec: Any, proxy_of: "Callable[[ProxySpec], Proxy] | None") -> Embedder:
        """As `load_embedder`."""

    def fingerprint(self, spec: Any, proxy_fingerprint: str | None) -> str:
        """As `embedder_fingerprint`."""

    def costs(self, spec: Any) -> EmbedderCosts:
        """As `embedder_costs`."""


def load_embedder(
    spec: AnyEmbedderSpec, proxy_of: "Callable[[ProxySpec], Proxy] | None" = None
) -> Embedder:
    """Loads an embedder.

    Args:
      spec: The embedder to load.
      proxy_of: Returns the proxy of a `JvpSpec`, for example one already loaded in this process; by default the proxy is
        loaded.

    Raises:
      DeviceError: If the spec's device does not exist.
      UsageError: If there is no such embedder.
    """
    return _module_of(spec).load(spec, proxy_of)


def embedder_fingerprint(spec: AnyEmbedderSpec, proxy_fingerprint: str | None = None) -> str:
    """Identifies everything that determines the vectors: model content, dimension, truncation, tangents and their seed.

    The fingerprint leaves out the device and the number of threads, which change only the last bits, and the location of the
    model.

    Args:
      spec: The embedder.
      proxy_fingerprint: Content of the proxy of a `JvpSpec`, if known; by default the proxy's files are read.

    Raises:
      UsageError: If there is no such embedder.
    """
    return _module_of(spec).fingerprint(spec, proxy_fingerprint)


def embedder_costs(spec: AnyEmbedderSpec) -> EmbedderCosts:
    """Computes the costs from the embedder's skeleton, and refuses an embedder that would not load.

    Only the weights of static embeddings and of layers after the encoder are read.

    Raises:
      UsageError: As `load_embedder`, for errors visible without the weights.
    """
    return _module_of(spec).costs(spec)


def _module_of(spec: AnyEmbedderSpec) -> EmbedderModule:
    name = spec.name if isinstance(spec, EmbedderSpec) else _OF_TYPE[type(spec)]
    return cast("EmbedderModule", importlib.import_module(NAMED.get(name, _SENTENCE_ENCODERS)))
