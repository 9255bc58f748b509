"""What every pipeline's command does around its own flags and stages: errors in one line, exit codes, quiet logs."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from beam_quad.errors import BeamQuadError, UsageError
from pipelines.run_options import RunOptions

if TYPE_CHECKING:
    from pipelines.launch import Wiring

Options = TypeVar("Options", bound=RunOptions)


def main(
    parse: Callable[[Sequence[str]], tuple[Options, list[str]]],
    wiring: "Callable[[], Wiring[Options]]",
    argv: Sequence[str] | None,
) -> int:
    """Runs a pipeline from a command line.

    Args:
      parse: Parses the pipeline's flags.
      wiring: Imports what turns them into stages.
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
        from pipelines import launch

        return launch.run(options, beam_arguments, wiring())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BeamQuadError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def run_as_program(program: Callable[[], int]) -> NoReturn:
    """Runs a pipeline's `main` as the program of this process, and exits."""
    logging.basicConfig(level=logging.WARNING)
    # Beam logs the traceback of every failure on top of raising it; what fails is said once, by `main` or by Python.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # What a job server says goes through no logger of Beam's, but through the root itself.
    logging.getLogger().addFilter(lambda record: False)
    # A launcher that is told to stop takes its job server with it, as it does at the end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(program())
