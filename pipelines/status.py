"""Reports the progress of a run from its output alone: `beam-quad status --help`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from beam_quad.errors import BeamQuadError, UsageError
from pipelines import command, parsing

# The exit code of each state.
_CODES = {"complete": 0, "running": 3, "stopped": 4}


def main(argv: Sequence[str] | None = None) -> int:
    """Reads how the run of an output stands, and prints it.

    Args:
      argv: Arguments without the program's name; None takes those of the process.

    Returns:
      Exit code: 0 if the run is complete, 3 if it is running, 4 if it has stopped, 2 if there is none, 1 if the store
      cannot be read.
    """
    try:
        parser = _parser()
        arguments, for_beam = parser.parse_known_args(argv)
        parsing.refuse_unknown(for_beam, parser)
        return _tell(arguments, for_beam)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BeamQuadError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _tell(arguments: argparse.Namespace, for_beam: Sequence[str]) -> int:
    # Imported late, because Beam takes seconds and an invalid flag should fail at once.
    from beam_quad.artifacts import files
    from beam_quad.report.progress import RunProgress, as_json, lines
    from pipelines import dated, progress

    # Beam's flags for a store apply to this command as they do to a run.
    parsing.tell_stores(for_beam)
    output = files.absolute(arguments.output)
    if not progress.is_output(output):
        # The folder of a schedule: its outputs are named by their days.
        found_in = files.find(files.join(output, "*", "_run", "stages.json"))
        folders = (info.path.removesuffix("/_run/stages.json") for info in found_in)
        if (newest := dated.newest(dated.dated(folders))) is not None:
            print(f"the newest in {output}: {newest}", file=sys.stderr)
            output = newest
    run = progress.RecordedRun(output)

    def look() -> RunProgress:
        # Read the owner before the stages, because a run releases its lock once all stages are finished.
        owner = progress.owner_of(run.output)
        return run.look(owner)

    def show(found: RunProgress) -> None:
        print(json.dumps(as_json(found)) if arguments.json else "\n".join(lines(found)), flush=True)

    def say(line: str) -> None:
        if arguments.json:
            show(look())
        else:
            print(line, flush=True)

    def is_over(seconds: float) -> bool:
        time.sleep(seconds)
        # If the service of a job is unreachable, the lock outlives the job.
        return run.num_finished() == len(run.names) or progress.owner_of(run.output) is None

    # The state is told at once, before any waiting.
    found = look()
    show(found)
    if arguments.watch and found.state == "running":
        progress.follow(run, look, is_over, say)
        found = look()
        show(found)
    return _CODES[found.state]


def _parser() -> argparse.ArgumentParser:
    parser = parsing.Parser(
        prog="beam-quad status",
        description="Says how a run stands, from its output alone: from any machine, on any runner, while it runs and "
        "after. The exit code is 0 if it is complete, 3 if it is running, 4 if it has stopped, and 2 if there is none. Beam's "
        "flags, such as --s3_endpoint_url, reach a store as they do for a run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "output",
        help="the --output of the run, or a folder of dated ones, of which the newest is meant",
    )
    parser.add_argument("--watch", action="store_true", help="go on telling until the run ends")
    parser.add_argument(
        "--json", action="store_true", help="print an object of JSON in place of lines"
    )
    return parser


if __name__ == "__main__":
    command.run_as_program(main)
