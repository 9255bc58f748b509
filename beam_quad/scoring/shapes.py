"""Shapes of tracked blocks: which share an input, what lies below what, and the bytes of what is fitted to them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from beam_quad.gradients.tracked import Block
from beam_quad.scoring.eigenvalues import is_factored

FLOAT32_BYTES = 4
# Projections back to the residual stream, as the families of `transformers` name them; the others read from it.
_OUTPUT_PROJECTIONS = frozenset(
    {"o_proj", "out_proj", "c_proj", "dense", "wo"}
    | {"down_proj", "dense_4h_to_h", "fc_out", "fc2", "w2"}
)


class Place(NamedTuple):
    """Where a module stands in the flow of data.

    Attributes:
      layer: Its number; -1 outside all.
      is_mlp: Whether it is no part of the attention.
      stage: 0 for what reads the residual stream, 1 for attention itself, 2 for what writes to the stream.
    """

    layer: float
    is_mlp: bool
    stage: int


def place_of(name: str) -> Place:
    """Tells where a module stands by its name."""
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), -1)
    is_output = not _OUTPUT_PROJECTIONS.isdisjoint(parts)
    return Place(layer, not any("att" in part for part in parts), 2 * is_output)


# Below and above all layers.
EMBEDDING = Place(-math.inf, True, 0)
HEAD = Place(math.inf, True, 0)


def origin_of(block: Block) -> Place:
    """Tells where the lowest output of a block stands."""
    if block.is_head:
        return HEAD if block.embedding is None else EMBEDDING
    return place_of(block.module)


def feeds(origin: Place, place: Place, is_parallel: bool) -> bool:
    """Tells whether what stands at `place` depends on the output of a module at `origin`."""
    if is_parallel and origin.layer == place.layer and origin.is_mlp != place.is_mlp:
        return False
    return origin < place


def fitted_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of what the pass of EK-FAC's eigenvalues holds of blocks: their factors' eigenvectors, and the sums in them."""
    return eigenbasis_bytes(blocks) + eigenvalue_bytes(blocks)


def vector_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of one gradient, or query vector, of blocks."""
    return FLOAT32_BYTES * sum(math.prod(block.shape) for block in blocks)


def layer_of(block: Block) -> float:
    """Numbers the layer that a block is in; the head is above all, and what is in none is below."""
    return HEAD.layer if block.is_head else place_of(block.module).layer


def eigenbasis_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of the eigenvectors and eigenvalues of the factors of blocks."""
    sizes = factor_sizes(blocks)
    entries = sum(size**2 for size in sizes) + sum(sizes) + 2 * sum(diagonal_sizes(blocks))
    return FLOAT32_BYTES * entries


def eigenvalue_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of one set of EK-FAC's eigenvalues of blocks."""
    entries = (sum(b.shape) if is_factored(b) else math.prod(b.shape) for b in blocks)
    return FLOAT32_BYTES * sum(entries)


def stacks_of(blocks: Sequence[Block]) -> list[list[Block]]:
    """Groups blocks that read one tensor."""
    stacks: dict[tuple[Place, bool, int], list[Block]] = {}
    for block in blocks:
        stacks.setdefault((origin_of(block), block.has_bias, block.in_features), []).append(block)
    return list(stacks.values())


def factor_sizes(blocks: Sequence[Block]) -> list[int]:
    """Lists the sizes of the matrices A of all inputs, and G of all blocks but the head."""
    inputs = [own[0].shape[1] for own in stacks_of(blocks)]
    return [*inputs, *(b.out_features for b in blocks if not b.is_head)]


def diagonal_sizes(blocks: Sequence[Block]) -> list[int]:
    """Lists the sizes of the factors G of which the diagonal is kept."""
    return [block.out_features for block in blocks if block.is_head]
