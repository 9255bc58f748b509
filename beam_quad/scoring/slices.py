"""Slices of a model's layers: curvature and query gradients of a model that is too large for a worker are fitted slice by slice.

A slice is fitted by passes that watch its layers alone, over the same texts: its sums have the same bits whatever is in
other slices.
"""

import itertools
from collections.abc import Sequence

from beam_quad.gradients.tracked import Block
from beam_quad.scoring.shapes import fitted_bytes, layer_of

# Bytes of what a pass of a slice holds at most, unless a single layer is larger. A pass costs a forward and, from the slice up, a
# backward; up to here that is one slice of any model of 500 M parameters with all its layers, or 2 B with their attention.
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
