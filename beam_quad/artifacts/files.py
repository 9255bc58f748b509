"""Files by path, on disks and in object stores: found by one listing, read as stored, written once and atomically.

On a disk a file is written under a temporary name in its folder, and linked to the final name once complete. To an object
store it is sent by one request from a local temporary file. No partial file is ever visible under a final name.
A finished file is not replaced: files are named by content, so a second attempt would write the same bytes. This also
holds between racing writers if the store supports creation on condition that the name is free.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import shutil
import stat as modes
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from beam_quad.artifacts import traffic
from beam_quad.artifacts.disk import broken_link, stat_of
from beam_quad.artifacts.patterns import Search, has_glob
from beam_quad.artifacts.store import ABSENT, TEMPORARY_PREFIX, Stat, bucket_of, scheme_of
from beam_quad.artifacts.stores import check_scheme, store_of
from beam_quad.errors import UsageError

# Shared by all callers. A reader that called `in_parallel` itself would wait for threads that all wait for it.
_READERS = concurrent.futures.ThreadPoolExecutor(16, "read")
T = TypeVar("T")
# Least bytes of a fetch from an object store: the footer of a small file, or a few candidates, should not cost 16 MB.
_BUFFER_BYTES = 1 << 20
_COPY_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, order=True)
class FileInfo:
    """A file as described by a listing.

    Attributes:
      path: Its path; absolute if local.
      size_bytes: Its stored size.
      version: Size with the object store's checksum or, elsewhere, the modification time; changes when the
        content does.
      modified_s: Modification time, in seconds since 1970.
    """

    path: str
    size_bytes: int
    version: str
    modified_s: float


class HashedFile(io.RawIOBase):
    """A binary file being written, with the size and hash of its content so far.

    Attributes:
      size_bytes: Bytes written so far.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position, which is always the end."""
        return self.size_bytes

    def write(self, data: Any) -> int:
        """Writes all of `data`, bytes or a buffer, and returns its size."""
        view = memoryview(data).cast("B")
        self._raw.write(view)
        self._sha256.update(view)
        self.size_bytes += view.nbytes
        return view.nbytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes written so far, 64 hexadecimal digits."""
        return self._sha256.hexdigest()


def is_local(path: str) -> bool:
    """Tells whether a path is on this machine's file system."""
    return not scheme_of(path)


def absolute(path: str) -> str:
    """Makes a local path absolute and normal; leaves a URL as it is, without a slash at the end."""
    return os.path.abspath(path) if is_local(path) else path.rstrip("/")


def join(root: str, *parts: str) -> str:
    """Joins a root and relative parts by the rules of the root's file system."""
    check_scheme(root)
    if is_local(root):
        return os.path.join(root, *parts)
    return "/".join([root.rstrip("/"), *parts]) if parts else root


def find(
    pattern_or_prefix: str, with_hidden: bool = True, hidden: list[str] | None = None
) -> list[FileInfo]:
    """Lists the files of a glob, or all files under a folder, by one listing.

    Links are followed, except a link to a folder that contains it.

    Args:
      pattern_or_prefix: A glob for `patterns.Search`, a file, or a folder, which is listed recursively.
      with_hidden: Whether to list names that start with `_` or `.` too.
      hidden: Collects the hidden files that are not listed and the hidden folders that are not entered.

    Returns:
      Files sorted by path, without temporary ones; empty if nothing matches.

    Raises:
      UsageError: If a link is broken, or a folder or file on the way may not be read.
    """
    path = absolute(pattern_or_prefix)
    # An existing file may have brackets in its name; it is then no pattern.
    if has_glob(path) and not exists(path):
        search = Search.of(path)
    elif is_local(path) and os.path.isdir(path):
        search = Search(path.rstrip("/"))
    elif info := stat(path):
        return [info]
    elif is_local(path):
        if os.path.islink(path):
            raise broken_link(path)
        return []
    else:
        search = Search(path)
    found = _found(search, None if with_hidden else hidden if hidden is not None else [])
    return sorted(info for info in found if not _is_temporary(info.path))


def _found(search: Search, hidden: list[str] | None = None) -> Iterator[FileInfo]:
    """Lists the files of a search, including temporary ones; hidden files are added to `hidden` if it is given."""
    for path, found in store_of(search.folder).list(search, hidden):
        # An empty object whose name ends with a slash stands for a folder.
        if path.endswith("/") or not search.matches(path):
            continue
        if hidden is None or not search.is_hidden(path):
            yield _file_info(path, found)
        else:
            hidden.append(path)


