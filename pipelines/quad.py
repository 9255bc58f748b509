"""Selects pre-training data by influence and diversity: `python -m pipelines.quad --help`.

References:
  Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, ICLR 2025.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from beam_quad.errors import BeamQuadError, UsageError
from pipelines import options as flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline from a command line.

    Args:
      argv: Arguments without the program's name; None takes those of the process.

    Returns:
      Exit code: 0, 2 for a command that cannot be carried out as given, 1 for a run that failed.
    """
    try:
        options, beam_arguments = flags.parse(sys.argv[1:] if argv is None else argv)
        # Read when torch is loaded. Threads that spin while they wait halve the speed of a machine that does anything
        # else.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Only now: torch and transformers take seconds to import, for which a wrong flag shall not wait.
        from pipelines import launch

        return launch.run(options, beam_arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BeamQuadError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    # Beam logs the traceback of every failure on top of raising it; what fails is said once, by `main` or by Python.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # What a job server says goes through no logger of Beam's, but through the root itself.
    logging.getLogger().addFilter(lambda record: False)
    # A launcher that is told to stop takes its job server with it, as it does at the end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
