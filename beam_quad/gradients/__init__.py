"""Gradients of a proxy model at its tracked linear layers, from texts, without a gradient of any parameter."""

from beam_quad.gradients.checkpoints import content_fingerprint, load_tokenizer
from beam_quad.gradients.proxy import Proxy, ProxySpec, load_proxy
from beam_quad.gradients.tracked import Block, by_module, find_blocks
from beam_quad.gradients.tuning import Tuning, tune
from beam_quad.gradients.windows import tokenize

__all__ = [
    "Block",
    "Proxy",
    "ProxySpec",
    "Tuning",
    "by_module",
    "content_fingerprint",
    "find_blocks",
    "load_proxy",
    "load_tokenizer",
    "tokenize",
    "tune",
]
