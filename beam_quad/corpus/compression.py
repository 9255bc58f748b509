"""Compressed streams: many members or frames, padding, and an error where the stream ends early."""

import bz2
import contextlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

# What a file starts with, by codec; (skippable) zstd frames start otherwise too.
SIGNATURES = {
    "gz": (b"\x1f\x8b",),
    "zst": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))),
    "bz2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
}
EXTENSIONS = {"gz": "gz", "gzip": "gz", "zst": "zst", "zstd": "zst", "bz2": "bz2", "xz": "xz"}
# Windows of 2 GB, as `zstd --long=31` makes them; its default, and that of Arrow, ends at 128 MB.
_ZSTD_WINDOW_BYTES = 1 << 31
# Decoders of one member each, that say when it has ended and what follows it.
_DECODERS: dict[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(wbits=31),
    "zst": lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj(),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}
_READ_BYTES = 64 << 10


def codec_of(path: str) -> str | None:
    """Gives the codec that a path's extension names, a key of `SIGNATURES`; None for none."""
    ending = path.rsplit(".", 1)[-1].lower()
    return "gz" if ending == "tgz" else EXTENSIONS.get(ending)


def signature_of(head: bytes) -> str | None:
    """Gives the codec whose files start with these bytes; None for none."""
    return next((codec for codec, starts in SIGNATURES.items() if head.startswith(starts)), None)


@contextlib.contextmanager
def decompressing(raw: BinaryIO, codec: str | None) -> Iterator[BinaryIO]:
    """Gives the decompressed bytes of an open file, read piece by piece.

    The streams of the standard library, of `zstandard` and of Arrow each fail at one of: several members, zeros at the
    end, an end that comes early, long windows.
    """
    yield raw if codec is None else _Decompressed(raw, codec)  # type: ignore[misc]


class _Decompressed:
    """Reads all members of a compressed file, up to its end or to zeros that pad it, as tapes and disks do."""

    def __init__(self, raw: BinaryIO, codec: str) -> None:
        self._pieces = _pieces(raw, codec)
        self._piece = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes, none at the end."""
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
      EOFError: If the last member is not whole.
      OSError: Without a number, if what is there cannot be decompressed.
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
                if "memory" in str(error):
                    raise MemoryError(f"{codec}: {error}") from error
                raise OSError(f"{codec} data cannot be decompressed: {error}") from error
            yield piece
            stored, decoder = (decoder.unused_data, None) if decoder.eof else (b"", decoder)
    if decoder is not None:
        raise EOFError(f"truncated {codec} stream")
