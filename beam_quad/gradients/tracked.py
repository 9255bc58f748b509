"""The tracked linear layers of a model, and the cutting of fused layers into blocks.

The head is the matrix that makes the logits. In many models it is also the input embedding (tied weights). Its gradient
is then the sum of an output part, g aᵀ over positions as for any linear layer, and an input part, which adds the
gradient of each token's embedding to the token's row.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from beam_quad import errors

_ATTENTION_PARENTS = frozenset({"attn", "self_attn", "attention", "self_attention"})
_MLP_PARENTS = frozenset({"mlp", "feed_forward", "ffn"})
# In OPT, XGLM and BioGPT the layers of the MLP are siblings of the attention.
_BARE_MLP = frozenset({"fc1", "fc2"})
_EXPERT_PARENTS = _MLP_PARENTS | {"experts"}
# Names, in lower case, of projections that fuse q, k and v in one of many layouts.
_FUSED_NAMES = frozenset({"c_attn", "query_key_value", "qkv_proj", "qkv", "wqkv", "in_proj"})
# peft moves an adapted layer below this name and puts the adapter's own layers next to it.
_BASE = "base_layer"
_ADAPTED = f".{_BASE}"
_ADAPTERS = frozenset({"lora_A", "lora_B"})


@dataclasses.dataclass(frozen=True)
class Block:
    """One weight matrix W of y = W a: a tracked module, or a part of a fused module.

    The module's outputs form `chunks` equal chunks. The block has the outputs from `start` to `stop` of each chunk.

    Attributes:
      name: Name of the module, with ".q", ".k", ".v", ".gate" or ".up" for a part.
      module: Name of the module in the model.
      in_features: Number of inputs, not counting the 1 of a bias.
      out_features: Number of outputs of the block.
      has_bias: Whether the module has a bias; its gradient is then the block's last column.
      chunks: Chunks of the module's outputs: the number of heads if q, k and v are interleaved by head, otherwise 1.
      start: First output of the block in a chunk.
      stop: End of the block's outputs in a chunk.
      is_head: Whether the block is the matrix that makes the logits; its outputs are the vocabulary.
      embedding: Name of the input embedding with the same weight as the head; None if they share no weight.
    """

    name: str
    module: str
    in_features: int
    out_features: int
    has_bias: bool
    chunks: int
    start: int
    stop: int
    is_head: bool = False
    embedding: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the block's gradient: outputs, inputs (plus 1 for a bias)."""
        return self.out_features, self.in_features + int(self.has_bias)

    def select(self, outputs: torch.Tensor) -> torch.Tensor:
        """Selects the block's part of the module's outputs, [..., module's outputs] to [..., out_features]."""
        chunked = outputs.reshape(*outputs.shape[:-1], self.chunks, -1)
        return chunked[..., self.start : self.stop].flatten(-2)


@dataclasses.dataclass(frozen=True)
class _Cut:
    suffix: str
    chunks: int
    start: int
    stop: int


def _equal_cuts(config: Any, out_features: int) -> list[_Cut]:
    width = out_features // 3
    return [_Cut(name, 1, i * width, (i + 1) * width) for i, name in enumerate("qkv")]


def _interleaved_cuts(config: Any, out_features: int) -> list[_Cut]:
    heads = config.num_attention_heads
    width = out_features // (3 * heads)
    return [_Cut(name, heads, i * width, (i + 1) * width) for i, name in enumerate("qkv")]


def _grouped_query_cuts(config: Any, out_features: int) -> list[_Cut]:
    head = out_features // (config.num_attention_heads + 2 * config.num_key_value_heads)
    q_end = head * config.num_attention_heads
    k_end = q_end + head * config.num_key_value_heads
    return [_Cut("q", 1, 0, q_end), _Cut("k", 1, q_end, k_end), _Cut("v", 1, k_end, out_features)]


def _gated_cuts(config: Any, out_features: int) -> list[_Cut]:
    width = out_features // 2
    return [_Cut("gate", 1, 0, width), _Cut("up", 1, width, out_features)]


# (model type, last part of the module's name) -> layout of the module's outputs.
_CUTS: dict[tuple[str, str], Callable[[Any, int], list[_Cut]]] = {
    ("gpt2", "c_attn"): _equal_cuts,
    ("gpt_neox", "query_key_value"): _interleaved_cuts,
    ("mpt", "Wqkv"): _equal_cuts,
    ("phi3", "qkv_proj"): _grouped_query_cuts,
    ("phi3", "gate_up_proj"): _gated_cuts,
    ("glm", "gate_up_proj"): _gated_cuts,
    ("glm4", "gate_up_proj"): _gated_cuts,
}


