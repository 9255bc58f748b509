"""Scores of unit gradients on targets: inner products with the targets' vectors, and cosines."""

from collections.abc import Sequence

import numpy as np


def scaled_sketches(sketched: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """Multiplies the sketches of vectors, unit rows float [dim], by the vectors' norms: float64 [num_vectors, dim]."""
    # In float64: a float16 sketch times a Python float stays float16, and a large norm overflows it.
    return np.stack([sketch.astype(np.float64) * norm for sketch, norm in sketched])


def sketched_products(sketches: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Estimates inner products of unit gradients with vectors from their sketches.

    Args:
      sketches: Sketches of unit gradients, unit rows, float16 or wider [n, dim].
      vectors: `scaled_sketches`, float64 [num_vectors, dim].

    Returns:
      Float64 [n, num_vectors].
    """
    return np.asarray(sketches.astype(np.float64) @ vectors.T)


def cosines(products: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Divides products of unit gradients with vectors, float64 [n, num_vectors], by the norms of the vectors."""
    return np.asarray(products / norms)
