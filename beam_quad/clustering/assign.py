"""Assignment of points to clusters."""

import numpy as np

from beam_quad import seeding
from beam_quad.clustering.centers import Centers

_CHUNK_SCORES = 1 << 24  # scores in one chunk of the matrix product: 64 MB of float32
_CHUNK_PAIRS = 1 << 14  # near ties recomputed at once: 100 MB at 384 dimensions


def assign(
    points: np.ndarray, keys: np.ndarray, centers: Centers, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Assigns each point to the center with the largest dot product, and to one of that center's hash parts.

    A point's result does not depend on the other points, the chunks or the number of threads.

    Args:
      points: Unit rows, float32 [num_points, dim].
      keys: Keys of the examples (`seeding.keys`), uint64 [num_points].
      centers: The fitted centers.
      seed: The run's seed, which draws the hash parts.

    Returns:
      Cluster ids in [0, centers.num_clusters), int32 [num_points], and the dot products with the centers, float32
      [num_points].

    Raises:
      ValueError: If the shapes do not fit together.
    """
    if len(points) != len(keys):
        raise ValueError(f"{len(points)} points but {len(keys)} keys")
    center, similarity = nearest(points, centers.vectors)
    draw = seeding.uniform(seed, "hash_parts", keys)
    part = np.floor(draw * centers.parts[center]).astype(np.int32)
    return centers.offsets[center] + part, similarity


def nearest(points: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the row of `vectors` with the largest dot product; ties go to the lowest row.

    Args:
      points: Unit rows, float32 [num_points, dim].
      vectors: Unit rows, float32 [num_vectors, dim].

    Returns:
      Rows, int32 [num_points], and the dot products, float32 [num_points].

    Raises:
      ValueError: If the dimensions differ.
    """
    if points.ndim != 2 or points.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"points have shape {points.shape} but the centers have dimension {vectors.shape[1]}; "
            "were they made by another embedder?"
        )
    index = np.empty(len(points), np.int32)
    similarity = np.empty(len(points), np.float32)
    step = max(1, _CHUNK_SCORES // len(vectors))
    for start in range(0, len(points), step):
        chunk = slice(start, start + step)
        index[chunk], similarity[chunk] = _nearest_in_chunk(points[chunk], vectors)
    return index, similarity


def _nearest_in_chunk(points: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The last bits of a matrix product depend on its shape and on the number of threads, so it only makes a shortlist.
    # The shortlist is decided in float64, summed in the same order for every pair. For unit vectors, the error of one
    # float32 dot product is at most dim * 2**-24, and the error of a difference at most twice that.
    scores = points @ vectors.T
    threshold = scores.max(axis=1, keepdims=True) - np.float32(points.shape[1] * 2.0**-23)
    rows, columns = np.nonzero(scores >= threshold)
    exact = _dot_products(points, vectors, rows, columns)
    # By row, then the largest product, then the lowest column. `rows` already ascend, so each row's run stays in place.
    best = np.lexsort((columns, -exact, rows))
    first = best[np.searchsorted(rows, np.arange(len(points)))]
    return columns[first], exact[first]


def _dot_products(
    points: np.ndarray, vectors: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    products = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK_PAIRS):
        pairs = slice(start, start + _CHUNK_PAIRS)
        left = points[rows[pairs]].astype(np.float64)
        left *= vectors[columns[pairs]]
        products[pairs] = left.sum(axis=1)
    return products
