"""What every pipeline's command does around its own flags and stages: errors in one line, exit codes, quiet logs, signals."""

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from beam_quad.errors import BeamQuadError, UsageError
from pipelines import stopping

if TYPE_CHECKING:
    from pipelines.launch import Program
    from pipelines.run_options import RunOptions

Options = TypeVar("Options", bound="RunOptions")


def main(
    parse: Callable[[Sequence[str]], tuple[Options, list[str]]],
    program: "Callable[[], Program[Options]]",
    argv: Sequence[str] | None,
) -> int:
    """Runs a pipeline from a command line.

    Args:
      parse: Parses the pipeline's flags.
      program: Imports what turns them into stages.
      argv: Arguments without the program's name; None takes those of the process.

    Returns:
      Exit code: 0, 2 for a command that cannot be carried out as given, 1 for a run that failed.
    """
    try:
        options, beam_arguments = parse(sys.argv[1:] if argv is None else argv)
        # Read when torch is loaded. Threads that spin while they wait halve the speed of a machine that does anything
        # else.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Only now: torch and transformers take seconds to import, for which a wrong flag shall not wait.
        from pipelines import failures, launch

        try:
            return launch.run(options, beam_arguments, program())
        except Exception as error:
            known = failures.known_cause(error)
            if known is None:
                raise
            raise known from error
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BeamQuadError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def run_as_program(program: Callable[[], int]) -> NoReturn:
    """Runs a pipeline's `main` as the program of this process, and exits."""
    stopping.watch()
    _keep_standard_streams()
    logging.basicConfig(level=logging.WARNING)
    # Beam logs the traceback of every failure on top of raising it; what fails is said once, by `main` or here.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # What a job server says goes through no logger of Beam's, but through the root itself.
    logging.getLogger().addFilter(lambda record: False)
    try:
        code = program()
    except Exception as error:
        traceback.print_exc()
        print(f"failed: {_unexpected(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _unexpected(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    # A worker's traceback says at its end what it is about.
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return (
        f"{type(error).__name__}: {line[:300]}{notes}; what is done is kept, and the same command goes on with it; "
        "if that fails too, report the lines above"
    )


class _Lasting(io.FileIO):
    """A terminal, pipe or file that may be gone or full, which is no reason for a run to fail."""

    def write(self, data: Any) -> int:
        """Writes what can be written, and says that it was all."""
        try:
            written: int | None = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def _keep_standard_streams() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed: the next file that is opened would get its number, and what libraries print.
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            raw = io.BufferedWriter(_Lasting(descriptor, "wb", closefd=False))
            # A path that the terminal cannot show is shown in escapes.
            kept = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, kept)
