"""Named arrays to bytes and back: what small artifacts of arrays are kept as."""

import io
from typing import Any

import numpy as np


def dump(**arrays: Any) -> bytes:
    """Writes arrays and numbers by name, as an npz archive without pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def parse(raw: bytes) -> dict[str, Any]:
    """Reads what `dump` wrote, numbers as arrays of no dimension."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
