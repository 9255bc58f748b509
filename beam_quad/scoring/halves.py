"""Split-half reliability of a query group: the rank correlation of scores under two halves of its texts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad import seeding

HALVES = (0, 1)


def deal_halves(texts: Sequence[str], part: int) -> list[list[str]]:
    """Splits texts into halves by alternating in the order of their hashes.

    Args:
      texts: The texts of a part of a query group.
      part: Number of the part. Odd parts begin with the second half, so that parts of a single text also alternate.

    Returns:
      The texts of each half.
    """
    order = seeding.lowest(0, "query half", seeding.keys(texts))
    dealt = [[texts[int(i)] for i in order[half::2]] for half in HALVES]
    return dealt if part % 2 == 0 else dealt[::-1]


def half_shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Computes the share of texts in each half.

    Args:
      counts: Number of texts of each half by name.

    Returns:
      The shares of the nonempty halves, which sum to 1.
    """
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items() if count}


def agreement(left: np.ndarray, right: np.ndarray) -> float | None:
    """Computes Spearman's rank correlation of two columns, float [n], over the rows finite in both.

    Returns:
      In [-1, 1]; None if a column does not vary.
    """
    finite = np.isfinite(left) & np.isfinite(right)
    value = rank_correlation(left[finite], right[finite])
    return value if math.isfinite(value) else None


def halves_agreement(
    targets: Mapping[str, Mapping[str, Any]], scores: np.ndarray
) -> dict[str, float | None]:
    """Compares the scores under the halves of each target's texts.

    Args:
      targets: Description of each target by name, with `halves`, the names of its halves that have a vector.
      scores: Scores under all these halves, in the same order, float64 [n, num_halves].

    Returns:
      The rank correlation by target; None if a half has no text or its scores do not vary.
    """
    names = [half for target in targets.values() for half in target["halves"]]
    under = dict(zip(names, scores.T, strict=True))
    return {
        name: agreement(*(under[half] for half in target["halves"]))
        if len(target["halves"]) == len(HALVES)
        else None
        for name, target in targets.items()
    }


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Computes Spearman's rank correlation of two columns, with ties at their mean rank; nan if a column does not vary."""
    # Imported here because the import takes seconds and a launcher never calls this function.
    from scipy import stats

    if len(left) < 2 or not (np.ptp(left) > 0 and np.ptp(right) > 0):
        return math.nan
    return float(stats.spearmanr(left, right).statistic)
