"""Spherical k-means on a sample: mini-batches, a few full passes, and a split of giant clusters.

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

# Mean similarity to the center for planted clusters of skewed sizes (60 to 700 clusters, up to 60,000 points): .697/.429 after
# 3 epochs with renormalised centers, .690/.391 without (.683/.388 by scikit-learn's `fit`), .699/.444 after 3 more passes.
_EPOCHS = 3
_PASSES = 3
_MIN_BATCH = 1024
_MIN_INIT_POINTS = 8192
# k-means++ takes time quadratic in the number of centers; above this number it runs within random groups.
_INIT_GROUP = 1024
_CHUNK = 8192
# k-means needs a few hundred points per cluster. Faiss uses at most 256; the centers are no better if there are more.
POINTS_PER_CLUSTER = 256


def default_num_clusters(num_examples: int) -> int:
    """Computes the default clamp(round(sqrt(N / 2)), 8, 10,000), but at most N."""
    return min(max(8, min(10_000, round(math.sqrt(num_examples / 2)))), max(1, num_examples))


def sample_rate(num_clusters: int, num_examples: int) -> float:
    """Decides the share of the examples to which centers are fitted; above 1 if the corpus is too small."""
    # 5 % more than needed, so that a random sample is not a few points short.
    return 1.05 * POINTS_PER_CLUSTER * num_clusters / num_examples


def fit_centers(
    points: np.ndarray, num_clusters: int, seed: int, max_cluster_share: float
) -> tuple[Centers, FitReport]:
    """Fits centers to a sample of the corpus.

    The result is bit for bit the same for any order of the points and any number of threads: points are sorted by a seeded
    hash of their content, which also shuffles them into batches.

    A cluster with a share of the sample above `max_cluster_share` (but at least 2 / num_clusters) is split once by k-means,
    into as many parts as would bring it below. A part still above, such as copies of one text, is split by hash.

    Args:
      points: Unit rows, float32 [num_points, dim]; read in chunks and never copied as a whole, so they can be memory-mapped.
      num_clusters: Number of clusters requested; empty ones are dropped, and splits add some.
      seed: The run's seed.
      max_cluster_share: Maximum share of the sample in one cluster, in (0, 1].

    Raises:
      ValueError: If there are no points, they are not finite unit rows, or a number is out of range.
    """
    _check(points, num_clusters, max_cluster_share)
    order, num_distinct = _content_order(points, seed)
    # Below twice the mean share, ordinary variation in cluster size would cause splits.
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
    """Orders the points by a seeded hash of their bits, and counts distinct points."""
    # Odd multipliers: each is invertible modulo 2**64, so no bit of a coordinate is lost.
    multipliers = seeding.mix(seed, "kmeans_row", np.arange(points.shape[1], dtype=np.uint64))
    multipliers |= np.uint64(1)
    hashes = np.empty(len(points), np.uint64)
    for start in range(0, len(points), _CHUNK):
        # Adding 0.0 turns -0.0 into 0.0, so that equal points have equal bits.
        bits = (points[start : start + _CHUNK] + np.float32(0)).view(np.uint32)
        # Integers wrap modulo 2**64, so the sum does not depend on its order, as that of floats would.
        hashes[start : start + _CHUNK] = bits.astype(np.uint64) @ multipliers
    hashes = seeding.mix(seed, "kmeans_order", hashes)
    # Equal hashes are copies of a point, whose order does not matter.
    order = np.argsort(hashes, kind="stable")
    return order, int(1 + np.count_nonzero(np.diff(hashes[order])))


def _fit(points: np.ndarray, order: np.ndarray, num_centers: int, seed: int) -> np.ndarray:
    """Fits unit centers to the points of `order`, float32 [num_centers, dim]; some may have no points."""
    # One BLAS thread keeps the bits fixed. scikit-learn still runs on all cores: it gives chunks of fixed size to OpenMP.
    with threadpool_limits(1, user_api="blas"):
        vectors = _fit_batches(points, order, _initialise(points, order, num_centers, seed), seed)
    for _ in range(_PASSES):
        vectors = _pass(points, order, vectors)
    return vectors


def _initialise(points: np.ndarray, order: np.ndarray, num_centers: int, seed: int) -> np.ndarray:
    # k-means++ needs enough distinct points. Copies of a point are adjacent in content order and easy to skip.
    sample = _first_distinct(points, order, max(3 * num_centers, _MIN_INIT_POINTS))
    num_centers = min(num_centers, len(sample))
    groups = math.ceil(num_centers / _INIT_GROUP)
    wanted = [len(piece) for piece in np.array_split(np.arange(num_centers), groups)]
    return np.concatenate(
        [
            # Every so-many-th point: any slice of the content order is a random sample.
            kmeans_plusplus(
                sample[group::groups],
                wanted[group],
                random_state=seeding.integer(seed, "kmeans_init", group),
            )[0]
            for group in range(groups)
        ]
    )


def _first_distinct(points: np.ndarray, order: np.ndarray, num_wanted: int) -> np.ndarray:
    """Gathers the first distinct points in content order, float32 [<= num_wanted, dim]."""
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
    # At least one point a center on average, so no center waits for many batches.
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
            # Keeps the centers on the sphere; scikit-learn's means of unit vectors are shorter than 1.
            model.cluster_centers_ = _normalised(model.cluster_centers_, vectors)
    return np.asarray(model.cluster_centers_, np.float32)


def _pass(points: np.ndarray, order: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Moves every center to the mean direction of its points; a center without points stays."""
    totals = np.zeros(vectors.shape)
    for chunk in _chunks(points, order):
        index, _ = nearest(chunk, vectors)
        one_hot = scipy.sparse.csr_array(
            (np.ones(len(chunk)), index, np.arange(len(chunk) + 1)),
            shape=(len(chunk), len(vectors)),
        )
        # Unlike `np.add.at`, a sparse product is fast, and adds the points of a center in a fixed order.
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
    """Replaces the center of each giant cluster by several centers fitted to its points."""
    shares = _shares(index, vectors)
    pieces = [
        # `index` follows `order`, so the mask selects the giant's points in their content order.
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
    """Normalises rows to norm 1, float32; a row of norm 0 is replaced by the fallback's row."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Points that cancel have a mean of rounding errors, whose direction says nothing.
    directed = norms > 1e-6
    return np.where(directed, vectors / np.where(directed, norms, 1), fallback).astype(np.float32)
