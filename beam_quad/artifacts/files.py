"""Files wherever Beam's FileSystems reaches: found by one listing, read as they are, written once and whole.

A file is written under a temporary name beside its own and renamed when complete, so nothing half-written is ever
visible under a final name. A finished file is not replaced: files are named by content, so a second attempt would
write the same bytes. On local disks that holds between racing writers too (a hard link fails where the name exists);
on object stores the check and the rename are two requests.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import re
import shutil
import stat as modes
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_quad.artifacts import traffic
from beam_quad.artifacts.patterns import LOST_AND_FOUND, Search, has_glob
from beam_quad.artifacts.stores import Stat, check_scheme, store_of
from beam_quad.errors import UsageError

_TEMPORARY_PREFIX = ".tmp-"
_READERS = concurrent.futures.ThreadPoolExecutor(16, "read")
T = TypeVar("T")
_GLOB = re.compile(r"[*?\[]")
# What is fetched from an object store at least: the footer of a small file, or a few candidates, should not cost 16 MB.
_BUFFER_BYTES = 1 << 20
_COPY_BYTES = 16 << 20
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclasses.dataclass(frozen=True, order=True)
class FileInfo:
    """What a listing says about a file.

    Attributes:
      path: Where it is stored; absolute if local.
      size_bytes: Its size, as stored.
      version: Size, and the checksum that an object store keeps or, elsewhere, the modification time: changes when the
        content does.
      modified_s: Modification time, in seconds since 1970.
    """

    path: str
    size_bytes: int
    version: str
    modified_s: float


class HashedFile(io.RawIOBase):
    """A binary file that is being written, with what went through it.

    Attributes:
      size_bytes: Bytes written so far.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        """Tells that this file is for writing."""
        return True

    def tell(self) -> int:
        """Gives the position, which is always the end."""
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
        """SHA-256 of what was written so far, 64 hexadecimal digits."""
        return self._sha256.hexdigest()


def is_local(path: str) -> bool:
    """Tells whether a path is one of this machine's file system."""
    return "://" not in path


def absolute(path: str) -> str:
    """Makes a local path absolute and normal; leaves a URL as it is, without a slash at the end."""
    return os.path.abspath(path) if is_local(path) else path.rstrip("/")


def join(root: str, *parts: str) -> str:
    """Joins a root and relative parts in the manner of the root's file system."""
    if not parts:
        return root
    check_scheme(root)
    return str(FileSystems.join(root, *parts))


def find(
    pattern_or_prefix: str, with_hidden: bool = True, hidden: list[str] | None = None
) -> list[FileInfo]:
    """Lists the files of a glob, or all files under a folder, by one listing.

    Links are followed, except one to a folder that contains it.

    Args:
      pattern_or_prefix: A glob, as `patterns.Search` matches it, a file, or a folder, which is listed with all its
        folders.
      with_hidden: Whether to list what a folder or glob holds under names that start with `_` or `.`, too.
      hidden: Takes the files that are not listed for that, and the folders that are not entered.

    Returns:
      Files sorted by path, without temporary ones; none where nothing matches.

    Raises:
      UsageError: If a link is broken, or a folder or file on the way may not be read.
    """
    path = absolute(pattern_or_prefix)
    if has_glob(path) and not exists(path):
        search = Search.of(path)
    elif is_local(path) and os.path.isdir(path):
        search = Search(path.rstrip("/"))
    elif info := stat(path):
        return [info]
    elif is_local(path):
        if os.path.islink(path):
            raise _broken_link(path)
        return []
    else:
        search = Search(path)
    found = _found(search, None if with_hidden else hidden if hidden is not None else [])
    return sorted(info for info in found if not _is_temporary(info.path))


def _found(search: Search, hidden: list[str] | None = None) -> Iterator[FileInfo]:
    """Lists what is searched for, temporary files included; without what is hidden if there is a list to take it."""
    if is_local(search.folder):
        top = _local_stat(search.folder or "/")
        above = frozenset([(top.st_dev, top.st_ino)] if top else [])
        listed = _walk(search, search.folder, above, hidden)
    elif store := store_of(search.folder):
        # An empty object whose name ends with a slash stands for a folder.
        objects = store.list(search.prefix)
        listed = (_file_info(path, stat) for path, stat in objects if not path.endswith("/"))
    else:
        everything = [_quoted(search.folder) + "/**"]
        listed = map(_info, FileSystems.match(everything)[0].metadata_list)
    for info in listed:
        if search.matches(info.path):
            if hidden is None or not search.is_hidden(info.path):
                yield info
            else:
                hidden.append(info.path)


