"""One run at a time on one output.

On a local disk the lock is one file that is read and written under `flock`, which is atomic between processes. On an object
store, and on a disk without `flock`, it is a folder of claims: each run writes its own, then lists them all, and has the lock if there is no other. Where a
listing shows what was written before it, as on Cloud Storage and S3, of two runs at least the one that lists last sees the
other: never do both have the lock. Of runs that start at once the earliest waits for the later ones, which see it, to
withdraw; where they take too long, none gets the lock.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from beam_quad.artifacts import files
from beam_quad.artifacts.owners import Owner, process_start
from beam_quad.errors import LockedError

MayTake = Callable[[Owner], bool]
# What flock says where there is none: Lustre without `-o flock`, NFS without its lock service, some FUSE file systems.
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class OutputLock:
    """The right to write to an output, from `acquire` to `release`; also a context manager.

    Args:
      output: The output directory.
      is_job_done: Tells of an owner whether the job that it names has ended; None: never known.
    """

    def __init__(self, output: str, is_job_done: Callable[[Owner], bool] | None = None) -> None:
        self._output = files.absolute(output)
        self._store = _store_of(self._output)
        self._is_job_done = is_job_done
        self._owner: Owner | None = None
        self._one_thread = threading.Lock()

    def acquire(self, take_over: bool = False) -> None:
        """Takes the lock; from a dead process of this host, or a job that has ended, without further ado.

        Args:
          take_over: Whether to take it from a live owner, or one on another host, too.

        Raises:
          LockedError: If another run holds it.
        """
        with self._one_thread:
            self._acquire(take_over)

    def _acquire(self, take_over: bool) -> None:
        owner = Owner.here()

        def may_take(other: Owner) -> bool:
            return take_over or self._is_dead(other)

        other = self._take(owner, may_take)
        if other:
            remedy = "wait for it, or, if it is dead, pass --take_over"
            if other.job:
                remedy = (
                    "wait for it, or stop it where it runs; if it is not there, was never "
                    "submitted or has ended, pass --take_over, which does not stop it"
                )
            raise LockedError(f"{self._output} is being written by {other}; {remedy}")
        self._owner = owner

    def _take(self, owner: Owner, may_take: MayTake) -> Owner | None:
        try:
            return self._store.take(owner, may_take)
        except OSError as error:
            if error.errno not in _NO_FLOCK or not isinstance(self._store, _LockFile):
                raise
        other = self._store.remove_unless(may_take)
        self._store = self._claims()
        return other or self._store.take(owner, may_take)

    def name_job(self, job: str) -> None:
        """Says which job this process is about to start: from then on the lock is that job's, whatever becomes of this.

        Args:
          job: Its name, with its service; empty once it has ended, or was not started.

        Raises:
          LockedError: If the lock was taken over meanwhile.
        """
        with self._one_thread:
            if self._owner is None:
                raise ValueError("a lock must be acquired before a job holds it")
            if job == self._owner.job:
                return
            owner = dataclasses.replace(self._owner, job=job)
            if not self._store.rewrite(owner):
                self._owner = None
                raise LockedError(f"the lock of {self._output} was taken over by another run")
            self._owner = owner

    def release(self) -> None:
        """Gives the lock back, or leaves it to the job that was named; safe to call twice, or after it was taken over."""
        with self._one_thread:
            self._release()

    def release_for_good(self) -> str:
        """Gives the lock back as `release` does, while other threads go on: they wait if they ask anything of it.

        Returns:
          The job that the lock is left to, or an empty string.
        """
        self._one_thread.acquire()
        job = self._owner.job if self._owner else ""
        self._release()
        return job

    def _release(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        if owner.job:
            # No process has an empty start: from now on the job alone counts.
            self._store.rewrite(dataclasses.replace(owner, process_start=""))
        else:
            self._store.drop(owner)

    def owner(self) -> Owner | None:
        """Reads who has the lock, and takes nothing; None if nobody has, or their process or job has ended."""
        stores: list[_LockFile | _Claims] = [self._store]
        if isinstance(self._store, _LockFile):
            stores.append(self._claims())
        owners = (owner for store in stores for owner in store.owners())
        return next((owner for owner in owners if not self._is_dead(owner)), None)

    def _claims(self) -> "_Claims":
        # Not under the same name: a host that mounts the disk with flock keeps a file there.
        return _Claims(files.join(self._output, "_run", "locks"))

    def __enter__(self) -> Self:
        if self._owner is None:
            self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _is_dead(self, owner: Owner) -> bool:
        is_here = owner.host == socket.gethostname()
        has_ended = is_here and process_start(owner.pid) != owner.process_start
        if not owner.job:
            return has_ended
        if self._is_job_done is None or (is_here and not has_ended):
            return False  # A process that lives may be about to start its job.
        return self._is_job_done(owner)


def _store_of(output: str) -> "_LockFile | _Claims":
    path = files.join(output, "_run", "lock")
    return _LockFile(path) if files.is_local(path) else _Claims(path)


_REWRITE_S = 0.2


class _LockFile:
    """A lock on a local disk."""

    def __init__(self, path: str) -> None:
        self._path = path

    def take(self, owner: Owner, may_take: MayTake) -> Owner | None:
        """Writes the owner, unless the lock has one from whom it may not be taken, which is returned."""
        with self._exclusive() as descriptor:
            other = Owner.parse(_read(descriptor))
            if other and not may_take(other):
                return other
            _overwrite(descriptor, owner)
        return None

    def owners(self) -> list[Owner]:
        """Reads the owner, if there is one: without a lock, as who looks may not write here."""
        for wait_s in (_REWRITE_S, 0.0):
            try:
                with open(self._path, "rb") as file:
                    owner = Owner.parse(file.read())
            except FileNotFoundError:
                return []
            if owner is not None:
                return [owner]
            # It may be about to be rewritten.
            time.sleep(wait_s)
        return []

    def rewrite(self, owner: Owner) -> bool:
        """Replaces what the lock says of its owner; False where it is no longer the owner's."""
        with self._exclusive() as descriptor:
            other = Owner.parse(_read(descriptor))
            is_own = other is not None and other.token == owner.token
            if is_own:
                _overwrite(descriptor, owner)
            return is_own

    def drop(self, owner: Owner) -> None:
        """Removes the lock, if it is still the owner's."""
        if not os.path.exists(self._path):
            return
        with self._exclusive() as descriptor:
            other = Owner.parse(_read(descriptor))
            if other is None or other.token == owner.token:
                os.unlink(self._path)

    def remove_unless(self, may_take: MayTake) -> Owner | None:
        """Removes the file where it cannot be locked, unless it has an owner from whom it may not be taken."""
        try:
            with open(self._path, "rb") as file:
                other = Owner.parse(file.read())
        except FileNotFoundError:
            return None  # Another run has removed it, and has its claim beside this one's.
        if other and not may_take(other):
            return other
        files.delete([self._path])
        return None

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[int]:
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # The file may have been removed, and another made, while this one waited.
                if _is_same_file(descriptor, self._path):
                    yield descriptor
                    return
            except OSError as error:
                error.filename = error.filename or self._path
                raise
            finally:
                os.close(descriptor)


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 16, 0)


