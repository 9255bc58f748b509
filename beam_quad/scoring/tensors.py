"""Tensors to bytes and back, as safetensors."""

import math
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


def norm(tensors: Mapping[str, torch.Tensor]) -> float:
    """Takes the Euclidean norm over all tensors, summed in float64."""
    squares = (float(tensor.double().square().sum()) for tensor in tensors.values())
    return math.sqrt(math.fsum(squares))


def upper_triangle(matrix: torch.Tensor) -> torch.Tensor:
    """Takes the upper triangle of a symmetric matrix, row by row: [n, n] to [n (n + 1) / 2]."""
    return torch.cat([row[index:] for index, row in enumerate(matrix)])


def symmetric(triangle: torch.Tensor) -> torch.Tensor:
    """Makes the symmetric matrix that `upper_triangle` was taken of."""
    size = math.isqrt(2 * len(triangle))
    matrix = triangle.new_empty(size, size)
    for index, row in enumerate(torch.split(triangle, list(range(size, 0, -1)))):
        matrix[index, index:] = matrix[index:, index] = row
    return matrix


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
