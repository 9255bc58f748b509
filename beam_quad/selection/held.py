"""What a selection before this one took stays, and what is new comes before a reading of old shards for a few rows."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_HELD = np.uint64(1 << 63)
_PREFERRED = np.uint64(1 << 62)
_HIGHEST = np.uint64((1 << 64) - 1)


def held_first(packed: Array, is_held: Array, is_preferred: Array, keeps_all: bool) -> Array:
    """Puts the rows that are held before those that are preferred, and both before all others.

    Each part is in the order of its priorities. The two highest bits tell the parts apart, for which priorities lose their two
    lowest, of 32 that decide between equal ranks.

    Args:
      packed: Priorities, uint64 [n], 0 for rows that cannot be selected anew.
      is_held: Which rows were selected before, and are usable still, bool [n].
      is_preferred: Which of the others come next, bool [n]; not those of priority 0.
      keeps_all: Whether the budget is no smaller than the one that they were selected for. Then they all have one
        priority, of which a cut takes all or nothing: a budget that one document overshot loses none of them.

    Returns:
      uint64 [n].
    """
    # What can be selected keeps a priority above 0.
    lower = np.maximum(packed >> np.uint64(2), (packed > 0).astype(np.uint64))
    first = _HIGHEST if keeps_all else _HELD | lower
    others = np.where(is_preferred & (packed > 0), _PREFERRED | lower, lower)
    return np.asarray(np.where(is_held, first, others))
