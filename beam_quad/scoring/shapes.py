"""Shapes of tracked blocks: shared inputs, dependencies between modules, and the bytes of fitted statistics."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from beam_quad.gradients.tracked import Block
from beam_quad.scoring.eigenvalues import is_factored

FLOAT32_BYTES = 4
# Names of projections back to the residual stream in the model families of `transformers`; other modules read from it.
_OUTPUT_PROJECTIONS = frozenset(
    {"o_proj", "out_proj", "c_proj", "dense", "wo"}
    | {"down_proj", "dense_4h_to_h", "fc_out", "fc2", "w2"}
)


class Place(NamedTuple):
    """Position of a module in the forward pass. Places sort in the order of the pass.

    Attributes:
      layer: Number of the layer; -1 outside all layers.
      is_mlp: Whether the module is not part of the attention.
      stage: 0 for modules that read the residual stream, 1 for attention itself, 2 for modules that write to the stream.
    """

    layer: float
    is_mlp: bool
    stage: int


def place_of(name: str) -> Place:
    """Finds the place of a module from its name."""
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), -1)
    is_output = not _OUTPUT_PROJECTIONS.isdisjoint(parts)
    return Place(layer, not any("att" in part for part in parts), 2 * is_output)


# Below and above all layers.
EMBEDDING = Place(-math.inf, True, 0)
HEAD = Place(math.inf, True, 0)


def origin_of(block: Block) -> Place:
    """Finds the place of a block's lowest output."""
    if block.is_head:
        return HEAD if block.embedding is None else EMBEDDING
    return place_of(block.module)


def feeds(origin: Place, place: Place, is_parallel: bool) -> bool:
    """Tests whether a module at `place` depends on the output of a module at `origin`."""
    # With a parallel residual, attention and MLP of a layer read the same stream and do not depend on each other.
    if is_parallel and origin.layer == place.layer and origin.is_mlp != place.is_mlp:
        return False
    # Places compare layer first, then attention before MLP, then the stage within either.
    return origin < place


def fitted_bytes(blocks: Sequence[Block]) -> int:
    """Bytes that the pass of EK-FAC's eigenvalues holds for blocks: their eigenbases, and the sums of squares."""
    return eigenbasis_bytes(blocks) + eigenvalue_bytes(blocks)


def vector_bytes(blocks: Sequence[Block]) -> int:
    """Bytes of one gradient or query vector of blocks."""
    return FLOAT32_BYTES * sum(math.prod(block.shape) for block in blocks)


def layer_of(block: Block) -> float:
    """Returns the layer number of a block; the head is above all layers, and blocks outside all layers are below."""
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
    """Groups blocks that read the same tensor."""
    stacks: dict[tuple[Place, bool, int], list[Block]] = {}
    for block in blocks:
        stacks.setdefault((origin_of(block), block.has_bias, block.in_features), []).append(block)
    return list(stacks.values())


def factor_sizes(blocks: Sequence[Block]) -> list[int]:
    """Lists the sizes of the matrices A of all inputs, and G of all blocks except the head."""
    inputs = [own[0].shape[1] for own in stacks_of(blocks)]
    return [*inputs, *(b.out_features for b in blocks if not b.is_head)]


def diagonal_sizes(blocks: Sequence[Block]) -> list[int]:
    """Lists the sizes of the factors G with only a diagonal."""
    return [block.out_features for block in blocks if block.is_head]