def _overwrite(descriptor: int, owner: Owner) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, owner.dump(), 0)
    os.fsync(descriptor)


# How often, and how long in all, a run waits for claims to be withdrawn that were written after its own.
_WAIT_S = 0.5
_WAITS = 10


class _Claims:
    """A lock where there is no `flock`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def take(self, owner: Owner, may_take: MayTake) -> Owner | None:
        """Claims the lock, unless another claim stands that may not be taken, whose owner is returned."""
        before = self._read()
        standing = [other for other in before.values() if other and not may_take(other)]
        if standing:
            return standing[0]
        self._write(owner)
        # Only what stood there before: a claim that has come since is another run's, which may take over too.
        files.delete(before)
        for attempt in range(_WAITS + 1):
            claims = self._read()
            others = [o for o in claims.values() if o and o.token != owner.token]
            if self._claim(owner) not in claims:
                return others[0] if others else owner
            if not others:
                return None
            if self._claim(others[0]) < self._claim(owner) or attempt == _WAITS:
                break
            time.sleep(_WAIT_S)
        self.drop(owner)
        return others[0]

    def owners(self) -> list[Owner]:
        """Reads the owners of all claims, the earliest first."""
        return [owner for owner in self._read().values() if owner is not None]

    def rewrite(self, owner: Owner) -> bool:
        """Replaces what the owner's claim says; False where it was taken away."""
        is_own = files.exists(self._claim(owner))
        if is_own:
            self._write(owner)
        return is_own

    def drop(self, owner: Owner) -> None:
        """Removes the owner's claim, if it is still there."""
        files.delete([self._claim(owner)])

    def _write(self, owner: Owner) -> None:
        files.write(self._claim(owner), owner.dump())

    def _claim(self, owner: Owner) -> str:
        return files.join(self._folder, f"{owner.started}-{owner.token}.json")

    def _read(self) -> dict[str, Owner | None]:
        """Reads all claims by path, the earliest first."""
        claims = {}
        for info in files.find(self._folder):
            try:
                claims[info.path] = Owner.parse(files.read_bytes(info.path))
            except Exception:
                if files.exists(info.path):
                    raise
                # Withdrawn since it was listed.
        return claims
