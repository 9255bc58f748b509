"""Conversion between tracked blocks and the parameters of their modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from beam_quad.gradients import tracked
from beam_quad.gradients.tracked import Block


def parameter_names(blocks: Sequence[Block]) -> tuple[str, ...]:
    """Returns the names of the blocks' weights and biases, each once. A tied weight has the embedding's name."""
    names = []
    for module, group in tracked.by_module(blocks).items():
        names.append(_weight_name(module, group))
        if group[0].has_bias:
            names.append(f"{module}.bias")
    return tuple(names)


def to_blocks(
    model: Any, blocks: Sequence[Block], parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Cuts values of parameters into blocks, with fused projections split and biases as last columns.

    Args:
      model: The model, with the layout of its modules.
      blocks: The tracked blocks.
      parameters: Values in the shapes of the parameters, by name; at least those of `parameter_names`.

    Returns:
      The values by block, [out, in (+ 1)].
    """
    cut: dict[str, torch.Tensor] = {}
    for name, group in tracked.by_module(blocks).items():
        weight = parameters[_weight_name(name, group)]
        whole = weight.T if isinstance(model.get_submodule(name), Conv1D) else weight
        if group[0].has_bias:
            whole = torch.cat([whole, parameters[f"{name}.bias"][:, None]], dim=1)
        rows = torch.arange(len(whole), device=whole.device)
        cut |= {block.name: whole[block.select(rows)] for block in group}
    return cut


def to_parameters(
    model: Any, blocks: Sequence[Block], vectors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Assembles blocks in the shapes of the parameters; entries without a block are 0.

    Args:
      model: The model, with the layout of its modules.
      blocks: The tracked blocks.
      vectors: Values by block, [out, in (+ 1)].

    Returns:
      The values by parameter, in the order of `parameter_names`.
    """
    parameters = {}
    for name, group in tracked.by_module(blocks).items():
        module = model.get_submodule(name)
        num_outputs = module.weight.shape[1 if isinstance(module, Conv1D) else 0]
        like = vectors[group[0].name]
        whole = like.new_zeros(num_outputs, group[0].shape[1])
        rows = torch.arange(num_outputs, device=like.device)
        for block in group:
            whole[block.select(rows)] = vectors[block.name]
        weight = whole[:, : group[0].in_features]
        own = weight.T if isinstance(module, Conv1D) else weight
        parameters[_weight_name(name, group)] = own
        if group[0].has_bias:
            parameters[f"{name}.bias"] = whole[:, -1]
    return parameters


def _weight_name(module: str, group: Sequence[Block]) -> str:
    # A model lists a shared parameter once, by its first name, and so does the state of an optimizer.
    return f"{group[0].embedding or module}.weight"
