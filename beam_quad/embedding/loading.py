"""From a spec to an embedder, its fingerprint and costs. A new embedder is a file of its own and a branch in each."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from beam_quad.embedding import hashing
from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.spec import AnyEmbedderSpec, Embedder, EmbedderSpec, JvpSpec

# Torch and transformers take seconds to import, and hashing needs neither: what needs them is imported in its branch.
if TYPE_CHECKING:
    from beam_quad.gradients.proxy import Proxy, ProxySpec


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
    if isinstance(spec, JvpSpec):
        from beam_quad.embedding.jvp import JvpEmbedder
        from beam_quad.gradients.proxy import load_proxy

        proxy = (proxy_of or load_proxy)(spec.proxy)
        return JvpEmbedder(proxy, spec.num_blocks, spec.num_tangents, spec.dim, spec.seed)
    if spec.name == "hashing":
        return hashing.HashingEmbedder(spec.dim or hashing.DEFAULT_DIM, spec.max_tokens)
    from beam_quad.embedding.sentence import SentenceEmbedder
    from beam_quad.embedding.sources import locate

    return SentenceEmbedder(locate(spec), spec)


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
    if isinstance(spec, JvpSpec):
        return _jvp_fingerprint(spec, proxy_fingerprint)
    if spec.name == "hashing":
        dim = spec.dim or hashing.DEFAULT_DIM
        return f"hashing:v{hashing.VERSION}:dim={dim}:max_words={spec.max_tokens}"
    from beam_quad.embedding.sources import source_fingerprint

    prompt = "" if spec.prompt is None else f":prompt={spec.prompt!r}"
    return f"{source_fingerprint(spec)}:dim={spec.dim}:max_tokens={spec.max_tokens}{prompt}"


def embedder_costs(spec: EmbedderSpec) -> EmbedderCosts:
    """Reads the costs off the embedder's skeleton, and refuses an embedder that would not load.

    No weights are read but those of static embeddings and of layers behind the encoder. For a `JvpSpec` see `jvp_costs`.

    Raises:
      UsageError: As `load_embedder`, as far as it can be told without the weights.
    """
    if spec.name == "hashing":
        return EmbedderCosts(spec.dim or hashing.DEFAULT_DIM, spec.max_tokens)
    from beam_quad.embedding.sentence import skeleton_costs
    from beam_quad.embedding.sources import locate

    return skeleton_costs(locate(spec), spec)


def _jvp_fingerprint(spec: JvpSpec, proxy_fingerprint: str | None) -> str:
    from beam_quad.embedding import jvp
    from beam_quad.gradients.checkpoints import content_fingerprint

    proxy = spec.proxy
    content = proxy_fingerprint or content_fingerprint(proxy.path, proxy.revision)
    return (
        f"jvp:v{jvp.VERSION}:{content}:context_length={proxy.context_length}:dtype={proxy.dtype}"
        f":num_blocks={spec.num_blocks}:num_tangents={spec.num_tangents}:dim={spec.dim}:seed={spec.seed}"
    )
