"""The one line in what a runner says of a failed run."""

import re

from beam_quad import errors
from beam_quad.errors import BeamQuadError, UsageError

# A runner of its own process raises the error; one on a cluster raises a text with the worker's traceback in it.
_IN_TRACEBACK = re.compile(
    r"^(?:RuntimeError: )?beam_quad\.errors\.(\w+): (.*?)(?: \[while running '.*'\])?$",
    re.MULTILINE,
)

# Flink's job server calls a job failed that somebody has cancelled.
_CANCELLED = re.compile(r"failed in state (?:CANCELLED|FAILED: \S*\.JobCancellationException)")
_WORDS_OF_CANCELLED = (
    "the job was cancelled; run the same command again, which goes on with what is done"
)
# What Beam adds to the message of an error, for which a user has no use.
_STEP = re.compile(r" \[while running '.*'\]$")


def known_cause(error: BaseException | None) -> BeamQuadError | None:
    """Finds the error of this package behind what a runner raised; None where something else has failed."""
    text = str(error)
    while error is not None:
        if isinstance(error, BeamQuadError):
            return without_step(error)
        error = error.__cause__ or error.__context__
    found = _IN_TRACEBACK.findall(text)
    if not found:
        return BeamQuadError(_WORDS_OF_CANCELLED) if _CANCELLED.search(text) else None
    name, message = found[-1]
    is_usage = issubclass(getattr(errors, name, BeamQuadError), UsageError)
    return UsageError(message) if is_usage else BeamQuadError(message)


def without_step(error: BeamQuadError) -> BeamQuadError:
    """Takes the name of the step, which Beam adds, off an error's message."""
    if _STEP.search(str(error)):
        error.args = (_STEP.sub("", str(error)),)
    return error
