"""The interface of stores of files, and the parts that all object stores share."""

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

# The version of a file that does not exist.
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
# Errors that clients raise for missing files, and for files without permission.
_NOTHING = ("FileNotFoundError", "NotFound")
_DENIED = ("PermissionError", "PermissionDeniedError", "UnauthenticatedError", "GoogleAuthError")
# Error codes of stores for a missing bucket or container, besides 404.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "FilesystemNotFound")
# Packages whose errors come from a store or a network.
_CLIENTS = ("aiohttp", "botocore", "google", "httpx", "httpx2", "obstore", "requests", "urllib3")


class Stat(NamedTuple):
    """A file as described without reading it.

    Attributes:
      size_bytes: Its size.
      modified_s: Modification time, in seconds since 1970; 0 if the store gives none.
      checksum: Changes when the content does, and only then if the store computes it from the content; empty if the store
        gives none.
    """

    size_bytes: int
    modified_s: float
    checksum: str = ""


class Store(abc.ABC):
    """A disk or an object store; paths are absolute or URLs.

    Methods raise FileNotFoundError for a missing file unless they say otherwise.
    """

    @abc.abstractmethod
    def stat(self, path: str) -> Stat | None:
        """Describes a file by one request; None if it does not exist."""

    @abc.abstractmethod
    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        """Lists at least the files of a search; an object store needs one request per thousand or so.

        If `hidden` is a list, hidden files may be left out, and those left out are added to it.
        """

    @abc.abstractmethod
    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        """Opens a file for reading its stored bytes, fetching at least `buffer_bytes` at a time."""

    @abc.abstractmethod
    def read(self, path: str) -> tuple[bytes, str]:
        """Reads a whole file and its version, for `put` and `delete`."""

    def spool(self, path: str) -> contextlib.AbstractContextManager[Any]:
        """Yields a local temporary file for the content of `put`; it is deleted after the block."""
        return tempfile.NamedTemporaryFile()

    @abc.abstractmethod
    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        """Stores a complete file under a name if the name still has the version `over`.

        Args:
          path: The name.
          spooled: The file of `spool`, positioned at its end.
          over: The version that may be replaced: one from `read`, `ABSENT`, or None for any.

        Returns:
          Whether it was stored.
        """

    def copy(self, source: str, target: str) -> bool:
        """Copies a file within the store, without a download; returns whether the store can."""
        return False

    @abc.abstractmethod
    def delete(self, path: str, over: str | None = None) -> None:
        """Deletes a file, of any version or only of version `over`; a missing file is not an error."""


def scheme_of(path: str) -> str:
    """Returns the scheme of a URL; empty for a local path."""
    return path.partition("://")[0] if "://" in path else ""


def bucket_of(path: str) -> tuple[str, str]:
    """Splits a URL into its bucket or container and the object's name."""
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


class Ranges(io.RawIOBase):
    """A file in which each read is a request.

    Args:
      path: The file's URL.
      size_bytes: The file's size.
      fetch: Reads the bytes from a start to an end, which is excluded.
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
        # One request; the base class would read 8 kB at a time.
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
    """Turns the errors of a store's client into one line about the path, with a remedy.

    Args:
      path: The requested path.
      needs_bucket: Whether only the bucket can be missing.
    """
    try:
        yield
    except BeamQuadError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        kinds = {kind.__name__ for kind in type(error).__mro__}
        is_absent = not kinds.isdisjoint(_NOTHING)
        # Clients report a missing bucket as a missing object; only the request tells which it can be.
        if (is_absent and needs_bucket) or any(name in words for name in _NO_BUCKET):
            words = "there is no such bucket; check the name, or make it"
            raise UsageError(f"{bucket_of(path)[0]}: {words}") from error
        if is_absent:
            raise FileNotFoundError(errno.ENOENT, "not found", path) from error
        if not kinds.isdisjoint(_DENIED) or _status_of(error) in (401, 403):
            remedy = _REMEDIES.get(scheme_of(path), "check what this user may do")
            raise UsageError(f"{path}: access denied ({_short(words)}); {remedy}") from error
        # Any other error is a bug of ours and keeps its traceback.
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS:
            raise BeamQuadError(
                f"{path}: the store does not answer as it should ({_short(words)}); check the network and "
                "the address of the store, and run the same command to go on"
            ) from error
        raise


def _status_of(error: Exception) -> int | None:
    """Returns the HTTP status of an error, which clients store in different places."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status or getattr(error, "code", None)


def _short(words: str) -> str:
    return words if len(words) <= 160 else words[:159] + "…"
