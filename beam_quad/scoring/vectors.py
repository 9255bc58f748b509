"""Query vectors: the preconditioned query gradients, one for each query group."""

from collections.abc import Mapping

import torch

from beam_quad.scoring import tensors

Vectors = dict[str, dict[str, torch.Tensor]]


def save_vectors(vectors: Mapping[str, Mapping[str, torch.Tensor]]) -> bytes:
    """Writes vectors by group and block as safetensors; a group's name holds no slash."""
    named: dict[str, torch.Tensor] = {}
    for number, (group, by_block) in enumerate(vectors.items()):
        # safetensors sorts by name; the number keeps the groups' order, which is that of their weights.
        named |= tensors.prefixed(f"{number:04d}:{group}", by_block)
    return tensors.dump(named)


def load_vectors(data: bytes) -> Vectors:
    """Reads what `save_vectors` wrote, groups in their order."""
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
