"""Kernel ridge regression: propagates the influence of landmarks to all examples.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from beam_quad import archives, seeding
from beam_quad.distillation.checks import refuse_not_finite, refuse_other_lengths

Array = np.ndarray[Any, np.dtype[Any]]

RIDGE = 0.01
_BANDWIDTH_LANDMARKS = 1000
# Kernel entries held at a time: 32 MiB of float64.
_CHUNK_ENTRIES = 1 << 22
# With a smaller ridge, duals can be so large that the rounding of a single-precision kernel shows in predictions.
_LEAST_SINGLE_RIDGE = 1e-3
# Every matrix product is with exactly this many points, padded with zeros: BLAS then sums the terms of every point in the same
# order, whatever its position. This holds for OpenBLAS's x86 kernels with any number of threads if the landmarks are the left
# factor and a multiple of eight. With more points, or with points on the left, results of the AVX2 kernels depend on position.
_POINTS = 16
_MULTIPLE = 8
# Kernel entries of points computed at a time: 1 MiB of float32, which fits in cache.
_ENTRIES = 1 << 18


class _Padded(NamedTuple):
    """The arrays that a prediction needs, padded with zeros.

    Attributes:
      center: Mean of the landmarks, subtracted from all points before they are rounded, float64 [dim].
      scaled: Centered landmarks divided by the squared bandwidth, [padded, dim].
      offsets: Half the squared norms of the centered landmarks divided by the squared bandwidth, [padded].
      duals: Duals of the landmarks, float64 [padded targets, padded].
    """

    center: Array
    scaled: Array
    offsets: Array
    duals: Array


@dataclasses.dataclass(frozen=True, eq=False)
class KernelRidge:
    """Predicts the targets of examples from the targets of nearby landmarks.

    With K the Gaussian kernel of the landmarks, exp(-d² / 2h²), and t̄ the mean of their targets t,

        prediction(x) = t̄ + k(x)ᵀ (K + ridge·I)⁻¹ (t - t̄).

    Without the mean, an example far from every landmark would be pulled to 0. All targets share one Cholesky factor of K.
    Predictions do not need the factor, only the matrix of duals, [num_landmarks, num_targets].

    Attributes:
      keys: Keys of the landmarks, uint64 [num_landmarks].
      embeddings: Embeddings of the landmarks, float [num_landmarks, dim], in the dtype they were given in.
      targets: Exact values of the landmarks, float64 [num_landmarks, num_targets].
      duals: (K + ridge·I)⁻¹ (t - t̄), float64 [num_landmarks, num_targets].
      bandwidth: h > 0, in the unit of the embeddings.
      ridge: Added to the diagonal of K, whose entries are 1.
    """

    keys: Array
    embeddings: Array
    targets: Array
    duals: Array
    bandwidth: float
    ridge: float

    @classmethod
    def fit(
        cls,
        embeddings: Array,
        targets: Array,
        keys: Array,
        *,
        seed: int = 0,
        ridge: float = RIDGE,
        bandwidth: float | None = None,
    ) -> "KernelRidge":
        """Fits to landmarks. Their order does not matter.

        Args:
          embeddings: Float [num_landmarks, dim].
          targets: Exact values, float [num_landmarks, num_targets].
          keys: Keys of the landmarks (`seeding.keys`), uint64 [num_landmarks], distinct.
          seed: Draws the landmarks used to set the bandwidth.
          ridge: At least 0.
          bandwidth: h; None for `median_distance` of the landmarks.

        Raises:
          ValueError: If there are no landmarks, keys repeat, a number is not finite (names the landmark), shapes do not fit,
            or the kernel is singular in float64, which happens only if the ridge is near 0.
        """
        keys = np.asarray(keys, np.uint64)
        _check_landmarks(embeddings, targets, keys, ridge, bandwidth)
        # By key, so the factor has the same bits in any order of the landmarks.
        order = np.argsort(keys)
        keys, embeddings = keys[order], np.ascontiguousarray(np.asarray(embeddings)[order])
        values = np.asarray(targets, np.float64)[order]
        if bandwidth is None:
            bandwidth = median_distance(embeddings, keys, seed)
        factor = _factor(embeddings, bandwidth, ridge)
        duals = scipy.linalg.cho_solve(factor, values - values.mean(axis=0))
        return cls(keys, embeddings, values, duals, float(bandwidth), float(ridge))

    def predict(self, embeddings: Array, keys: Array | None = None) -> Array:
        """Predicts the targets of examples, each bit for bit the same whatever the other examples.

        The kernel is computed in single precision unless the ridge is below .001, and its product with the duals in double.

        Args:
          embeddings: Float [n, dim], from the embedder of the landmarks.
          keys: Keys of the examples, uint64 [n]; landmarks among them get their exact targets. None predicts all examples,
            including landmarks.

        Returns:
          Float64 [n, num_targets].

        Raises:
          ValueError: If the embeddings have another dimension or one is not finite (names it).
        """
        self._check(embeddings, keys)
        padded, (num_rows, dim) = self._padded, embeddings.shape
        predicted = np.empty((num_rows, self.targets.shape[1]))
        step = _POINTS * max(1, _ENTRIES // (_POINTS * len(padded.scaled)))
        for start in range(0, num_rows, step):
            chunk = embeddings[start : start + step]
            points = np.zeros((-(-len(chunk) // _POINTS) * _POINTS, dim), padded.scaled.dtype)
            points[: len(chunk)] = chunk - padded.center
            products = padded.duals @ self._kernels(points.reshape(-1, _POINTS, dim))
            by_target = products.swapaxes(0, 1).reshape(len(padded.duals), -1)
            predicted[start : start + step] = by_target[: predicted.shape[1], : len(chunk)].T
        predicted += self.targets.mean(axis=0)
        if keys is not None:
            # A key above all landmarks would be out of range; the comparison below tells that it is none.
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            is_landmark = self.keys[at] == keys
            predicted[is_landmark] = self.targets[at[is_landmark]]
        return predicted

    def leave_one_out(self) -> Array:
        """Predicts each landmark from all others without refitting, to estimate the error on new examples.

        The mean of the targets and the bandwidth are still computed from all landmarks.

        Returns:
          Float64 [num_landmarks, num_targets], in the order of `keys`.

        References:
          Rifkin & Lippert, Notes on Regularized Least Squares, 2007, section 4.
        """
        factor = _factor(self.embeddings, self.bandwidth, self.ridge)
        diagonal = np.diag(scipy.linalg.cho_solve(factor, np.eye(len(self.keys))))
        left: Array = self.targets - self.duals / diagonal[:, None]
        return left

    def coefficients(self, embeddings: Array) -> Array:
        """Expresses predictions as averages of the landmarks: `predict` is C @ targets, and the rows of C sum to 1.

        C also propagates matrices over pairs of examples, as C Q_L Cᵀ. Use it for a shortlist, because C is
        n × num_landmarks.

        Returns:
          C, float64 [n, num_landmarks], with columns in the order of `self.keys`.
        """
        factor = _factor(self.embeddings, self.bandwidth, self.ridge)
        self._check(embeddings, None)
        weights = np.empty((len(embeddings), len(self.keys)))
        landmarks = self.embeddings.astype(np.float64)
        step = max(1, _CHUNK_ENTRIES // len(landmarks))
        for start in range(0, len(embeddings), step):
            points = embeddings[start : start + step].astype(np.float64)
            kernel = _kernel(points, landmarks, self.bandwidth)
            weights[start : start + step] = scipy.linalg.cho_solve(factor, kernel.T).T
        # The mean added back is also an average of the landmarks; it makes up the rest of each row.
        weights += (1 - weights.sum(axis=1, keepdims=True)) / len(self.keys)
        return weights

    def to_bytes(self) -> bytes:
        """Writes the regression as an npz file."""
        return archives.dump(**dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "KernelRidge":
        """Reads what `to_bytes` wrote."""
        arrays = archives.parse(raw)
        bandwidth, ridge = float(arrays.pop("bandwidth")), float(arrays.pop("ridge"))
        return cls(**arrays, bandwidth=bandwidth, ridge=ridge)

    @functools.cached_property
    def _padded(self) -> _Padded:
        (num, dim), num_targets = self.embeddings.shape, self.targets.shape[1]
        dtype = np.float32 if self.ridge >= _LEAST_SINGLE_RIDGE else np.float64
        landmarks = self.embeddings.astype(np.float64)
        # Distances do not change with the center, but smaller coordinates lose less in single precision.
        center = landmarks.mean(axis=0)
        scaled = np.zeros((_padded_to(num), dim), dtype)
        scaled[:num] = (landmarks - center) / self.bandwidth**2
        offsets = np.einsum("md,md->m", scaled, scaled) * dtype(self.bandwidth**2 / 2)
        duals = np.zeros((_padded_to(num_targets), len(scaled)))
        duals[:num_targets, :num] = self.duals.T
        return _Padded(center, scaled, offsets, duals)

    def _kernels(self, points: Array) -> Array:
        """Computes the kernel of centered points, [m, points, dim]: float64 [m, padded, points]."""
        padded = self._padded
        # -d² / 2h² = (2 x·y - ||x||² - ||y||²) / 2h², in place; rounding must not make it positive.
        exponents: Array = padded.scaled @ points.swapaxes(1, 2)
        norms = np.einsum("mpd,mpd->mp", points, points)
        exponents -= (norms * points.dtype.type(0.5 / self.bandwidth**2))[:, None]
        exponents -= padded.offsets[:, None]
        np.minimum(exponents, 0, out=exponents)
        kernel: Array = np.exp(exponents, out=exponents).astype(np.float64, copy=False)
        return kernel

    def _check(self, embeddings: Array, keys: Array | None) -> None:
        if np.ndim(embeddings) != 2 or embeddings.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"embeddings have shape {np.shape(embeddings)} but the landmarks' dimension is "
                f"{self.embeddings.shape[1]}; were they made by another embedder?"
            )
        refuse_not_finite(embeddings, "embeddings", keys)


def _padded_to(num: int) -> int:
    return -(-num // _MULTIPLE) * _MULTIPLE


def median_distance(embeddings: Array, keys: Array, seed: int) -> float:
    """Finds the median distance between distinct examples, of at most 1,000 drawn by hash.

    Pairs at distance 0 are left out, because many duplicates would make the bandwidth 0. If no two examples differ, the result
    is 1: the centered regression then predicts the mean at any bandwidth.
    """
    drawn = np.argsort(seeding.mix(seed, "bandwidth", keys))[:_BANDWIDTH_LANDMARKS]
    points = np.asarray(embeddings)[drawn].astype(np.float64)
    squared = _squared_distances(points, points)[np.triu_indices(len(points), k=1)]
    # ||x||² + ||y||² - 2xy of equal points is a rounding error rather than 0.
    noise = 1e-12 * np.einsum("nd,nd->n", points, points).max()
    distinct = squared[squared > noise]
    return float(np.sqrt(np.median(distinct))) if distinct.size else 1.0


def _squared_distances(a: Array, b: Array) -> Array:
    squared: Array = a @ b.T
    squared *= -2
    squared += np.einsum("nd,nd->n", a, a)[:, None]
    squared += np.einsum("md,md->m", b, b)
    np.maximum(squared, 0, out=squared)
    return squared


def _kernel(a: Array, b: Array, bandwidth: float) -> Array:
    squared = _squared_distances(a, b)
    squared *= -0.5 / bandwidth**2
    kernel: Array = np.exp(squared, out=squared)
    return kernel


def _factor(embeddings: Array, bandwidth: float, ridge: float) -> tuple[Array, bool]:
    points = embeddings.astype(np.float64)
    kernel = _kernel(points, points, bandwidth)
    # Set, not added: the computed distance of a point to itself is a rounding error rather than 0.
    np.fill_diagonal(kernel, 1 + ridge)
    try:
        factor: tuple[Array, bool] = scipy.linalg.cho_factor(kernel, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"the kernel of {len(points)} landmarks is singular with ridge {ridge}: some are duplicates or nearly so; "
            "use a larger ridge"
        ) from error
    return factor


def _check_landmarks(
    embeddings: Array, targets: Array, keys: Array, ridge: float, bandwidth: float | None
) -> None:
    if np.ndim(embeddings) != 2 or np.ndim(targets) != 2:
        raise ValueError(
            "embeddings and targets must be [num_landmarks, dim] and [num_landmarks, num_targets], got shapes "
            f"{np.shape(embeddings)} and {np.shape(targets)}"
        )
    if not len(keys):
        raise ValueError("there are no landmarks to predict from")
    refuse_other_lengths(len(keys), embeddings=embeddings, targets=targets)
    if len(np.unique(keys)) != len(keys):
        raise ValueError("a landmark comes twice: keys must be distinct")
    if ridge < 0 or (bandwidth is not None and bandwidth <= 0):
        raise ValueError(
            f"ridge must be at least 0 and bandwidth positive, got {ridge} and {bandwidth}"
        )
    refuse_not_finite(embeddings, "embeddings of landmarks", keys)
    refuse_not_finite(targets, "targets of landmarks", keys)
