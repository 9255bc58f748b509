"""Slices of a model's layers, by which curvature and query gradients are fitted if all layers do not fit on a worker.

A slice is fitted in passes over the same texts that watch only its layers, so its sums have the same bits however the other
layers are sliced.
"""

import itertools
from collections.abc import Sequence

from beam_quad.gradients.tracked import Block
from beam_quad.scoring import products
from beam_quad.scoring.query import NUM_PARTS
from beam_quad.scoring.shapes import (
    FLOAT32_BYTES,
    eigenbasis_bytes,
    factor_sizes,
    fitted_bytes,
    layer_of,
    stacks_of,
    vector_bytes,
)

# Maximum bytes that a pass of a slice holds, unless a single layer is larger. Every slice costs another forward pass, and a
# backward pass down to the slice. With 8 GiB, a model of 360 M parameters with all layers tracked is one slice, and so is one
# of 1.7 B with attention layers tracked.
_SLICE_BYTES = 8 << 30


def layer_slices(blocks: Sequence[Block]) -> tuple[tuple[Block, ...], ...]:
    """Cuts tracked blocks into slices of consecutive layers, which are fitted one at a time.

    Args:
      blocks: The tracked blocks, in the order of the model.

    Returns:
      The slices, in order. The eigenbases and sums of squares of a slice (`fitted_bytes`) take at most 8 GiB, but a layer is
      never cut, because modules of a layer share inputs.
    """
    slices: list[tuple[Block, ...]] = []
    for _, layer in itertools.groupby(blocks, layer_of):
        own = tuple(layer)
        if slices and fitted_bytes((*slices[-1], *own)) <= _SLICE_BYTES:
            slices[-1] += own
        else:
            slices.append(own)
    return tuple(slices)


def peak_bytes(blocks: Sequence[Block]) -> int:
    """Estimates the peak memory of the fit over all work items of its stages, in float32.

    The peak does not depend on the number of query groups or texts. The model, and the activations and gradients of a
    micro-batch, come on top.

    Args:
      blocks: The tracked blocks.
    """
    slices = layer_slices(blocks)
    largest = max(vector_bytes([block]) for block in blocks)
    stacks = [stack for own in slices for stack in stacks_of(own)]
    return max(
        # The pass of the eigenvalues also holds a formed gradient and its sum.
        max(map(fitted_bytes, slices))
        + max(FLOAT32_BYTES * products.GRADIENT_ENTRIES, largest)
        + largest,
        max(map(_decomposed_bytes, stacks)),
        max(map(_preconditioned_bytes, stacks)),
    )


def _decomposed_bytes(stack: Sequence[Block]) -> int:
    """Estimates the memory of an eigendecomposition.

    Adding covariances holds three at a time. LAPACK then holds a matrix, its eigenvectors and twice that as work space, in
    float64.
    """
    basis = eigenbasis_bytes(stack)
    largest = max(factor_sizes(stack))
    return max(3 * basis, 2 * basis + 4 * 2 * FLOAT32_BYTES * largest**2)


def _preconditioned_bytes(stack: Sequence[Block]) -> int:
    """Estimates the memory of preconditioning a group's gradients for one input.

    It holds the input's curvature and the gradients: all parts of one half, their sum, the other half, and temporaries.
    """
    return fitted_bytes(stack) + (NUM_PARTS + 5) * vector_bytes(stack)
