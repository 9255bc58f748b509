"""Combination of several query groups into one score, weighted by each group's weight over the spread of its scores."""

from collections.abc import Sequence

import numpy as np


def standardised_weights(weights: Sequence[float], scores: np.ndarray) -> np.ndarray:
    """Divides each group's weight by the standard deviation of its scores.

    Args:
      weights: Relative weight of each group.
      scores: Sample of the scores under each group, float64 [n, num_groups]; examples with a non-finite score are left out.

    Returns:
      Float64 [num_groups]. If a group's scores do not vary, or there are fewer than two examples, the weight is unchanged.
    """
    finite = scores[np.isfinite(scores).all(axis=1)]
    deviation = finite.std(axis=0) if len(finite) > 1 else np.ones(scores.shape[1])
    return np.asarray(weights) / np.where(deviation > 0, deviation, 1.0)


def combine_standardised(scores: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Combines all scores of a sample, float64 [n, num_groups] to float64 [n]; those of a single group stay as they are."""
    if scores.shape[1] == 1:
        return np.asarray(scores[:, 0])
    return combine_scores(scores, standardised_weights(weights, scores))


def combine_scores(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes the weighted sum of scores under each group, float64 [n, num_groups] to float64 [n]; nan if not finite."""
    combined = scores @ weights
    return np.where(np.isfinite(combined), combined, np.nan)
