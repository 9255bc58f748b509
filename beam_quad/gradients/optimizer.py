"""Adam's part in influence: the state that a trainer exports, and its effect on an example's gradient.

In a training script, once the optimizer is warmed up:

    from beam_quad.gradients.optimizer import export_optimizer_state
    export_optimizer_state(model, optimizer, "adam.safetensors")
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch

from beam_quad import errors
from beam_quad.gradients import parameters
from beam_quad.gradients.checkpoints import first_line
from beam_quad.gradients.tracked import Block

# Parts of parameters' names from distributed training, compilation and activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_MOMENTS = ("exp_avg", "exp_avg_sq")
_KINDS = (*_MOMENTS, "step", "settings")


@dataclasses.dataclass(frozen=True, eq=False)
class AdamTerms:
    """Adam's step on the parameters for a gradient g, over minus the learning rate: a * g + b.

        a = (1 - b1) / ((1 - b1^s) (sqrt(v / (1 - b2^s)) + eps)),      b = b1 m / ((1 - b1^s) (...)),

    with the moments m and v after s steps. A single gradient is assumed not to change v.

    Attributes:
      multipliers: a, by block, float32 [out, in (+ 1)].
      offsets: b, the same.
    """

    multipliers: dict[str, torch.Tensor]
    offsets: dict[str, torch.Tensor]


def export_optimizer_state(
    model: torch.nn.Module, optimizer: Any, path: str | os.PathLike[str]
) -> None:
    """Writes the state of a warmed-up Adam or AdamW as safetensors keyed by the names of the parameters.

    The keys for each parameter NAME with a state are "exp_avg/NAME" and "exp_avg_sq/NAME" in the parameter's shape,
    "step/NAME", and "settings/NAME", float64 [beta1, beta2, eps]. If the model is sharded (FSDP, ZeRO), gather the full
    state first.

    Args:
      model: The trained model; wrappers in its parameters' names (DDP's "module.") are removed.
      optimizer: `torch.optim.Adam` or `AdamW`, or an optimizer with the same layout of its state.
      path: Local file to write.

    Raises:
      UsageError: If a state is not Adam's, is AMSGrad's, or is sharded, or if no parameter has a state yet.
    """
    names = {id(value): _unwrapped(name) for name, value in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    for group in optimizer.param_groups:
        if group.get("amsgrad"):
            raise errors.UsageError("AMSGrad divides by another moment than Adam; export an Adam")
        for value in group["params"]:
            state = optimizer.state.get(value)
            if state and id(value) in names:
                tensors |= _exported(names[id(value)], value, state, group)
    if not tensors:
        raise errors.UsageError(
            "the optimizer has no state for the model's parameters; train some steps first"
        )
    safetensors.torch.save_file(tensors, path)


def load_adam(path: str | os.PathLike[str], model: Any, blocks: Sequence[Block]) -> AdamTerms:
    """Reads a file of `export_optimizer_state` as terms by block.

    Args:
      path: Local file.
      model: The proxy's model; its parameters must have the names and shapes of the trained model's.
      blocks: The tracked blocks; only their parameters are read.

    Returns:
      The terms, on the CPU.

    Raises:
      UsageError: If the file was not written by `export_optimizer_state`, lacks a parameter, or has a parameter of
        another shape or without a step, or if a moment is not finite or the second moment is negative.
    """
    multipliers, offsets = {}, {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            present = set(file.keys())
            for name in parameters.parameter_names(blocks):
                missing = [kind for kind in _KINDS if f"{kind}/{name}" not in present]
                if missing:
                    raise errors.UsageError(
                        f"{path} has no {', '.join(missing)} of {name}; was it exported from this model, with this "
                        "parameter trained?"
                    )
                # In float64: 1 - b2^s of few steps, and moments stored in bfloat16, lose digits in less.
                state = {kind: file.get_tensor(f"{kind}/{name}").double() for kind in _KINDS}
                _check(name, state, tuple(model.get_parameter(name).shape))
                multipliers[name], offsets[name] = _terms(state)
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.UsageError(
            f"{path} is no optimizer state of safetensors ({first_line(error)}); "
            "write it with beam_quad.gradients.optimizer.export_optimizer_state"
        ) from error
    return AdamTerms(
        parameters.to_blocks(model, blocks, multipliers),
        parameters.to_blocks(model, blocks, offsets),
    )


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _exported(
    name: str, value: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> dict[str, torch.Tensor]:
    missing = [key for key in (*_MOMENTS, "step") if key not in state]
    if missing or "betas" not in group or "eps" not in group:
        raise errors.UsageError(f"the state of {name} is not Adam's; it holds {sorted(state)}")
    for key in _MOMENTS:
        if state[key].shape != value.shape:
            raise errors.UsageError(
                f"{key} of {name} has shape {tuple(state[key].shape)}, the parameter {tuple(value.shape)}; "
                "gather a sharded state first"
            )
    settings = torch.tensor([*map(float, group["betas"]), float(group["eps"])], dtype=torch.float64)
    exported = {f"{key}/{name}": state[key].detach().cpu().contiguous() for key in _MOMENTS}
    step = torch.tensor([float(state["step"])], dtype=torch.float64)
    return exported | {f"step/{name}": step, f"settings/{name}": settings}


def _check(name: str, state: dict[str, torch.Tensor], shape: tuple[int, ...]) -> None:
    for problem in _problems(state, shape):
        raise errors.UsageError(f"the optimizer state of {name} {problem}")


def _problems(state: dict[str, torch.Tensor], shape: tuple[int, ...]) -> Iterator[str]:
    for key in _MOMENTS:
        if tuple(state[key].shape) != shape:
            yield f"has {key} of shape {tuple(state[key].shape)}, but the proxy's parameter has {shape}"
        if not torch.isfinite(state[key]).all():
            yield f"has values of {key} that are not finite"
    if (state["exp_avg_sq"] < 0).any():
        yield "has negative values of exp_avg_sq, a mean of squares"
    if state["step"].numel() != 1 or not state["step"] >= 1:
        yield "has made no step; train some first"
    beta1, beta2, eps = state["settings"].tolist() if state["settings"].numel() == 3 else (-1,) * 3
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and eps > 0):
        yield "has settings that are not beta1, beta2 in [0, 1) and eps > 0"


def _terms(state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    beta1, beta2, eps = state["settings"].tolist()
    step = state["step"].item()
    root = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + eps
    divisor = (1 - beta1**step) * root
    return ((1 - beta1) / divisor).float(), (beta1 * state["exp_avg"] / divisor).float()
