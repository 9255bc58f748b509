"""Files on disks of this machine: links are followed, files appear once complete, and replacement checks the version."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat as modes
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from beam_quad.artifacts.patterns import LOST_AND_FOUND, Search
from beam_quad.artifacts.store import ABSENT, TEMPORARY_PREFIX, Stat, Store
from beam_quad.errors import UsageError

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Errors of flock on file systems without it: Lustre without `-o flock`, NFS without its lock service, some FUSE ones.
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Disk(Store):
    """The file system of this machine."""

    def stat(self, path: str) -> Stat | None:
        found = stat_of(path)
        return None if found is None else Stat(found.st_size, found.st_mtime)

    def list(self, search: Search, hidden: list[str] | None) -> Iterator[tuple[str, Stat]]:
        top = stat_of(search.folder or "/")
        above = frozenset([(top.st_dev, top.st_ino)] if top else [])
        return _walk(search, search.folder, above, hidden)

    def open_read(self, path: str, buffer_bytes: int) -> BinaryIO:
        return open(path, "rb")

    def read(self, path: str) -> tuple[bytes, str]:
        with open(path, "rb") as file:
            data = file.read()
        return data, _version(data)

    @contextlib.contextmanager
    def spool(self, path: str) -> Iterator[BinaryIO]:
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{name}"
        os.makedirs(folder or "/", exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
        finally:
            with contextlib.suppress(OSError):  # The first error is more informative.
                os.remove(temporary)

    def put(self, path: str, spooled: BinaryIO, over: str | None) -> bool:
        # A rename may reach the disk before the data does; after a power cut the finished name would hold nothing.
        spooled.flush()
        os.fsync(spooled.fileno())
        if over is None:
            os.replace(spooled.name, path)
        elif over == ABSENT:
            return _name_if_free(spooled.name, path)
        else:
            with _unchanged(path, over) as is_unchanged:
                if is_unchanged:
                    os.replace(spooled.name, path)
                return is_unchanged
        return True

    def delete(self, path: str, over: str | None = None) -> None:
        with contextlib.suppress(FileNotFoundError):
            if over is None:
                os.remove(path)
                return
            with _unchanged(path, over) as is_unchanged:
                if is_unchanged:
                    os.remove(path)


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _name_if_free(temporary: str, path: str) -> bool:
    try:
        # A link fails if the name is taken; a rename would replace the file.
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:
        # Without hard links the first of two writers cannot be made to win.
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


@contextlib.contextmanager
def _unchanged(path: str, version: str) -> Iterator[bool]:
    """Tells whether a file is unchanged since it was read, and locks it against other writers if `flock` is supported."""
    try:
        # For writing, though nothing is written: NFS makes flock a lock of a byte range, which needs that.
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            error.filename = path
            if error.errno not in _NO_FLOCK:
                raise
        # Another file may have taken the name during the wait for the lock.
        named = stat_of(path)
        is_same = named is not None and os.path.samestat(os.fstat(descriptor), named)
        # Only locks are replaced on condition, and a lock is far smaller than this.
        yield is_same and _version(os.pread(descriptor, 1 << 16, 0)) == version
    finally:
        os.close(descriptor)


def _walk(
    search: Search, folder: str, above: frozenset[tuple[int, int]], hidden: list[str] | None
) -> Iterator[tuple[str, Stat]]:
    for name in _names(folder or "/"):
        path = f"{folder}/{name}"
        is_wanted, is_entered = search.matches(path), search.enters(path)
        if not (is_wanted or is_entered):
            continue
        # Most users may not list lost+found, which fsck keeps at the root of a disk.
        if (hidden is not None or name == LOST_AND_FOUND) and search.is_hidden(path):
            if hidden is not None and is_wanted:
                hidden.append(path)
            continue
        found = stat_of(path)
        if found is None:
            # A listed file that has vanished and is not a link was the temporary file of a writer that finished.
            if os.path.islink(path) and not name.startswith("."):
                raise broken_link(path)
        elif modes.S_ISDIR(found.st_mode):
            # A link to a folder above would be walked forever. The same folder under two names is listed under both.
            inode = found.st_dev, found.st_ino
            if is_entered and inode not in above:
                yield from _walk(search, path, above | {inode}, hidden)
        else:
            yield path, Stat(found.st_size, found.st_mtime)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise UsageError(f"{folder}: may not be listed; let this user read it") from error


def broken_link(path: str) -> UsageError:
    """Makes the error for a broken link."""
    return UsageError(
        f"{path}: is a link to {os.readlink(path)}, which is not there; mend or remove it"
    )


def stat_of(path: str) -> os.stat_result | None:
    """Describes the target of a path, links followed; None if there is none.

    Raises:
      UsageError: If a folder on the way may not be read.
    """
    try:
        return os.stat(path)
    except PermissionError as error:
        raise UsageError(f"{path}: may not be read; let this user read its folder") from error
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return None
        raise