def find_blocks(model: Any, layers: str = "attention", cut_fused: bool = True) -> tuple[Block, ...]:
    """Finds the blocks to track, in the model's order.

    Norms are never tracked; embeddings and the output layer are tracked only as the head. If peft has wrapped a layer
    with LoRA, the layer itself is tracked: its gradient is that of the weight with the adapter merged into it.

    Args:
      model: A causal language model of `transformers`, possibly wrapped by `peft`.
      layers: "attention" (q, k, v and output projections), "mlp", "all" (both), "last:N" (attention of the last
        N layers), "head" (the matrix that makes the logits), one of these with the head, as in "all+head", or "regex:R"
        (linear layers whose name contains a match of the pattern).
      cut_fused: Whether fused projections are cut into blocks for q, k and v (gate and up), so that fused and split
        models have equal scores; False keeps the module whole, to compare with other programs.

    Returns:
      At least one block; the head is the last.

    Raises:
      UsageError: If nothing matches; if "all" finds no attention or no MLP; if the MLPs are mixtures whose experts are
        not linear layers; if the layout of a fused projection is unknown; or if the head is not a plain linear layer.
    """
    if layers == "head":
        return (_head(model),)
    # A regular expression may itself end in "+head".
    if layers.endswith("+head") and not layers.startswith("regex:"):
        below = find_blocks(model, layers.removesuffix("+head"), cut_fused)
        if not any(block.is_head for block in below):
            return (*below, _head(model))
    linear = _linear_layers(model)
    names = _matching(model, linear, layers)
    return tuple(
        block
        for name in names
        for block in _blocks(model.config.get_text_config(), name, linear[name], cut_fused, layers)
    )


def by_module(blocks: Iterable[Block]) -> dict[str, tuple[Block, ...]]:
    """Groups blocks by their module, in order."""
    grouped: dict[str, tuple[Block, ...]] = {}
    for block in blocks:
        grouped[block.module] = (*grouped.get(block.module, ()), block)
    return grouped


def tied_embeddings(blocks: Iterable[Block]) -> dict[str, Block]:
    """Returns the blocks that share their weight with an input embedding, by the embedding's name."""
    return {block.embedding: block for block in blocks if block.embedding is not None}


def watched_modules(blocks: Sequence[Block]) -> tuple[str, ...]:
    """Returns the names of all modules that a pass must watch: the blocks' modules and the embeddings tied to them."""
    return (*by_module(blocks), *tied_embeddings(blocks))


def has_experts(model: Any) -> bool:
    """Returns whether the model is a mixture of experts, in which each token goes to a few experts."""
    return any("experts" in name.split(".") for name, _ in model.named_modules())


def _head(model: Any) -> Block:
    output, embedding = (
        getattr(module, _BASE, module)
        for module in (model.get_output_embeddings(), model.get_input_embeddings())
    )
    if not isinstance(output, nn.Linear):
        raise errors.UsageError(
            f"the head is tracked, but {type(model).__name__} makes its logits with {type(output).__name__}, which is no "
            "linear layer; use --layers all"
        )
    # The input part of a tied weight's gradient is implemented for plain embeddings alone, so any other module that
    # shares the weight is refused: its part of the gradient would be missing.
    sharing = {
        module: name
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is output.weight and not hasattr(module, _BASE)
    }
    name = sharing.pop(output)
    tied = sharing.pop(embedding, None)
    if sharing:
        raise errors.UsageError(
            f"the head is tracked, but {name} shares its weight with {', '.join(sharing.values())}, which is not the input "
            "embedding; use --layers all"
        )
    if tied is not None and not _looks_up_rows(embedding):
        raise errors.UsageError(
            f"the head is tracked, but {name} shares its weight with {tied}, and what a {type(embedding).__name__} does to "
            "its rows is not known; use --layers all"
        )
    num_tokens, in_features = output.weight.shape
    return Block(
        name=name,
        module=name,
        in_features=in_features,
        out_features=num_tokens,
        has_bias=output.bias is not None,
        chunks=1,
        start=0,
        stop=num_tokens,
        is_head=True,
        embedding=tied,
    )


def _looks_up_rows(embedding: nn.Module) -> bool:
    """Returns whether an embedding's output is its rows or a multiple of them (`embed_scale` in Gemma's family)."""
    is_plain = type(embedding).forward is nn.Embedding.forward
    return isinstance(embedding, nn.Embedding) and (is_plain or hasattr(embedding, "embed_scale"))


def _linear_layers(model: Any) -> dict[str, nn.Module]:
    output_layer = model.get_output_embeddings()
    outside = {output_layer, *_towers(model)}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module not in outside
    }


def _towers(model: Any) -> Iterator[nn.Module]:
    """Yields the modules outside a multimodal model's decoder, such as image and sound towers: no text passes them."""
    config = getattr(model, "config", None)
    if config is None or config.get_text_config() is config:
        return
    text = set(model.get_decoder().modules())
    yield from (module for module in model.modules() if module not in text)


