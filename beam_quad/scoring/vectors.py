"""Query vectors: the preconditioned query gradients, one for each query group."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from beam_quad.scoring import tensors

Vectors = dict[str, dict[str, torch.Tensor]]
_DTYPES = {torch.float32: "F32", torch.float64: "F64"}


class Writable(Protocol):
    """A binary file."""

    def write(self, data: Any) -> int:
        """Writes all of `data`, bytes or a buffer."""


def write_vectors(file: Writable, vectors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Writes vectors as safetensors, one tensor at a time: the library makes two copies of all, or writes to local disks only.

    Args:
      file: Where to.
      vectors: Vectors by group and block, all float32 or all float64; a group's name holds no slash.
    """
    named: dict[str, torch.Tensor] = {}
    for number, (group, by_block) in enumerate(vectors.items()):
        # Names are sorted; the number keeps the groups' order, which is that of their weights.
        named |= tensors.prefixed(f"{number:04d}:{group}", by_block)
    named = dict(sorted(named.items()))
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in named.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        entries[name]["data_offsets"] = [start, end]
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    for tensor in named.values():
        file.write(tensor.detach().cpu().contiguous().numpy())


def load_vectors(data: bytes) -> Vectors:
    """Reads what `write_vectors` wrote, groups in their order."""
    named = tensors.parse(data)
    prefixes = sorted({name.split("/", 1)[0] for name in named})
    return {prefix.split(":", 1)[1]: tensors.with_prefix(prefix, named) for prefix in prefixes}


def combine_vectors(
    vectors: Mapping[str, Mapping[str, torch.Tensor]], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Adds the vectors of groups, each times its weight: scores are linear in the vector."""
    names = next(iter(vectors.values())).keys()
    return {
        name: torch.stack(
            [weights[group] * by_block[name] for group, by_block in vectors.items()]
        ).sum(0)
        for name in names
    }
