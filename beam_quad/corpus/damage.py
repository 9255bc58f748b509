"""Tells damaged files from failing disks and networks."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from beam_quad.errors import BadFileError

# First bytes of other kinds of files, with a remedy if there is one.
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
# Arrow's errors about this process or this version of Arrow, not about a file.
_NOT_THE_BYTES = (pa.ArrowMemoryError, pa.ArrowCancelled, pa.ArrowNotImplementedError)


def is_damage(error: BaseException) -> bool:
    """Tells whether an error raised during decoding is about the bytes themselves, not about fetching them.

    For undecodable data Arrow and `compression` raise a plain OSError without an errno. Errors of disks have an errno, and
    errors of network clients are subclasses; if they counted as damage, `--on_bad_file=reject` would leave out good files.
    """
    if isinstance(error, _NOT_THE_BYTES):
        return False
    if isinstance(error, (pa.ArrowException, EOFError)):
        return True
    return type(error) is OSError and error.errno is None


def is_truncation(error: BaseException) -> bool:
    """Tells whether a compressed stream is intact but truncated."""
    return isinstance(error, EOFError)


def kind_of(head: bytes) -> str | None:
    """Names the kind of file that starts with these bytes, with a remedy; None if it is unknown."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return binary_kind(head) or _starting(text, _TEXT)


def binary_kind(head: bytes) -> str | None:
    """Does the same as `kind_of` for files that are not UTF-8 text."""
    return _starting(head, _BINARY)


def _starting(head: bytes, kinds: dict[bytes, str]) -> str | None:
    return next((kind for start, kind in kinds.items() if head.startswith(start)), None)


def one_line(error: BaseException) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns an error about a file's bytes into one that names the file.

    Raises:
      BadFileError: If the block raises such an error; other errors pass through.
    """
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise BadFileError(path, one_line(error)) from error
