"""Named arrays as the bytes of an npz file, without pickles; equal arrays give equal bytes."""

import io

import numpy as np


def dump(arrays: dict[str, np.ndarray]) -> bytes:
    """Writes named arrays to bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def load(raw: bytes) -> dict[str, np.ndarray]:
    """Reads named arrays from bytes that `dump` wrote."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