def _matching(model: Any, linear: dict[str, nn.Module], layers: str) -> list[str]:
    kind, _, argument = layers.partition(":")
    if kind == "regex" and argument:
        pattern = _compile(argument)
        return _some([name for name in linear if pattern.search(name)], layers, linear)
    if kind == "last" and argument.isdigit():
        return _last(_attention(linear), int(argument))
    if layers == "attention":
        return _attention(linear)
    if layers in ("mlp", "all"):
        _refuse_mixtures(model, layers)
        mlp = _mlp(linear)
        chosen = {*mlp, *(_attention(linear) if layers == "all" else ())}
        return [name for name in linear if name in chosen]
    raise errors.UsageError(
        "--layers must be attention, mlp, all, last:N or head, one of these and the head (all+head), or regex:R, "
        f"got {layers!r}"
    )


def _attention(linear: dict[str, nn.Module]) -> list[str]:
    return _some(_under(linear, _ATTENTION_PARENTS), "attention", linear)


def _mlp(linear: dict[str, nn.Module]) -> list[str]:
    # Bare fc1 and fc2 are an MLP only beside an attention; elsewhere they may be anything.
    with_attention = {_parent(_parent(name)) for name in _under(linear, _ATTENTION_PARENTS)}
    bare = [n for n in linear if _leaf(n) in _BARE_MLP and _parent(n) in with_attention]
    return _some(_under(linear, _MLP_PARENTS) + bare, "mlp", linear)


def _some(names: list[str], layers: str, linear: dict[str, nn.Module]) -> list[str]:
    if not names:
        raise errors.UsageError(
            f"the model has no layers for {layers!r}; its linear layers are "
            f"{_summary(linear)}; choose some with --layers regex:..."
        )
    return names


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise errors.UsageError(
            f"--layers regex:{pattern} is not a regular expression: {error}"
        ) from error


def _parent(name: str) -> str:
    return name.removesuffix(_ADAPTED).rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.removesuffix(_ADAPTED).rpartition(".")[2]


def _under(linear: dict[str, nn.Module], parents: frozenset[str]) -> list[str]:
    """Lists the layers below one of `parents`, except those of adapters."""
    within = {name: set(name.split(".")[:-1]) for name in linear}
    return [n for n, parts in within.items() if parents & parts and not _ADAPTERS & parts]


def _last(names: list[str], num_layers: int) -> list[str]:
    numbers = {name: _layer_number(name) for name in names}
    present = sorted(set(numbers.values()))
    if not 1 <= num_layers <= len(present):
        raise errors.UsageError(
            f"--layers last:{num_layers} asks for {num_layers} layers, "
            f"but the model has {len(present)} with attention projections"
        )
    return [name for name in names if numbers[name] in present[-num_layers:]]


def _layer_number(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def _refuse_mixtures(model: Any, layers: str) -> None:
    # Convolutions and RWKV's scales [1, 1, hidden] have three dimensions too. The former are outside the expert
    # parents; the latter have dimensions of 1.
    experts = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3
        and min(parameter.shape) > 1
        and not _EXPERT_PARENTS.isdisjoint(name.split("."))
    ]
    if experts:
        raise errors.UsageError(
            f"--layers {layers} needs linear layers, but this mixture keeps its experts as 3-D parameters "
            f"({_summary(experts)}); use --layers attention"
        )


def _blocks(config: Any, name: str, module: Any, cut_fused: bool, layers: str) -> list[Block]:
    # The weight of Conv1D is [in, out].
    shape = tuple(module.weight.shape)
    in_features, out_features = shape if isinstance(module, Conv1D) else shape[::-1]
    leaf = _leaf(name)
    cutter = _CUTS.get((config.model_type, leaf))
    if (
        cutter is None
        and cut_fused
        and leaf.lower() in _FUSED_NAMES
        and not layers.startswith("regex:")
    ):
        raise errors.UsageError(
            f"the layout of {name} is not known for models of type {config.model_type!r}; "
            f"track it as one block with --layers regex:{leaf}"
        )
    if cutter is None or not cut_fused:
        cuts = [_Cut("", 1, 0, out_features)]
    else:
        cuts = cutter(config, out_features)
    return [
        Block(
            name=f"{name}.{cut.suffix}" if cut.suffix else name,
            module=name,
            in_features=in_features,
            out_features=cut.chunks * (cut.stop - cut.start),
            has_bias=module.bias is not None,
            chunks=cut.chunks,
            start=cut.start,
            stop=cut.stop,
        )
        for cut in cuts
    ]


def _summary(names: Iterable[str]) -> str:
    """Lists names with * for their layer numbers, each pattern once."""
    patterns = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return ", ".join(patterns) or "none"
