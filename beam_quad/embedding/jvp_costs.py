"""What Jacobian-vector products cost, and whether a model has them, as far as it can be told without its weights.

The product of y = W x along a tangent is W dx + dW x, so that k tangents of a matrix cost 2 k times what its forward
does, which all of them share:

    products        (1 + 2 k) times the forward of the first blocks: 2 m every token and matrix of m entries, 4 w T
                    every token and attention layer, with w the width of all heads and T the tokens that are read; of
                    the last block's MLP, one token alone
    projection      2 k h D every text, with h the hidden size and D the dimension; nothing where k h <= D

Where the first block's queries, keys and values are given the embeddings as they are, without a norm that has a tangent
(OLMo 2), they cost k of these forwards less.
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
    """Reads the costs of an embedder off its proxy's shapes; nothing is run.

    Args:
      skeleton: The proxy's model, on any device, `meta` too.
      spec: Names the embedder.
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
    # Named as in `LowerBlocks.of`, which shows it the last token alone.
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
    """Finds the blocks that are passed, and refuses what can be told to have no products.

    Args:
      skeleton: The proxy's model, on any device, `meta` too.
      num_blocks: Blocks to pass; all where the model has fewer.

    Returns:
      The blocks.

    Raises:
      UsageError: If the model has no one stack of blocks, no attention, or experts in its first blocks.
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
