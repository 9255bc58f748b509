"""Vectors of norm 1."""

import numpy as np


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Normalises vectors.

    Args:
      vectors: Any vectors, float [n, dim].

    Returns:
      Rows of norm 1, same shape and dtype; 0 if a vector is zero or not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_good = np.isfinite(norms) & (norms > 0)
    return np.where(is_good, vectors, 0) / np.where(is_good, norms, 1)
