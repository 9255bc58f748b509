"""Slices of a model's layers: curvature and query gradients of a model that is too large for a worker are fitted slice by slice.

A slice is fitted by passes that watch its layers alone, over the same texts: its sums have the same bits whatever is in
other slices.
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

# Bytes of what a pass of a slice holds at most, unless a single layer is larger. A pass costs a forward and, from the slice up, a
# backward; up to here that is one slice of any model of 360 M parameters with all its layers, or 1.7 B with their attention.
_SLICE_BYTES = 8 << 30


def layer_slices(blocks: Sequence[Block]) -> tuple[tuple[Block, ...], ...]:
    """Cuts tracked blocks into slices of consecutive layers that are fitted one at a time.

    Args:
      blocks: What is tracked, in the order of the model.

    Returns:
      The slices, in order. Eigenvectors of a slice's factors and squares in them (`fitted_bytes`) have at most 8 GiB
      together, but a layer is never cut: modules of a layer share inputs.
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
    """Prices the memory of the fit: what any piece of its stages holds at most, in float32.

    It does not depend on the number of query groups or of texts. The model, and the activations and gradients of a
    micro-batch, come on top.

    Args:
      blocks: What is tracked.
    """
    slices = layer_slices(blocks)
    largest = max(vector_bytes([block]) for block in blocks)
    stacks = [stack for own in slices for stack in stacks_of(own)]
    return max(
        # The pass of the eigenvalues: a formed gradient and its sum come on top.
        max(map(fitted_bytes, slices))
        + max(FLOAT32_BYTES * products.GRADIENT_ENTRIES, largest)
        + largest,
        max(map(_decomposed_bytes, stacks)),
        max(map(_preconditioned_bytes, stacks)),
    )


def _decomposed_bytes(stack: Sequence[Block]) -> int:
    """Adding covariances holds three at a time; then LAPACK holds a matrix, its vectors and twice that as work space, in float64."""
    basis = eigenbasis_bytes(stack)
    largest = max(factor_sizes(stack))
    return max(3 * basis, 2 * basis + 4 * 2 * FLOAT32_BYTES * largest**2)


def _preconditioned_bytes(stack: Sequence[Block]) -> int:
    """The curvature of an input, and a group's gradients for it: all parts of a half, their sum, the other half, temporaries."""
    return fitted_bytes(stack) + (NUM_PARTS + 5) * vector_bytes(stack)
