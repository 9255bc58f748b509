"""New clusters for documents far from all centers. New centers are appended, so the ids of old clusters never change."""

import numpy as np

from beam_quad import seeding
from beam_quad.clustering import Centers, fit_centers
from beam_quad.clustering.assign import nearest


def num_new_centers(num_far: int, cluster_sizes: np.ndarray) -> int:
    """Decides how many clusters to open for far documents, with on average the size of the median old cluster.

    Args:
      num_far: Far documents of the whole corpus.
      cluster_sizes: Documents of each old cluster, int64 [num_clusters]; empty clusters do not count.

    Returns:
      At least 0; 0 if all far documents are fewer than the median cluster has.

    Raises:
      ValueError: If no cluster has a document.
    """
    return int(num_far // _median(cluster_sizes))


def grow_centers(
    centers: Centers, far: np.ndarray, num_far: int, cluster_sizes: np.ndarray, seed: int
) -> Centers:
    """Opens clusters for documents that are far from all centers.

    Spherical k-means (`clustering.fit_centers`) fits `num_new_centers` centers to a sample of the far documents. Centers are
    dropped, the smallest first, until each is the nearest center, old or new, of at least as many documents as the median old
    cluster has. The documents of a dropped center go to the others. The remaining centers are then fitted once more to their
    own documents alone, because the far documents include the tails of old clusters (1 % of all documents), which belong to
    no new cluster.

    Args:
      centers: The old centers, of num_clusters clusters.
      far: Sample of the far documents drawn by hash: unit rows, float32 [m, dim].
      num_far: Number of far documents from which the sample is drawn.
      cluster_sizes: Documents of each old cluster, int64 [num_clusters].
      seed: The run's seed.

    Returns:
      The old centers, bit for bit, followed by the new ones with the cluster ids num_clusters, num_clusters + 1 and so on; only
      the old centers if no new one remains. The order of the sample does not matter.

    Raises:
      ValueError: If the dimensions differ, `num_far` is less than the sample, or no cluster has a document.
    """
    if num_far < len(far):
        raise ValueError(f"num_far is {num_far}, but the sample alone has {len(far)}")
    wanted = num_new_centers(num_far, cluster_sizes)
    if not wanted or not len(far):
        return centers
    # The size of the median cluster, scaled down to the sample.
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
    """Drops centers, the smallest first, until each has at least `least` points nearer to it than to an old center.

    Returns:
      The remaining centers, and whether each point is nearer to one of them than to an old center.
    """
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
        # Only the orphans are assigned again; the nearest center of the other points is still there.
        if len(alive):
            at, similarity[orphans] = nearest(far[orphans], vectors[alive])
            index[orphans] = alive[at]
    return vectors[:0], np.zeros(len(far), bool)


def _median(cluster_sizes: np.ndarray) -> float:
    sizes = cluster_sizes[cluster_sizes > 0]
    if not len(sizes):
        raise ValueError("no old cluster has a document, so there is no size to give new ones")
    return float(np.median(sizes))
