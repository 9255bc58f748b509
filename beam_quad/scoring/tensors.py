"""Tensors to bytes and back, as safetensors."""

from collections.abc import Mapping

import safetensors.torch
import torch


def dump(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Writes named tensors, from any device, to safetensors bytes."""
    data: bytes = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    return data


def parse(data: bytes) -> dict[str, torch.Tensor]:
    """Reads safetensors bytes to tensors on the CPU."""
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    return tensors


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts "prefix/" before every name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Takes the tensors whose name starts with "prefix/", and the prefix off."""
    start = f"{prefix}/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def add(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Adds tensors by name.

    Raises:
      ValueError: If the names differ: the two were made with other tracked layers.
    """
    if left.keys() != right.keys():
        raise ValueError(f"cannot add sums of {sorted(left)} to sums of {sorted(right)}")
    return {name: tensor + right[name] for name, tensor in left.items()}
