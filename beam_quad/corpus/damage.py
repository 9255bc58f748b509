"""Telling a damaged file from a failing disk or network."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from beam_quad.errors import BadFileError

# What other files start with, and what to do about it where that helps.
_BINARY = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow IPC",
    b"FEA1": "Feather of version 1 (write it anew with pyarrow.feather)",
    b"Obj\x01": "Avro",
    b"PK\x03\x04": "a zip archive (unpack it)",
    b"SQLite format 3": "SQLite",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x00\x00\xfe\xff": "UTF-32 (convert it with iconv -t UTF-8)",
    b"\xff\xfe": "UTF-16 (convert it with iconv -t UTF-8)",
    b"\xfe\xff": "UTF-16 (convert it with iconv -t UTF-8)",
}
_TEXT = {
    b"version https://git-lfs": "a pointer of git-lfs (run git lfs pull)",
    b"%PDF": "PDF",
    b"<": "HTML or XML, perhaps the page of an error (fetch the file again)",
}
_NOT_THE_BYTES = (pa.ArrowMemoryError, pa.ArrowCancelled, pa.ArrowNotImplementedError)


def is_damage(error: BaseException) -> bool:
    """Tells whether an error, raised while decoding, speaks of the bytes and not of the way they came.

    Arrow and `compression` raise a bare OSError without a number for data that they cannot decode; the errors of disks carry a
    number and those of network clients are subclasses. Taking those for damage would let `--on_bad_file=reject` leave out a good file.
    """
    if isinstance(error, _NOT_THE_BYTES):
        return False
    if isinstance(error, (pa.ArrowException, EOFError)):
        return True
    return type(error) is OSError and error.errno is None


def is_truncation(error: BaseException) -> bool:
    """Tells whether a compressed stream was good as far as it went."""
    return isinstance(error, EOFError)


def kind_of(head: bytes) -> str | None:
    """Says what a file is that starts with these bytes, and what to do about it; None where that is not known."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return binary_kind(head) or _starting(text, _TEXT)


def binary_kind(head: bytes) -> str | None:
    """Says the same of files that hold no text in UTF-8."""
    return _starting(head, _BINARY)


def _starting(head: bytes, kinds: dict[bytes, str]) -> str | None:
    return next((kind for start, kind in kinds.items() if head.startswith(start)), None)


def one_line(error: BaseException) -> str:
    """Gives the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns an error that speaks of a file's bytes into one that names the file.

    Raises:
      BadFileError: Where the block raises such an error; every other passes.
    """
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise BadFileError(path, one_line(error)) from error
