"""Named arrays to bytes and back, the format of small artifacts of arrays."""

import io
from typing import Any

import numpy as np


def dump(**arrays: Any) -> bytes:
    """Writes arrays and numbers by name, as an npz archive without pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def parse(raw: bytes) -> dict[str, Any]:
    """Reads the bytes of `dump`; numbers become arrays of dimension 0."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
