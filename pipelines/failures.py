"""Extracts one line from the error of a runner, a disk or a bug."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from beam_quad import errors
from beam_quad.errors import BeamQuadError, UsageError

# A runner in this process raises the original error. A cluster's runner raises a text with the worker's traceback.
_IN_TRACEBACK = re.compile(
    r"^(?:RuntimeError: )?beam_quad\.errors\.(\w+): (.*?)(?: \[while running '.*'\])?$",
    re.MULTILINE,
)
_OS_ERROR_IN_TRACEBACK = re.compile(
    r"^(?:RuntimeError: )?\w+Error: \[Errno (\d+)\] [^\n:\[]+(?:: (['\"])([^\n]*?)\2(?: -> [^\n]*?)?)?(?: \[while running '.*'\])?$",
    re.MULTILINE,
)

# Flink's job server reports a cancelled job as failed.
_CANCELLED = re.compile(r"failed in state (?:CANCELLED|FAILED: \S*\.JobCancellationException)")
_WORDS_OF_CANCELLED = (
    "the job was cancelled; run the same command again, which goes on with what is done"
)
# Beam appends the name of the step to error messages, which does not help the user.
_STEP = re.compile(r" \[while running '.*'\]$")

_MAKE_ROOM = "make room there (--output, --artifacts and TMPDIR say where files are written)"
_GIVE_RIGHTS = "give this user the right to use it, or pass another path"
# Errors of a disk, as opposed to a file missing because of a bug.
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: _MAKE_ROOM,
    errno.EACCES: _GIVE_RIGHTS,
    errno.EPERM: _GIVE_RIGHTS,
    errno.EROFS: _GIVE_RIGHTS,
    errno.EIO: "check the disk",
    errno.ESTALE: "mount the file system again",
    errno.ENOTCONN: "mount the file system again",
    errno.ETIMEDOUT: "check the file system and the network",
    errno.ENAMETOOLONG: "pass a shorter path",
    errno.ENOTDIR: "pass a path through folders only",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENFILE: "raise the number of open files of this machine",
    errno.ENOMEM: "free memory, or pass a smaller --max_batch_tokens to a new --output",
}


def known_cause(error: BaseException) -> BeamQuadError | None:
    """Finds the cause of an exception, if it is an error of this package or of a disk; None otherwise."""
    chain = list(_chain(error))
    # Our own error first: an error of a disk deeper in the chain may be what it was raised from.
    for each in chain:
        if isinstance(each, BeamQuadError):
            return without_step(each)
    for each in chain:
        if words := _words_of(each):
            return BeamQuadError(f"{words}, and run the same command to go on")
    text = str(error)
    if found := _IN_TRACEBACK.findall(text):
        # A traceback of causes ends with the error that was raised last.
        name, message = found[-1]
        is_usage = issubclass(getattr(errors, name, BeamQuadError), UsageError)
        return UsageError(message) if is_usage else BeamQuadError(message)
    for number, _, path in reversed(_OS_ERROR_IN_TRACEBACK.findall(text)):
        if words := _remedy(int(number), path):
            return BeamQuadError(f"{words}, and run the same command to go on")
    return BeamQuadError(_WORDS_OF_CANCELLED) if _CANCELLED.search(text) else None


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns errors of a disk during planning into refusals.

    Raises:
      UsageError: With the path and a remedy, for an error of a disk.
    """
    try:
        yield
    except BeamQuadError:
        raise
    except Exception as error:
        for each in _chain(error):
            if words := _words_of(each):
                raise UsageError(words) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words_of(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return _remedy(error.errno, str(error.filename or ""))
    return None


def _remedy(number: int | None, path: str) -> str | None:
    if number not in _REMEDIES:
        return None
    where = f"{path}: " if path else ""
    return f"{where}{os.strerror(number)}; {_REMEDIES[number]}"


def without_step(error: BeamQuadError) -> BeamQuadError:
    """Removes Beam's name of the step from an error's message."""
    if _STEP.search(str(error)):
        error.args = (_STEP.sub("", str(error)),)
    return error
