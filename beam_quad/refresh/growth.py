"""New clusters for documents that are far from all: centers appended to the old ones, whose ids never change."""

import numpy as np

from beam_quad import seeding
from beam_quad.clustering import Centers, fit_centers
from beam_quad.clustering.assign import nearest


def num_new_centers(num_far: int, cluster_sizes: np.ndarray) -> int:
    """Decides how many clusters far documents may open: as many as have the documents of the median old cluster on average.

    Args:
      num_far: Far documents of the whole corpus.
      cluster_sizes: Documents of each old cluster, int64 [num_clusters]; empty ones do not count.

    Returns:
      At least 0: none where all far documents are fewer than a cluster has.

    Raises:
      ValueError: If no cluster has a document.
    """
    return int(num_far // _median(cluster_sizes))


def grow_centers(
    centers: Centers, far: np.ndarray, num_far: int, cluster_sizes: np.ndarray, seed: int
) -> Centers:
    """Opens clusters for documents that are far from all centers.

    Spherical k-means (`clustering.fit_centers`) fits `num_new_centers` to a sample of the far documents. A center stays if
    as many documents are nearer to it than to any other, old or new, as the median old cluster has; the smallest goes first, and its documents to
    the others. What stays is fitted once more, to its own documents alone: the scattered ends of the old clusters, a hundredth of
    all documents, are far too, but belong to none.

    Args:
      centers: The old centers, of num_clusters clusters.
      far: A sample of the far documents, drawn by a hash: unit rows, float32 [m, dim].
      num_far: How many far documents the sample is of.
      cluster_sizes: Documents of each old cluster, int64 [num_clusters].
      seed: The run's seed.

    Returns:
      The old centers, to the bit, and after them the new ones, which have the cluster ids num_clusters, num_clusters + 1 and so
      on; the old ones alone where no new one stays. The order of the sample does not matter.

    Raises:
      ValueError: If the dimensions differ, there are fewer far documents than in the sample, or no cluster has a document.
    """
    if num_far < len(far):
        raise ValueError(f"num_far is {num_far}, but the sample alone has {len(far)}")
    wanted = num_new_centers(num_far, cluster_sizes)
    if not wanted or not len(far):
        return centers
    least = _median(cluster_sizes) * len(far) / num_far
    _, to_old = nearest(far, centers.vectors)
    points, vectors = far, centers.vectors[:0]
    for _ in range(2):
        fitted, _ = fit_centers(points, wanted, seeding.integer(seed, "grow_clusters"), 1.0)
        vectors, is_theirs = _keep_large(far, to_old, fitted.vectors, least)
        wanted, points = len(vectors), far[is_theirs]
        if not wanted:
            return centers
    return Centers(
        np.concatenate([centers.vectors, vectors]),
        np.concatenate([centers.parts, np.ones(len(vectors), centers.parts.dtype)]),
    )


def _keep_large(
    far: np.ndarray, to_old: np.ndarray, vectors: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drops centers, the smallest first, until all have `least` points nearer to them than to an old one; says which these are."""
    alive = np.arange(len(vectors))
    index, similarity = nearest(far, vectors)
    while len(alive):
        is_theirs = similarity > to_old
        sizes = np.bincount(index[is_theirs], minlength=len(vectors))[alive]
        if sizes.min() >= least:
            return vectors[alive], is_theirs
        smallest = int(sizes.argmin())
        orphans = index == alive[smallest]
        alive = np.delete(alive, smallest)
        if len(alive):
            at, similarity[orphans] = nearest(far[orphans], vectors[alive])
            index[orphans] = alive[at]
    return vectors[:0], np.zeros(len(far), bool)


def _median(cluster_sizes: np.ndarray) -> float:
    sizes = cluster_sizes[cluster_sizes > 0]
    if not len(sizes):
        raise ValueError("no old cluster has a document, so there is no size to give new ones")
    return float(np.median(sizes))
