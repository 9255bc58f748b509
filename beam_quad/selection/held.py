"""Ranks some rows before all others: those selected earlier, then new rows; or those that a bandit accepted."""

from typing import Any

import numpy as np

from beam_quad import seeding

Array = np.ndarray[Any, np.dtype[Any]]

_PARTS = np.uint64(62)
_HELD = np.uint64(1 << 63)
_PREFERRED = np.uint64(1 << 62)
_HIGHEST = np.uint64((1 << 64) - 1)


def held_first(packed: Array, is_held: Array, is_preferred: Array, keeps_all: bool) -> Array:
    """Puts held rows before preferred rows, and both before all others.

    Each part keeps the order of its priorities. The two highest bits name the part; priorities lose their two lowest
    bits, of the 32 that break ties.

    Args:
      packed: Priorities, uint64 [n], 0 for rows not selectable now.
      is_held: Rows selected before and still usable, bool [n].
      is_preferred: Rows that come next, bool [n]; priority 0 is ignored.
      keeps_all: Whether the budget is no smaller than that of the earlier selection. If so, all held rows get one
        priority, which a cut takes whole: if the earlier selection overshot its budget by a document, no held row is
        lost.

    Returns:
      uint64 [n].
    """
    # The shift must not turn the priority of a selectable row into 0.
    lower = np.maximum(packed >> np.uint64(2), (packed > 0).astype(np.uint64))
    first = _HIGHEST if keeps_all else _HELD | lower
    others = np.where(is_preferred & (packed > 0), _PREFERRED | lower, lower)
    return np.asarray(np.where(is_held, first, others))


def accepted_first(packed: Array, is_accepted: Array, fills_up: bool) -> Array:
    """Puts the rows that a bandit accepted before all others.

    Args:
      packed: Priorities, uint64 [n].
      is_accepted: Which rows these are, bool [n]; they are selectable whatever their priority.
      fills_up: Whether other rows may take the place of near-duplicates; otherwise they get priority 0.

    Returns:
      uint64 [n].
    """
    others = packed if fills_up else np.zeros_like(packed)
    nothing = np.zeros(len(packed), bool)
    return held_first(np.where(is_accepted, packed, others), is_accepted, nothing, keeps_all=False)


def ranks_and_cuts(packed: Array, floor: Array, has_parts: bool) -> tuple[Array, Array]:
    """Reads the ranks that priorities were packed from, and the rank at which the budget ends for each row.

    Args:
      packed: Priorities, uint64 [n], 0 for rows that cannot be selected.
      floor: The lowest selected priority, common or per row, uint64 [1] or [n].
      has_parts: Whether the priorities are those of `held_first` or `accepted_first`.

    Returns:
      Ranks and cuts, float64 [n], in the precision of the comparison, float32; nan for a row that cannot be selected. A cut
      is nan too if nothing ends there, or if it ends in another part than that of the row, whose ranks are not compared.
    """
    floor = np.broadcast_to(floor, packed.shape)
    is_ranked = packed > 0
    is_compared = is_ranked
    if has_parts:
        is_compared = is_ranked & (packed >> _PARTS == floor >> _PARTS)
        packed, floor = (own << np.uint64(2) for own in (packed, floor))
    ranks, cuts = (
        seeding.ranks_of_bits((own >> np.uint64(32)).astype(np.uint32)).astype(np.float64)
        for own in (packed, floor)
    )
    return np.where(is_ranked, ranks, np.nan), np.where(is_compared, cuts, np.nan)
