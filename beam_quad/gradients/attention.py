"""Attention that can be differentiated forward, and twice: written out, with its matrix of weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

# Entries of one matrix of attention weights of a micro-batch: 256 MB of float32.
_ATTENTION_ENTRIES = 1 << 26


@contextlib.contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Runs a model with eager attention; the fused kernels know neither forward mode nor second derivatives.

    The model's configuration is changed and not torch's choice of kernels, which all threads share: another model at
    work in this process must keep its kernels, and with them its last bits.

    Args:
      model: A model of `transformers`, held by its proxy's lock.
    """
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def fitting_tokens(model: Any, length: int, max_batch_tokens: int) -> int:
    """Lowers `max_batch_tokens` so far that attention weights of windows of a length fit into memory.

    Args:
      model: A model of `transformers`.
      length: Tokens of the longest window.
      max_batch_tokens: What would be taken with fused attention, padded tokens of a micro-batch.

    Returns:
      Padded tokens of a micro-batch.
    """
    num_heads: int = model.config.get_text_config().num_attention_heads
    return min(max_batch_tokens, max(length, _ATTENTION_ENTRIES // (num_heads * length)))
