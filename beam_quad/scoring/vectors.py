"""Query vectors: the preconditioned query gradient of each query group."""

from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

import torch

from beam_quad.gradients.tracked import Block
from beam_quad.scoring import tensors

Vectors = dict[str, dict[str, torch.Tensor]]


class VectorWriter:
    """Writes float32 vectors of several groups block by block, so that only the current one is in memory.

    Args:
      file: The file to write to.
      groups: Names of the groups, without slashes.
      stacks: Blocks of each input; the vectors of all groups are written for one stack before the next.
    """

    def __init__(
        self,
        file: tensors.Writable,
        groups: Sequence[str],
        stacks: Iterable[Sequence[Block]],
    ) -> None:
        self._prefixes = {group: _prefix(number, group) for number, group in enumerate(groups)}
        shapes = {
            f"{prefix}/{block.name}": block.shape
            for blocks in stacks
            for prefix in self._prefixes.values()
            for block in blocks
        }
        self._file = tensors.TensorWriter(file, shapes, dict.fromkeys(shapes, torch.float32))

    def write(self, group: str, by_block: Mapping[str, torch.Tensor]) -> None:
        """Writes a group's vectors of the next blocks."""
        for name, vector in by_block.items():
            self._file.write(f"{self._prefixes[group]}/{name}", vector)


def write_vectors(
    file: tensors.Writable, vectors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Writes vectors by group and block, all at once; names of groups have no slashes."""
    named: dict[str, torch.Tensor] = {}
    for number, (group, by_block) in enumerate(vectors.items()):
        named |= tensors.prefixed(_prefix(number, group), by_block)
    tensors.write(file, named)


def load_vectors(file: BinaryIO) -> Vectors:
    """Reads what `VectorWriter` or `write_vectors` wrote, with the groups in order."""
    named = tensors.read(file)
    prefixes = sorted({name.split("/", 1)[0] for name in named})
    return {prefix.split(":", 1)[1]: tensors.with_prefix(prefix, named) for prefix in prefixes}


def _prefix(number: int, group: str) -> str:
    # `load_vectors` sorts the names; the number keeps the order of the groups, which is the order of their weights.
    return f"{number:04d}:{group}"


def join_slices(slices: Iterable[Vectors]) -> Vectors:
    """Joins the vectors of several slices of layers into all blocks of each group."""
    joined: Vectors = {}
    for vectors in slices:
        for group, by_block in vectors.items():
            joined[group] = joined.get(group, {}) | by_block
    return joined


def combine_vectors(
    vectors: Mapping[str, Mapping[str, torch.Tensor]], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Computes the weighted sum of the groups' vectors; scores are linear in the vector, so it combines scores too."""
    names = next(iter(vectors.values())).keys()
    return {
        name: torch.stack(
            [weights[group] * by_block[name] for group, by_block in vectors.items()]
        ).sum(0)
        for name in names
    }
