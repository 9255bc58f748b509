"""What a selection before this one took stays: its rows come first in whatever ranking follows."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_HELD = np.uint64(1 << 63)
_HIGHEST = np.uint64((1 << 64) - 1)


def held_first(packed: Array, is_held: Array, keeps_all: bool) -> Array:
    """Puts the rows that are held before all others, in either part in the order of their priorities.

    The highest bit tells the parts apart, for which priorities lose their lowest, one of 32 that decide between equal ranks.

    Args:
      packed: Priorities, uint64 [n], 0 for rows that cannot be selected anew.
      is_held: Which rows are held, and usable still, bool [n].
      keeps_all: Whether the budget is no smaller than the one that they were selected for. Then they all have one
        priority, of which a cut takes all or nothing: a budget that one document overshot loses none of them.

    Returns:
      uint64 [n].
    """
    # What can be selected keeps a priority above 0.
    lower = np.maximum(packed >> np.uint64(1), (packed > 0).astype(np.uint64))
    first = _HIGHEST if keeps_all else _HELD | lower
    return np.asarray(np.where(is_held, first, lower))
