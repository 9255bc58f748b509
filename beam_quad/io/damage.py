"""Telling a damaged file from a failing disk or network."""

import contextlib
import lzma
from collections.abc import Iterator

import pyarrow as pa

from beam_quad.errors import BadFileError

_NOT_THE_BYTES = (pa.ArrowMemoryError, pa.ArrowCancelled, pa.ArrowNotImplementedError)


def is_damage(error: BaseException) -> bool:
    """Tells whether an error, raised while decoding, speaks of the bytes and not of the way they came.

    Arrow raises a bare OSError without a number for data that it cannot decode; the errors of disks carry a number and those
    of network clients are subclasses. Taking those for damage would let `--on_bad_file=reject` leave out a good file.
    """
    if isinstance(error, _NOT_THE_BYTES):
        return False
    if isinstance(error, (pa.ArrowException, EOFError, lzma.LZMAError)):
        return True
    return type(error) is OSError and error.errno is None


def is_truncation(error: BaseException) -> bool:
    """Tells whether a compressed stream was good as far as it went."""
    return isinstance(error, EOFError) or "runcated" in str(error)


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
