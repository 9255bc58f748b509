"""Eager attention, with its matrix of weights: it supports forward-mode and second derivatives."""

import contextlib
from collections.abc import Iterator
from typing import Any

# The most attention weights of one layer in a micro-batch: 256 MB of float32.
_ATTENTION_ENTRIES = 1 << 26


@contextlib.contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Runs a model with eager attention, because fused kernels support neither forward mode nor second derivatives.

    This changes the model's configuration, not torch's choice of kernels, which all threads share. Other models in the
    process keep their kernels, and so the last bits of their results.

    Args:
      model: A model of `transformers`; the caller holds its proxy's lock.
    """
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def fitting_tokens(model: Any, length: int, max_batch_tokens: int) -> int:
    """Lowers `max_batch_tokens` until the attention weights of a micro-batch fit into memory.

    Args:
      model: A model of `transformers`.
      length: Tokens of the longest window.
      max_batch_tokens: Padded tokens of a micro-batch with fused attention.

    Returns:
      Padded tokens of a micro-batch.
    """
    num_heads: int = model.config.get_text_config().num_attention_heads
    return min(max_batch_tokens, max(length, _ATTENTION_ENTRIES // (num_heads * length)))