def _walk(
    search: Search, folder: str, above: frozenset[tuple[int, int]], hidden: list[str] | None
) -> Iterator[FileInfo]:
    # Not through Beam, which follows no links, and takes brackets in the name of a local folder for a glob.
    for name in _names(folder or "/"):
        path = f"{folder}/{name}"
        is_wanted, is_entered = search.matches(path), search.enters(path)
        if not (is_wanted or is_entered):
            continue
        # Most users may not list what fsck keeps at the root of a disk.
        if (hidden is not None or name == LOST_AND_FOUND) and search.is_hidden(path):
            if hidden is not None and is_wanted:
                hidden.append(path)
            continue
        found = _local_stat(path)
        if found is None:
            # Gone since it was listed, if it is no link: a writer has finished.
            if os.path.islink(path) and not name.startswith("."):
                raise _broken_link(path)
        elif modes.S_ISDIR(found.st_mode):
            inode = found.st_dev, found.st_ino
            if is_entered and inode not in above:
                yield from _walk(search, path, above | {inode}, hidden)
        else:
            yield _file_info(path, Stat(found.st_size, found.st_mtime))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise UsageError(f"{folder}: may not be listed; let this user read it") from error


def _broken_link(path: str) -> UsageError:
    return UsageError(
        f"{path}: is a link to {os.readlink(path)}, which is not there; mend or remove it"
    )


def _local_stat(path: str) -> os.stat_result | None:
    """Describes what a path leads to, by links or not; None where that is nothing."""
    try:
        return os.stat(path)
    except PermissionError as error:
        raise UsageError(f"{path}: may not be read; let this user read its folder") from error
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return None
        raise


def check_readable(path: str) -> None:
    """Refuses a local path that leads to no file, or to one that may not be read; opens nothing.

    Raises:
      UsageError: Saying what is there instead.
    """
    if not is_local(path):
        return
    found = _local_stat(path)
    if found is None:
        raise UsageError(f"{path}: is gone since it was listed")
    if not modes.S_ISREG(found.st_mode):
        raise UsageError(
            f"{path}: is no file but a pipe, socket or device; write what it gives to a file"
        )
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path}: may not be read; let this user read it")


