"""Compressed streams: many members or frames, and an error where the stream ends early."""

import contextlib
import lzma
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

# What a file starts with, by the codec that its last extension names; (skippable) zstd frames start otherwise too.
SIGNATURES = {
    "gz": (b"\x1f\x8b",),
    "zst": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))),
    "bz2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
}
_ARROW_CODECS = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}


def codec_of(path: str) -> str | None:
    """Gives the codec that a path's extension names, a key of `SIGNATURES`; None for none."""
    extension = path.rsplit(".", 1)[-1].lower()
    return extension if extension in SIGNATURES else None


def signature_of(head: bytes) -> str | None:
    """Gives the codec whose files start with these bytes; None for none."""
    return next((codec for codec, starts in SIGNATURES.items() if head.startswith(starts)), None)


@contextlib.contextmanager
def decompressing(raw: BinaryIO, codec: str | None) -> Iterator[BinaryIO]:
    """Gives the decompressed bytes of an open file, read piece by piece.

    Unlike those of the standard library and of `zstandard`, Arrow's streams go on after the first member or frame and
    raise where the last one is not complete.
    """
    if codec is None:
        yield raw
    elif codec == "xz":
        with lzma.open(raw) as stream:
            yield stream  # type: ignore[misc]
    else:
        with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), _ARROW_CODECS[codec]) as stream:
            yield stream