def check_readable(path: str) -> None:
    """Refuses a local path without a readable file; opens nothing.

    Raises:
      UsageError: With what is at the path instead.
    """
    if not is_local(path):
        return
    found = stat_of(path)
    if found is None:
        raise UsageError(f"{path}: is gone since it was listed")
    if not modes.S_ISREG(found.st_mode):
        raise UsageError(
            f"{path}: is no file but a pipe, socket or device; write what it gives to a file"
        )
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path}: may not be read; let this user read it")


def printable(name: str) -> str:
    r"""Returns a name as valid UTF-8 text, with each invalid byte written as `\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_temporary(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith(TEMPORARY_PREFIX)


def _file_info(path: str, stat: Stat) -> FileInfo:
    mark = stat.checksum or f"{stat.modified_s:.6f}"
    return FileInfo(path, stat.size_bytes, f"{stat.size_bytes}-{mark}", stat.modified_s)


def stat(path: str) -> FileInfo | None:
    """Describes one file by one request; None if it does not exist."""
    found = None if _is_bucket(path) else store_of(path).stat(path)
    return None if found is None else _file_info(path, found)


def exists(path: str) -> bool:
    """Tells whether a file of this name exists; a bucket is not a file."""
    return stat(path) is not None


def _is_bucket(path: str) -> bool:
    return not is_local(path) and not bucket_of(path.rstrip("/"))[1]


def open_read(path: str, buffer_bytes: int = _BUFFER_BYTES) -> BinaryIO:
    """Opens a file for reading its stored bytes; seekable, and never decompressed by its name.

    Args:
      path: The file.
      buffer_bytes: Least bytes of a fetch from an object store; use more to read a file from end to end.
    """
    return store_of(path).open_read(path, buffer_bytes)


def in_parallel(read: Callable[..., T], *columns: Iterable[Any]) -> Iterator[T]:
    """Reads many small files at once, in threads that persist along with their connections.

    Args:
      read: Reads one file; must not call this function.
      columns: Its arguments, as `map` takes them.

    Yields:
      The results of `read`, in order.
    """
    return _READERS.map(read, *columns)


def read_bytes(path: str) -> bytes:
    """Reads a whole, small file."""
    return store_of(path).read(path)[0]


@contextlib.contextmanager
def writing(path: str, replace: bool = False) -> Iterator[HashedFile]:
    """Opens a file for writing; it appears under its name, complete, when the block ends, or not at all after an error.

    Args:
      path: The final name; local folders are made.
      replace: Whether to replace a finished file; otherwise an existing file stays and the new one is dropped.

    Yields:
      The file; its `sha256` and `size_bytes` stay readable after the block.
    """
    path = absolute(path)
    store = store_of(path)
    try:
        with store.spool(path) as spooled:
            file = HashedFile(spooled)
            yield file
            # A lost race is no error: the file that won has the same name, and so the same content.
            if store.put(path, spooled, None if replace else ABSENT):
                traffic.count("bytes_stored", file.size_bytes)
    except OSError as error:
        if _is_of_writing(error):
            error.filename = path if is_local(path) else tempfile.gettempdir()
        raise


def _is_of_writing(error: OSError) -> bool:
    # The error of a full disk names no file, and the temporary name would mean nothing to a user.
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return _is_temporary(str(error.filename))


def write_once(path: str, data: bytes) -> None:
    """Writes a small file unless it exists; a file named by its content is never replaced."""
    with writing(path) as file:
        file.write(data)


def write(path: str, data: bytes) -> None:
    """Writes a small file, replacing any existing one."""
    with writing(path, replace=True) as file:
        file.write(data)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields a local copy of any file, for libraries that read only local files."""
    if is_local(path):
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:
        with open_read(path) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        yield copy.name


def copy(source: str, target: str) -> None:
    """Copies a file unchanged, by a server-side copy within an object store; an existing target stays."""
    store = store_of(source)
    # A copy within a store appears only once it is complete.
    if store is store_of(target) and (exists(target) or store.copy(source, target)):
        return
    with open_read(source) as file, writing(target) as copied:
        shutil.copyfileobj(file, copied, _COPY_BYTES)


def delete(paths: Iterable[str]) -> None:
    """Deletes files by their exact names; a missing file is not an error."""
    for path in paths:
        store_of(path).delete(path)


def delete_temporaries(root: str, older_than_s: float = 86_400) -> None:
    """Deletes temporary files of killed writers under a local folder; younger ones may still be in use by another run."""
    if not is_local(root):
        return
    before = time.time() - older_than_s
    found = (info for info in _found(Search(absolute(root))) if _is_temporary(info.path))
    delete(info.path for info in found if info.modified_s < before)
