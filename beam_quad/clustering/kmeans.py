"""Spherical k-means on a sample: mini-batches, then a few full passes, then giants are split.

References:
  Sculley, Web-Scale K-Means Clustering, 2010 (mini-batches).
  Arthur & Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007.
  Dhillon & Modha, Concept Decompositions for Large Sparse Text Data using Clustering, 2001 (the unit sphere).
"""

import math
from collections.abc import Iterator

import numpy as np
import scipy.sparse
from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus
from threadpoolctl import threadpool_limits

from beam_quad import seeding
from beam_quad.clustering.assign import nearest
from beam_quad.clustering.centers import Centers, FitReport

# Planted clusters of skewed sizes (60 to 700, up to 60,000 points), mean similarity to the center: 3 epochs with
# renormalised centers .697/.429, without .690/.391 (scikit-learn's own `fit` .683/.388); 3 passes more .699/.444.
_EPOCHS = 3
_PASSES = 3
_MIN_BATCH = 1024
_MIN_INIT_POINTS = 8192
# k-means++ takes time in the square of the number of centers; beyond this many it runs within random groups.
_INIT_GROUP = 1024
_CHUNK = 8192
# k-means wants some hundred points a cluster; 256 is what Faiss takes at most, and more moves no center.
POINTS_PER_CLUSTER = 256


def default_num_clusters(num_examples: int) -> int:
    """Gives clamp(round(sqrt(N / 2)), 8, 10,000), and never more than N."""
    return min(max(8, min(10_000, round(math.sqrt(num_examples / 2)))), max(1, num_examples))


def sample_rate(num_clusters: int, num_examples: int) -> float:
    """Decides which share of the examples the centers are fitted to; above 1 where all are too few."""
    # A little above what is wanted, so that the sample is not a few points short by chance.
    return 1.05 * POINTS_PER_CLUSTER * num_clusters / num_examples


def fit_centers(
    points: np.ndarray, num_clusters: int, seed: int, max_cluster_share: float
) -> tuple[Centers, FitReport]:
    """Fits centers to a sample of the corpus.

    Neither the order of the points nor the number of threads changes a bit of the result: the points are put in the
    order of a seeded hash of their own content, which is also the shuffle that the batches are cut from.

    A cluster with a larger share of the sample than `max_cluster_share` (2 / num_clusters at the least) is split by
    k-means into as many parts as bring it below, once; what is still above, such as copies of one text, by hash.

    Args:
      points: Unit rows, float32 [num_points, dim]; read where they lie, never copied as a whole.
      num_clusters: Clusters wanted; empty ones are dropped, and giants add some.
      seed: The run's seed.
      max_cluster_share: Largest share of the sample one cluster may have, in (0, 1].

    Raises:
      ValueError: If there are no points, they are not finite unit rows, or a number is out of range.
    """
    _check(points, num_clusters, max_cluster_share)
    order, num_distinct = _content_order(points, seed)
    limit = max(max_cluster_share, 2 / min(num_clusters, len(points)))
    vectors = _fit(points, order, min(num_clusters, num_distinct), seed)
    index, similarity = _nearest_of(points, order, vectors)
    giants = np.flatnonzero(_shares(index, vectors) > limit)
    if len(giants):
        vectors = _split(points, order, vectors, index, giants, limit, seed)
        index, similarity = _nearest_of(points, order, vectors)
    shares = _shares(index, vectors)
    kept = shares > 0
    parts = np.where(shares > limit, np.ceil(shares / limit), 1).astype(np.int32)
    report = FitReport(
        requested=num_clusters,
        num_points=len(points),
        num_distinct=num_distinct,
        empty_dropped=int((~kept).sum()),
        resplit=len(giants),
        hash_split=int((parts > 1).sum()),
        inertia=float(np.sum(2 - 2 * similarity.astype(np.float64))),
    )
    return Centers(vectors[kept], parts[kept]), report


def _check(points: np.ndarray, num_clusters: int, max_cluster_share: float) -> None:
    if points.ndim != 2 or not len(points) or points.dtype != np.float32:
        raise ValueError(f"need float32 points [n > 0, dim], got {points.dtype} {points.shape}")
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if not 0 < max_cluster_share <= 1:
        raise ValueError(f"max_cluster_share must be in (0, 1], got {max_cluster_share}")
    for chunk in _chunks(points, np.arange(len(points))):
        norms = np.linalg.norm(chunk, axis=1)
        if not np.all(np.abs(norms - 1) < 1e-3):
            raise ValueError("the points must be finite and of norm 1; normalise them first")


