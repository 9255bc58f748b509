"""Input checks of distillation: finite values and equal lengths, with the bad rows named in the error."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_NAMED = 5


def refuse_not_finite(values: Array, what: str, keys: Array | None = None) -> None:
    """Refuses nan and infinity.

    Args:
      values: Float [n] or [n, m].
      what: Name of the values, for the message.
      keys: Keys of the rows (`seeding.keys`), uint64 [n], by which the message names them; None names positions.

    Raises:
      ValueError: If a value is not finite; names the first such rows.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    bad = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
    shown = [str(i) if keys is None else f"{i} (key {int(keys[i]):#018x})" for i in bad[:_NAMED]]
    more = f" and {bad.size - _NAMED} more" if bad.size > _NAMED else ""
    raise ValueError(
        f"{what} must be finite, but those of rows {', '.join(shown)}{more} are not; "
        "an example without a loss token must be rejected before it gets here"
    )


def refuse_other_lengths(expected: int, **arrays: Array) -> None:
    """Raises ValueError if an array does not have `expected` rows; the message names the array."""
    for name, array in arrays.items():
        if len(array) != expected:
            raise ValueError(f"{name} must have {expected} rows, got {len(array)}")
