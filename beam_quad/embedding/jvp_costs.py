"""Costs of Jacobian-vector products, and checks without weights that a model supports them.

The product of y = W x along a tangent is W dx + dW x. With k tangents, a matrix thus costs 2 k times its forward pass, plus
one forward pass shared by all tangents:

    products        (1 + 2 k) times the forward pass of the first blocks: 2 m for every token and matrix of m entries,
                    4 w T for every token and attention layer, with w the width of all heads and T the tokens read; only
                    one token for the MLP of the last block
    projection      2 k h D for every text, with h the hidden size and D the dimension; nothing if k h <= D

If no norm with a tangent precedes the first block's queries, keys and values (OLMo 2), their inputs are the embeddings
themselves, and these matrices cost k forward passes less.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.spec import JvpSpec
from beam_quad.errors import UsageError
from beam_quad.gradients.jvp import cut_model
from beam_quad.gradients.tracked import has_experts


def jvp_costs(skeleton: Any, spec: JvpSpec, context_length: int) -> EmbedderCosts:
    """Computes the costs of an embedder from the shapes of its proxy, without running it.

    Args:
      skeleton: The proxy's model on any device, including `meta`.
      spec: The embedder.
      context_length: Tokens of a window.

    Returns:
      The costs.

    Raises:
      UsageError: As `first_blocks`.
    """
    blocks = first_blocks(skeleton, spec.num_blocks)
    config = skeleton.config.get_text_config()
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    # Found by the same name as in `LowerBlocks.of`, which runs this MLP on the last token only.
    last_mlp = _entries([mlp]) if (mlp := getattr(blocks[-1], "mlp", None)) is not None else 0
    passes = 2.0 * (1 + 2 * spec.num_tangents)
    components = spec.num_tangents * config.hidden_size
    projection = 2.0 * components * spec.dim if spec.dim < components else 0.0
    return EmbedderCosts(
        dim=min(spec.dim, components),
        max_tokens=context_length,
        token_flops=passes * (_entries(blocks) - last_mlp),
        pair_flops=passes * 2 * width * len(blocks),
        text_flops=passes * last_mlp + projection,
    )


def first_blocks(skeleton: Any, num_blocks: int) -> list[nn.Module]:
    """Finds the first blocks of a model, and refuses a model that has no Jacobian-vector products.

    Args:
      skeleton: The proxy's model on any device, including `meta`.
      num_blocks: Number of blocks; all if the model has fewer.

    Returns:
      The blocks.

    Raises:
      UsageError: If the model does not have exactly one stack of blocks, has no attention, or has experts in its first
        blocks.
    """
    model, stack = cut_model(skeleton, num_blocks)
    blocks = list(model.get_submodule(stack).children())
    if any(has_experts(block) for block in blocks):
        raise UsageError(
            "the proxy's first blocks are a mixture of experts, which has no forward derivative; "
            "take another --embedder"
        )
    if getattr(skeleton.config.get_text_config(), "num_attention_heads", None) is None:
        raise UsageError(
            "the proxy has no attention that could be differentiated forward; take another --embedder"
        )
    return blocks


def _entries(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)
