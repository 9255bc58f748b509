"""Points in the plane, for a person to look at."""

import numpy as np
from sklearn.manifold import TSNE

# With fewer neighbours than this, t-SNE has no neighbourhoods to preserve, and the principal components are shown.
_FEWEST_NEIGHBOURS = 3
_MOST_NEIGHBOURS = 30


def layout(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Places points in the plane so that neighbours stay neighbours; distances between far ones say little.

    Args:
      vectors: Float [n, dim].
      seed: Seed of t-SNE, which starts from the first two principal components.

    Returns:
      Float64 [n, 2], centered, with the wider axis first.

    References:
      van der Maaten and Hinton, Visualizing Data using t-SNE, 2008.
    """
    plane = _principal_axes(vectors.astype(np.float64))
    # The number of neighbours is the perplexity; above a third of the points it is too much, as in Rtsne.
    neighbours = min(_MOST_NEIGHBOURS, (len(vectors) - 1) // 3)
    if neighbours < _FEWEST_NEIGHBOURS:
        return plane
    # A standard deviation of 1e-4, as for scikit-learn's own start from PCA: a wider one keeps points from moving.
    start = (plane / max(plane[:, 0].std(), 1e-12) * 1e-4).astype(np.float32)
    tsne = TSNE(perplexity=neighbours, init=start, random_state=seed, n_jobs=1)
    return _principal_axes(tsne.fit_transform(vectors).astype(np.float64))


def _principal_axes(points: np.ndarray) -> np.ndarray:
    """Rotates points to their first two principal axes; on each, the farthest point has a positive coordinate."""
    centered = points - points.mean(axis=0)
    left, scales, _ = np.linalg.svd(centered, full_matrices=False)
    turned = np.zeros((len(points), 2))
    kept = min(2, len(scales))
    turned[:, :kept] = left[:, :kept] * scales[:kept]
    # The signs of singular vectors are arbitrary, and would mirror the picture from machine to machine.
    farthest = turned[np.abs(turned).argmax(axis=0), [0, 1]]
    return turned * np.where(farthest < 0, -1.0, 1.0)
