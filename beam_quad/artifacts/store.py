"""What is asked of whatever holds files, and what all but disks answer alike."""

import abc
import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from beam_quad.artifacts.patterns import Search
from beam_quad.errors import BeamQuadError, UsageError

# The version of what is not there.
ABSENT = ""
TEMPORARY_PREFIX = ".tmp-"
_REMEDIES = {
    "gs": "log in with `gcloud auth application-default login`, and be given the role Storage Object User",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; listing, reading, writing and "
    "deleting must be allowed",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a token; be given the role Storage "
    "Blob Data Contributor",
    "hf": "log in with `hf auth login`, or set HF_TOKEN, to an account that has access",
}
_REMEDIES |= {"s3a": _REMEDIES["s3"], "abfs": _REMEDIES["az"], "abfss": _REMEDIES["az"]}
# What clients raise where there is no such file, and where the user has no right to it.
_NOTHING = ("FileNotFoundError", "NotFound")
_DENIED = ("PermissionError", "PermissionDeniedError", "UnauthenticatedError", "GoogleAuthError")
# What stores say of a bucket or container that is not there, beside 404.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "FilesystemNotFound")
# Whose errors are those of a store or a network.
_CLIENTS = ("aiohttp", "botocore", "google", "httpx", "httpx2", "obstore", "requests", "urllib3")


class Stat(NamedTuple):
    """What is known of a file without reading it.

    Attributes:
      size_bytes: Its size.
      modified_s: Modification time, in seconds since 1970; 0 where none is told.
      checksum: Changes with the content, and with nothing else where the store computes it of the content; empty
        where there is none.
    """

    size_bytes: int
    modified_s: float
    checksum: str = ""


class Store(abc.ABC):
    """A disk, or an object store; a path is absolute, or a URL.

    A file that is not there raises FileNotFoundError, unless said otherwise.
    """

    @abc.abstractmethod
    def stat(self, path: str) -> Stat | None:
        """Describes a file by one request; None where there is none."""

    @abc.abstractmethod
    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        """Lists at least what is searched for, an object store by one request for each thousand or so.

        If there is a list for hidden files, those need not be given, and what is left out of them is added to it.
        """

    @abc.abstractmethod
    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        """Opens a file for reading, as it is stored; at least `buffer_bytes` are fetched at a time."""

    @abc.abstractmethod
    def read(self, path: str) -> tuple[bytes, str]:
        """Reads a whole file, with the version that `put` and `delete` take."""

    def spool(self, path: str) -> contextlib.AbstractContextManager[Any]:
        """Gives a file of this machine for what `put` is to store; it is gone after the block."""
        return tempfile.NamedTemporaryFile()

    @abc.abstractmethod
    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        """Stores a file under its name, whole, if that is what it was.

        Args:
          path: The name.
          spooled: What `spool` gave, written to its end.
          over: The version that may be replaced: of `read`, `ABSENT`, or None for any.

        Returns:
          Whether it was stored.
        """

    def copy(self, source: str, target: str) -> bool:
        """Has the store copy a file, if it can: then no byte of it comes here."""
        return False

    @abc.abstractmethod
    def delete(self, path: str, over: str | None = None) -> None:
        """Deletes a file, of any version or if it is of this one; if it is not there is no error."""


def scheme_of(path: str) -> str:
    """Gives the scheme of a URL; empty for a local path."""
    return path.partition("://")[0] if "://" in path else ""


def bucket_of(path: str) -> tuple[str, str]:
    """Splits a URL into what holds its objects, and the name there."""
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


class Ranges(io.RawIOBase):
    """A file of which each read is a request.

    Args:
      path: Its URL.
      size_bytes: Its size.
      fetch: Reads it from one byte to before another.
    """

    def __init__(self, path: str, size_bytes: int, fetch: Callable[[int, int], Any]) -> None:
        self._path, self._size_bytes, self._fetch = path, size_bytes, fetch
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self._size_bytes)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        # By one request: a raw file would ask for 8 kB at a time.
        return bytes(self._next(self._size_bytes))

    def _next(self, size_bytes: int) -> memoryview:
        start, end = self._at, min(self._at + size_bytes, self._size_bytes)
        if start >= end:
            return memoryview(b"")
        with explained(self._path):
            data = memoryview(self._fetch(start, end))
        self._at += len(data)
        return data


@contextlib.contextmanager
def explained(path: str, needs_bucket: bool = False) -> Iterator[None]:
    """Says in one line what a store's client raises of a path, and what to do.

    Args:
      path: What is asked for.
      needs_bucket: Whether what is not there can only be the bucket.
    """
    try:
        yield
    except BeamQuadError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        kinds = {kind.__name__ for kind in type(error).__mro__}
        is_absent = not kinds.isdisjoint(_NOTHING)
        if (is_absent and needs_bucket) or any(name in words for name in _NO_BUCKET):
            words = "there is no such bucket; check the name, or make it"
            raise UsageError(f"{bucket_of(path)[0]}: {words}") from error
        if is_absent:
            raise FileNotFoundError(errno.ENOENT, "not found", path) from error
        if not kinds.isdisjoint(_DENIED) or _status_of(error) in (401, 403):
            remedy = _REMEDIES.get(scheme_of(path), "check what this user may do")
            raise UsageError(f"{path}: access denied ({_short(words)}); {remedy}") from error
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS:
            raise BeamQuadError(
                f"{path}: the store does not answer as it should ({_short(words)}); check the network and "
                "the address of the store, and run the same command to go on"
            ) from error
        raise


def _status_of(error: Exception) -> int | None:
    """Gives the HTTP status behind an error, which clients keep in different places."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status or getattr(error, "code", None)


def _short(words: str) -> str:
    return words if len(words) <= 160 else words[:159] + "…"
