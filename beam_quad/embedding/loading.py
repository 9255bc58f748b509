"""From a spec to an embedder, its fingerprint and costs.

A new embedder is a module with `load`, `fingerprint` and `costs`, an entry in `NAMED`, and a test.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.spec import AnyEmbedderSpec, Embedder, EmbedderSpec, JvpSpec, StaticSpec

if TYPE_CHECKING:
    from beam_quad.gradients.proxy import Proxy, ProxySpec

# The module of each embedder that has a name; any other name is a sentence encoder's. They are imported when they are
# needed: torch and transformers take seconds, and hashing needs neither.
NAMED = {
    "hashing": "beam_quad.embedding.hashing",
    "jvp": "beam_quad.embedding.jvp",
    "static": "beam_quad.embedding.static",
}
_OF_TYPE = {JvpSpec: "jvp", StaticSpec: "static"}
_SENTENCE_ENCODERS = "beam_quad.embedding.sentence"


class EmbedderModule(Protocol):
    """What the module of an embedder has."""

    def load(self, spec: Any, proxy_of: "Callable[[ProxySpec], Proxy] | None") -> Embedder:
        """As `load_embedder`."""

    def fingerprint(self, spec: Any, proxy_fingerprint: str | None) -> str:
        """As `embedder_fingerprint`."""

    def costs(self, spec: Any) -> EmbedderCosts:
        """As `embedder_costs`."""


def load_embedder(
    spec: AnyEmbedderSpec, proxy_of: "Callable[[ProxySpec], Proxy] | None" = None
) -> Embedder:
    """Loads the embedder that a spec names.

    Args:
      spec: What to load.
      proxy_of: Gives the proxy of a `JvpSpec`, such as one that this process holds already; loaded anew by default.

    Raises:
      DeviceError: If the spec's device is not there.
      UsageError: If there is no such embedder.
    """
    return _module_of(spec).load(spec, proxy_of)


def embedder_fingerprint(spec: AnyEmbedderSpec, proxy_fingerprint: str | None = None) -> str:
    """Names what decides the vectors: the content of the model, the dimension and the cut, tangents and their seed.

    The device and the number of threads are left out: they change the last bits only. Where the model is stored is left
    out, too.

    Args:
      spec: Names the embedder.
      proxy_fingerprint: Content of the proxy of a `JvpSpec`, where it is known; its files are read by default.

    Raises:
      UsageError: If there is no such embedder.
    """
    return _module_of(spec).fingerprint(spec, proxy_fingerprint)


def embedder_costs(spec: AnyEmbedderSpec) -> EmbedderCosts:
    """Reads the costs off the embedder's skeleton, and refuses an embedder that would not load.

    No weights are read but those of static embeddings and of layers behind the encoder.

    Raises:
      UsageError: As `load_embedder`, as far as it can be told without the weights.
    """
    return _module_of(spec).costs(spec)


def _module_of(spec: AnyEmbedderSpec) -> EmbedderModule:
    name = spec.name if isinstance(spec, EmbedderSpec) else _OF_TYPE[type(spec)]
    return cast("EmbedderModule", importlib.import_module(NAMED.get(name, _SENTENCE_ENCODERS)))
