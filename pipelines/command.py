"""Shared behaviour of all commands: errors in one line, exit codes, quiet logs, signals."""

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
      program: Imports the program, late.
      argv: Arguments without the program's name; None for those of the process.

    Returns:
      Exit code: 0, 2 for an invalid command, 1 for a failed run.
    """
    try:
        options, beam_arguments = parse(sys.argv[1:] if argv is None else argv)
        # Must be set before torch is loaded. Threads that spin while waiting halve the speed of a machine with any
        # other work.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported late, because torch and transformers take seconds and an invalid flag should fail at once.
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
    # Beam logs the traceback of every failure and also raises it; we report each failure once, in `main` or here.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # Output of a job server goes through the root logger, not a logger of Beam.
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
    # The last line of a worker's traceback is its error.
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return (
        f"{type(error).__name__}: {line[:300]}{notes}; what is done is kept, and the same command goes on with it; "
        "if that fails too, report the lines above"
    )


class _Lasting(io.FileIO):
    """A terminal, pipe or file; the run goes on if it is closed or full."""

    def write(self, data: Any) -> int:
        """Writes as much as possible, and always reports success."""
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
            # A closed descriptor's number would be reused by the next file, which would then receive library output.
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            raw = io.BufferedWriter(_Lasting(descriptor, "wb", closefd=False))
            # A path is escaped if the terminal cannot display it.
            kept = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, kept)
