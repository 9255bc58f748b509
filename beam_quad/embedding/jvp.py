"""Jacobian-vector products of a proxy's first blocks as an embedding of texts."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.jvp_costs import jvp_costs
from beam_quad.embedding.norms import unit_rows
from beam_quad.embedding.spec import JVP_BLOCKS, JVP_DIM, JVP_TANGENTS, JvpSpec
from beam_quad.gradients import passes
from beam_quad.gradients.checkpoints import content_fingerprint
from beam_quad.gradients.hadamard import random_signs
from beam_quad.gradients.jvp import LowerBlocks
from beam_quad.gradients.proxy import (
    Proxy,
    ProxySpec,
    default_context_length,
    load_proxy,
    load_skeleton,
)
from beam_quad.gradients.windows import Window

# Texts are cut at this many characters per token before they are tokenised, as by sentence encoders.
_CHARACTERS_PER_TOKEN = 32
VERSION = 1  # part of the fingerprint; raise it when the vectors of any text change


class JvpEmbedder:
    """Embeds a text by Jacobian-vector products of its last hidden state with fixed Gaussian parameter tangents.

    The model is cut after its first blocks. Each product is read after the final norm, at the last token of the text or of
    its first `context_length` tokens. The products of all tangents are concatenated (their average would be the product with
    the average tangent), projected with Rademacher signs if they have more than `dim` components, and normalised. Texts of
    fewer than 2 tokens, which are never selected, are embedded as the tokenizer's end-of-text token.

    The composition of a micro-batch changes only the last bits.

    Args:
      proxy: The model.
      num_blocks: Number of transformer blocks used; all if the model has fewer.
      num_tangents: Number of tangents, shared by all texts.
      dim: Maximum dimension of the vectors.
      seed: Seed of tangents and signs.

    Attributes:
      dim: Dimension of the vectors.

    Raises:
      UsageError: If the model does not have exactly one stack of blocks, or has no forward derivative.

    References:
      Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
    """

    def __init__(
        self,
        proxy: Proxy,
        num_blocks: int = JVP_BLOCKS,
        num_tangents: int = JVP_TANGENTS,
        dim: int = JVP_DIM,
        seed: int = 0,
    ) -> None:
        if min(num_blocks, num_tangents, dim) < 1:
            raise ValueError(
                "num_blocks, num_tangents and dim must be at least 1, "
                f"got {num_blocks}, {num_tangents} and {dim}"
            )
        self._proxy = proxy
        self._lower = LowerBlocks.of(proxy, num_blocks, num_tangents, seed)
        width = num_tangents * self._lower.hidden_size
        self.dim = min(dim, width)
        self._signs: torch.Tensor | None = None
        if self.dim < width:
            signs = random_signs(seed, "rademacher projection", width * self.dim)
            self._signs = signs.view(width, self.dim).to(proxy.device, proxy.sum_dtype)

    @property
    def num_halvings(self) -> int:
        """How often a micro-batch was halved so far because memory ran out."""
        return self._proxy.num_halvings

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [num_texts, dim]: unit rows, or 0 if no product is finite; see `Embedder.embed`."""
        return self.embed_prepared(self.prepare(texts))

    def prepare(self, texts: Sequence[str]) -> list[Window]:
        """Takes the first window of each text; see `PreparingEmbedder.prepare`."""
        longest = self._proxy.context_length * _CHARACTERS_PER_TOKEN
        documents = self._proxy.read([text[:longest] for text in texts])
        first = {w.document: w for w in documents.windows if w.index == 0}
        # Any token would do: every text needs a row, and these texts are never selected.
        end = [self._proxy.tokenizer.eos_token_id or 0]
        return [first.get(row) or Window(row, 0, end) for row in range(len(texts))]

    def embed_prepared(self, windows: Sequence[Window]) -> np.ndarray:
        """Embeds the windows of `prepare`; see `PreparingEmbedder.embed_prepared`."""
        if not windows:
            return np.zeros((0, self.dim), np.float32)
        vectors = passes.with_halving(self._proxy, lambda tokens: self._embed(windows, tokens))
        return unit_rows(vectors.cpu().numpy()).astype(np.float32, copy=False)

    def _embed(self, windows: Sequence[Window], max_batch_tokens: int) -> torch.Tensor:
        proxy = self._proxy
        longest = max(len(window.tokens) for window in windows)
        fitting = self._lower.batch_tokens(longest, max_batch_tokens)
        vectors = torch.empty(len(windows), self.dim, dtype=proxy.sum_dtype, device=proxy.device)
        for batch in proxy.micro_batches(windows, fitting):
            products = self._lower.products(proxy, batch).flatten(1).to(vectors)
            if self._signs is not None:
                products = products @ self._signs
            # Micro-batches are sorted by length; the window says which text it belongs to.
            vectors[batch.documents.to(proxy.device)] = products
        return vectors


def load(spec: JvpSpec, proxy_of: Callable[[ProxySpec], Proxy] | None) -> JvpEmbedder:
    """As `EmbedderModule`."""
    proxy = (proxy_of or load_proxy)(spec.proxy)
    return JvpEmbedder(proxy, spec.num_blocks, spec.num_tangents, spec.dim, spec.seed)


def fingerprint(spec: JvpSpec, proxy_fingerprint: str | None) -> str:
    """As `EmbedderModule`."""
    proxy = spec.proxy
    content = proxy_fingerprint or content_fingerprint(proxy.path, proxy.revision)
    return (
        f"jvp:v{VERSION}:{content}:context_length={proxy.context_length}:dtype={proxy.dtype}"
        f":num_blocks={spec.num_blocks}:num_tangents={spec.num_tangents}:dim={spec.dim}:seed={spec.seed}"
    )


def costs(spec: JvpSpec) -> EmbedderCosts:
    """As `EmbedderModule`, from the proxy's shapes."""
    skeleton = load_skeleton(spec.proxy)
    return jvp_costs(skeleton, spec, default_context_length(skeleton.config, spec.proxy))