def printable(name: str) -> str:
    r"""Gives a name as text that UTF-8 can hold: a byte that is not UTF-8 is written as `\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _quoted(path: str) -> str:
    return _GLOB.sub(lambda match: f"[{match.group()}]", path)


def _is_temporary(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith(_TEMPORARY_PREFIX)


def _info(metadata: Any) -> FileInfo:
    stat = Stat(metadata.size_in_bytes, metadata.last_updated_in_seconds)
    return _file_info(metadata.path, stat)


def _file_info(path: str, stat: Stat) -> FileInfo:
    mark = stat.checksum or f"{stat.modified_s:.6f}"
    return FileInfo(path, stat.size_bytes, f"{stat.size_bytes}-{mark}", stat.modified_s)


def stat(path: str) -> FileInfo | None:
    """Describes one file by one request; None where there is none."""
    if _is_bucket(path):
        return None
    if is_local(path):
        there = _local_stat(path)
        return None if there is None else _file_info(path, Stat(there.st_size, there.st_mtime))
    store = store_of(path)
    if store is not None:
        found = store.stat(path)
        return None if found is None else _file_info(path, found)
    try:
        return _info(FileSystems.get_filesystem(path).metadata(path))
    except BeamIOError:
        if exists(path):
            raise
        return None


def exists(path: str) -> bool:
    """Tells whether there is a file of this name; a bucket is none."""
    if _is_bucket(path):
        return False
    store = store_of(path)
    return bool(FileSystems.exists(path)) if store is None else store.stat(path) is not None


def _is_bucket(path: str) -> bool:
    return not is_local(path) and "/" not in path.partition("://")[2].rstrip("/")


def open_read(path: str, buffer_bytes: int = _BUFFER_BYTES) -> BinaryIO:
    """Opens a file for reading as it is stored; seekable, never decompressed by its name.

    Args:
      path: The file.
      buffer_bytes: What is fetched from an object store at least; more where a file is read from end to end.
    """
    store = store_of(path)
    if store is None:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    return store.open_read(path, buffer_bytes)


def in_parallel(read: Callable[..., T], *columns: Iterable[Any]) -> Iterator[T]:
    """Reads many small files at once, in threads that stay, and with them their connections.

    Args:
      read: What reads one; must not call this function.
      columns: Its arguments, as `map` takes them.

    Yields:
      What it returns, in order.
    """
    return _READERS.map(read, *columns)


def read_bytes(path: str) -> bytes:
    """Reads a whole, small file."""
    with open_read(path) as file:
        return file.read()


@contextlib.contextmanager
def writing(path: str, replace: bool = False) -> Iterator[HashedFile]:
    """Gives a file to write that appears under its name when the block ends, whole or, after an error, not at all.

    Args:
      path: The final name; local folders are made.
      replace: Whether to replace a finished file; without it, what is there stays and the new file is dropped.

    Yields:
      The file; its `sha256` and `size_bytes` stay readable after the block.
    """
    folder, _, name = absolute(path).rpartition("/")
    temporary = f"{folder}/{_TEMPORARY_PREFIX}{uuid.uuid4().hex}-{name}"
    try:
        raw = _create(temporary)
        try:
            file = HashedFile(raw)
            yield file
            _flush(raw, temporary)
        finally:
            _close(raw, temporary)
        if _publish(temporary, absolute(path), replace):
            traffic.count("bytes_stored", file.size_bytes)
    except BaseException as error:
        with contextlib.suppress(Exception):  # The first error says more.
            delete([temporary])
        if isinstance(error, OSError) and _is_of_writing(error, temporary):
            error.filename = absolute(path)
        raise


def _is_of_writing(error: OSError, temporary: str) -> bool:
    # A full disk does not say which file it has no room for; the temporary name says nothing to a user.
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.filename == temporary or (error.filename is None and is_full)


def _create(path: str) -> BinaryIO:
    store = store_of(path)
    if store is None:
        return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
    return store.create(path)


def _close(raw: BinaryIO, path: str) -> None:
    store = store_of(path)
    with store.writing(path) if store is not None else contextlib.nullcontext():
        raw.close()


def write_once(path: str, data: bytes) -> None:
    """Writes a small file unless it is stored already: what is named by its content is never replaced."""
    with writing(path) as file:
        file.write(data)


def write(path: str, data: bytes) -> None:
    """Writes a small file in place of any that is stored there."""
    with writing(path, replace=True) as file:
        file.write(data)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Gives a local file with the content of one anywhere, for libraries that read nothing else."""
    if is_local(path):
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:
        with open_read(path) as file:
            shutil.copyfileobj(file, copy)
        copy.flush()
        yield copy.name


def copy(source: str, target: str) -> None:
    """Copies a file as it is, within an object store by the store itself; a file of that name stays."""
    store, other = store_of(source), store_of(target)
    if store is None or type(store) is not type(other):
        with open_read(source) as file, writing(target) as copied:
            shutil.copyfileobj(file, copied, _COPY_BYTES)
    elif not exists(target):
        # A store shows a copy when it is whole.
        store.copy(source, target)


def delete(paths: Iterable[str]) -> None:
    """Deletes files by their exact names; one that is not there is no error."""
    for path in paths:
        if is_local(path):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        elif (store := store_of(path)) is not None:
            store.delete(path)
        elif FileSystems.exists(path):
            FileSystems.delete([_quoted(path)])


def delete_temporaries(root: str, older_than_s: float = 86_400) -> None:
    """Deletes what killed writers left under a folder; another run may still be writing what is younger."""
    before = time.time() - older_than_s
    found = (info for info in _found(Search(absolute(root))) if _is_temporary(info.path))
    delete(info.path for info in found if info.modified_s < before)


def _flush(raw: BinaryIO, path: str) -> None:
    # A rename may reach the disk before the data does; after a power cut the finished name would hold nothing.
    if is_local(path):
        raw.flush()
        os.fsync(raw.fileno())


def _publish(temporary: str, path: str, replace: bool) -> bool:
    """Gives a file its name; where another has it, says so and drops the file."""
    if not replace:
        if is_local(path) and (is_new := _link(temporary, path)) is not None:
            delete([temporary])
            return is_new
        if exists(path):
            delete([temporary])
            return False
    store = store_of(path)
    if store is None:
        FileSystems.rename([temporary], [path])
    else:
        store.rename(temporary, path)
    return True


def _link(temporary: str, path: str) -> bool | None:
    """Links a file under its name: False where the name is taken, None on a file system without hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:
        return None
    return True