def _content_order(points: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Orders the points by a seeded hash of their bits; also counts the distinct ones."""
    multipliers = seeding.mix(seed, "kmeans_row", np.arange(points.shape[1], dtype=np.uint64))
    multipliers |= np.uint64(1)
    hashes = np.empty(len(points), np.uint64)
    for start in range(0, len(points), _CHUNK):
        # + 0.0 turns -0.0, which equals 0.0, into its bits.
        bits = (points[start : start + _CHUNK] + np.float32(0)).view(np.uint32)
        hashes[start : start + _CHUNK] = bits.astype(np.uint64) @ multipliers
    hashes = seeding.mix(seed, "kmeans_order", hashes)
    order = np.argsort(hashes, kind="stable")
    return order, int(1 + np.count_nonzero(np.diff(hashes[order])))


def _fit(points: np.ndarray, order: np.ndarray, num_centers: int, seed: int) -> np.ndarray:
    """Fits unit centers to the points of `order`, float32 [num_centers, dim]; some may end up empty."""
    # One BLAS thread: scikit-learn spreads fixed chunks over OpenMP threads, so that bits do not depend on them.
    with threadpool_limits(1, user_api="blas"):
        vectors = _fit_batches(points, order, _initialise(points, order, num_centers, seed), seed)
    for _ in range(_PASSES):
        vectors = _pass(points, order, vectors)
    return vectors


def _initialise(points: np.ndarray, order: np.ndarray, num_centers: int, seed: int) -> np.ndarray:
    # Copies of one point are neighbours in the content order; k-means++ must not run out of distinct ones.
    sample = _first_distinct(points, order, max(3 * num_centers, _MIN_INIT_POINTS))
    num_centers = min(num_centers, len(sample))
    groups = math.ceil(num_centers / _INIT_GROUP)
    wanted = [len(piece) for piece in np.array_split(np.arange(num_centers), groups)]
    return np.concatenate(
        [
            kmeans_plusplus(
                sample[group::groups],
                wanted[group],
                random_state=seeding.integer(seed, "kmeans_init", group),
            )[0]
            for group in range(groups)
        ]
    )


def _first_distinct(points: np.ndarray, order: np.ndarray, num_wanted: int) -> np.ndarray:
    """Gathers the first distinct points of the content order, float32 [<= num_wanted, dim]."""
    found: list[np.ndarray] = []
    last = np.full((1, points.shape[1]), np.nan, np.float32)
    missing = num_wanted
    for chunk in _chunks(points, order):
        new = np.any(chunk != np.concatenate([last, chunk[:-1]]), axis=1)
        found.append(chunk[new][:missing])
        missing -= len(found[-1])
        last = chunk[-1:]
        if missing <= 0:
            break
    return np.concatenate(found)


def _fit_batches(
    points: np.ndarray, order: np.ndarray, vectors: np.ndarray, seed: int
) -> np.ndarray:
    batch = max(_MIN_BATCH, len(vectors))
    model = MiniBatchKMeans(
        len(vectors),
        init=vectors,
        n_init=1,
        batch_size=batch,
        compute_labels=False,
        random_state=seeding.integer(seed, "kmeans_batches"),
    )
    for _ in range(_EPOCHS):
        for start in range(0, len(order), batch):
            model.partial_fit(points[order[start : start + batch]])
            model.cluster_centers_ = _normalised(model.cluster_centers_, vectors)
    return np.asarray(model.cluster_centers_, np.float32)


def _pass(points: np.ndarray, order: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Moves every center to the mean direction of its points; one without points stays."""
    totals = np.zeros(vectors.shape)
    for chunk in _chunks(points, order):
        index, _ = nearest(chunk, vectors)
        one_hot = scipy.sparse.csr_array(
            (np.ones(len(chunk)), index, np.arange(len(chunk) + 1)),
            shape=(len(chunk), len(vectors)),
        )
        totals += one_hot.T @ chunk.astype(np.float64)
    return _normalised(totals, vectors)


def _split(
    points: np.ndarray,
    order: np.ndarray,
    vectors: np.ndarray,
    index: np.ndarray,
    giants: np.ndarray,
    limit: float,
    seed: int,
) -> np.ndarray:
    """Replaces the center of each giant by several, fitted to its points."""
    shares = _shares(index, vectors)
    pieces = [
        _fit(points, order[index == giant], math.ceil(shares[giant] / limit), seed)
        for giant in giants
    ]
    return np.concatenate([np.delete(vectors, giants, axis=0), *pieces])


def _shares(index: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.bincount(index, minlength=len(vectors)) / len(index)
    return shares


def _nearest_of(
    points: np.ndarray, order: np.ndarray, vectors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    found = [nearest(chunk, vectors) for chunk in _chunks(points, order)]
    return np.concatenate([index for index, _ in found]), np.concatenate([sim for _, sim in found])


def _chunks(points: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    return (points[order[start : start + _CHUNK]] for start in range(0, len(order), _CHUNK))


def _normalised(vectors: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Brings rows to norm 1, float32; a row without a direction becomes the fallback's."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directed = norms > 1e-6
    return np.where(directed, vectors / np.where(directed, norms, 1), fallback).astype(np.float32)
