"""One run at a time on one output.

The lock is one file that names its owner. It is created only if no such file exists, and taken over, rewritten and removed
only if it is unchanged since it was read, so one of several simultaneous runs gets it. Cloud Storage, S3 and Azure support
such conditions, and so do disks, through hard links and `flock`. On a disk without `flock`, and in a store that only
fsspec supports, two runs may both believe they own the lock if they take it over from the same dead run at the same moment.
"""

import dataclasses
import socket
import threading
from collections.abc import Callable
from typing import Self

from beam_quad.artifacts import files
from beam_quad.artifacts.owners import Owner, process_start
from beam_quad.artifacts.store import ABSENT
from beam_quad.artifacts.stores import store_of
from beam_quad.errors import LockedError

MayTake = Callable[[Owner], bool]
# After so many attempts a lock that changes between reads counts as held.
_TRIES = 5


class OutputLock:
    """The exclusive right to write to an output, from `acquire` to `release`; also a context manager.

    Args:
      output: The output directory.
      is_job_done: Tells whether the job named by an owner has ended; None if that is never known.
    """

    def __init__(self, output: str, is_job_done: Callable[[Owner], bool] | None = None) -> None:
        self._output = files.absolute(output)
        self._file = _LockFile(files.join(self._output, "_run", "lock"))
        self._is_job_done = is_job_done
        self._owner: Owner | None = None
        self._one_thread = threading.Lock()

    def acquire(self, take_over: bool = False) -> None:
        """Takes the lock, if need be from a dead process of this host or a job that has ended.

        Args:
          take_over: Whether to take it even from a live owner or an owner on another host.

        Raises:
          LockedError: If another run holds it.
        """
        with self._one_thread:
            self._acquire(take_over)

    def _acquire(self, take_over: bool) -> None:
        owner = Owner.here()

        def may_take(other: Owner) -> bool:
            return take_over or self._is_dead(other)

        other = self._file.take(owner, may_take)
        if other:
            remedy = "wait for it, or, if it is dead, pass --take_over"
            if other.job:
                remedy = (
                    "wait for it, or stop it where it runs; if it is not there, was never "
                    "submitted or has ended, pass --take_over, which does not stop it"
                )
            raise LockedError(f"{self._output} is being written by {other}; {remedy}")
        self._owner = owner

    def name_job(self, job: str) -> None:
        """Hands the lock to the job that this process is about to start; the job keeps it even if this process dies.

        Args:
          job: Name of the job, with its service; empty once it has ended, or if it was not started.

        Raises:
          LockedError: If the lock has been taken over.
        """
        with self._one_thread:
            if self._owner is None:
                raise ValueError("a lock must be acquired before a job holds it")
            if job == self._owner.job:
                return
            owner = dataclasses.replace(self._owner, job=job)
            if not self._file.rewrite(owner):
                self._owner = None
                raise LockedError(f"the lock of {self._output} was taken over by another run")
            self._owner = owner

    def release(self) -> None:
        """Releases the lock, or leaves it to the named job; safe to call twice, or after the lock was taken over."""
        with self._one_thread:
            self._release()

    def release_for_good(self) -> str:
        """Releases the lock as `release` does, and blocks other threads that use it afterwards.

        Returns:
          The job that keeps the lock, or an empty string.
        """
        # Never released: a thread that comes later, such as one that is still submitting a job, must not take the lock
        # again.
        self._one_thread.acquire()
        job = self._owner.job if self._owner else ""
        self._release()
        return job

    def _release(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        if owner.job:
            # No process has an empty start time, so from now on only the job decides whether the owner lives.
            self._file.rewrite(dataclasses.replace(owner, process_start=""))
        else:
            self._file.drop(owner)

    def owner(self) -> Owner | None:
        """Reads the lock's owner without taking the lock; None if there is none, or its process or job has ended."""
        owner = self._file.owner()
        return None if owner is None or self._is_dead(owner) else owner

    def __enter__(self) -> Self:
        if self._owner is None:
            self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _is_dead(self, owner: Owner) -> bool:
        # A process of another host cannot be asked, so it counts as alive.
        is_here = owner.host == socket.gethostname()
        has_ended = is_here and process_start(owner.pid) != owner.process_start
        if not owner.job:
            return has_ended
        if self._is_job_done is None or (is_here and not has_ended):
            return False  # A live process may be about to start its job.
        return self._is_job_done(owner)


class _LockFile:
    """The file that names the lock's owner."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._store = store_of(path)

    def take(self, owner: Owner, may_take: MayTake) -> Owner | None:
        """Writes the owner; returns the current owner instead if the lock may not be taken from it."""
        for _ in range(_TRIES):
            other, version = self._read()
            # A retried request may find the lock written by its own first attempt.
            if other and other.token != owner.token and not may_take(other):
                return other
            if self._put(owner, version):
                return None
        # Some other run changed the lock each time, and may have removed it last.
        return other or owner

    def owner(self) -> Owner | None:
        """Reads the owner, if there is one."""
        return self._read()[0]

    def rewrite(self, owner: Owner) -> bool:
        """Updates the owner's record in the lock; False if the lock has another owner."""
        other, version = self._read()
        return other is not None and other.token == owner.token and self._put(owner, version)

    def drop(self, owner: Owner) -> None:
        """Removes the lock if the owner still has it."""
        other, version = self._read()
        if other is not None and other.token == owner.token:
            self._store.delete(self._path, version)

    def _read(self) -> tuple[Owner | None, str]:
        try:
            data, version = self._store.read(self._path)
        except FileNotFoundError:
            return None, ABSENT
        return Owner.parse(data), version

    def _put(self, owner: Owner, version: str) -> bool:
        with self._store.spool(self._path) as spooled:
            spooled.write(owner.dump())
            return self._store.put(self._path, spooled, version)
