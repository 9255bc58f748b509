"""Compressed streams with several members or frames and padding; a truncated stream is an error."""

import bz2
import contextlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

# First bytes of a file by codec; skippable zstd frames have other signatures.
SIGNATURES = {
    "gz": (b"\x1f\x8b",),
    "zst": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))),
    "bz2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
}
EXTENSIONS = {"gz": "gz", "gzip": "gz", "zst": "zst", "zstd": "zst", "bz2": "bz2", "xz": "xz"}
# Windows of 2 GB, for files of `zstd --long=31`; zstd and Arrow by default stop at 128 MB.
_ZSTD_WINDOW_BYTES = 1 << 31
# Decoders of single members; each reports when the member ends and which bytes follow.
_DECODERS: dict[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(wbits=31),
    "zst": lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj(),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}
_READ_BYTES = 64 << 10


def codec_of(path: str) -> str | None:
    """Returns the codec of a path's extension, a key of `SIGNATURES`; None if it names no codec."""
    ending = path.rsplit(".", 1)[-1].lower()
    return "gz" if ending == "tgz" else EXTENSIONS.get(ending)


def signature_of(head: bytes) -> str | None:
    """Returns the codec whose files start with these bytes; None if there is no such codec."""
    return next((codec for codec, starts in SIGNATURES.items() if head.startswith(starts)), None)


@contextlib.contextmanager
def decompressing(raw: BinaryIO, codec: str | None) -> Iterator[BinaryIO]:
    """Yields a stream of the decompressed bytes of an open file, decompressed incrementally.

    The readers of the standard library, `zstandard` and Arrow each fail on some of: several members, trailing zeros,
    truncation, and long windows.
    """
    yield raw if codec is None else _Decompressed(raw, codec)  # type: ignore[misc]


class _Decompressed:
    """Reads all members of a compressed file, up to its end or the zeros with which tapes and disks pad it."""

    def __init__(self, raw: BinaryIO, codec: str) -> None:
        self._pieces = _pieces(raw, codec)
        self._piece = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes; empty at the end."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = memoryview(piece)
        result, self._piece = bytes(self._piece[:size]), self._piece[size:]
        return result


def _pieces(raw: BinaryIO, codec: str) -> Iterator[bytes]:
    """Decompresses member after member.

    Raises:
      EOFError: If the last member is truncated.
      OSError: Without an errno, if the data cannot be decompressed.
    """
    decoder = None
    while stored := raw.read(_READ_BYTES):
        while stored:
            if decoder is None:
                stored = stored.lstrip(b"\0")
                if not stored:
                    break
                decoder = _DECODERS[codec]()
            try:
                piece = decoder.decompress(stored)
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError) as error:
                # Decoders report a lack of memory as their own error; as damage it would reject a good file.
                if "memory" in str(error):
                    raise MemoryError(f"{codec}: {error}") from error
                raise OSError(f"{codec} data cannot be decompressed: {error}") from error
            yield piece
            stored, decoder = (decoder.unused_data, None) if decoder.eof else (b"", decoder)
    if decoder is not None:
        raise EOFError(f"truncated {codec} stream")
