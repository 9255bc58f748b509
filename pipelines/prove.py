"""Measures what a finished selection is worth: `beam-quad prove --help`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import command

if TYPE_CHECKING:
    from pipelines import prove_options
    from pipelines.launch import Program


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline from a command line; see `command.main`."""
    # Imported late, because the import takes time, and signals must be handled during it.
    from pipelines import prove_options

    return command.main(prove_options.parse, _program, argv)


def _program() -> "Program[prove_options.ProveOptions]":
    from pipelines import launch, outputs, prove_chain, prove_plan

    return launch.Program(
        prove_chain.build, prove_plan.describe, prove_plan.price, outputs.ProofOutput()
    )


if __name__ == "__main__":
    command.run_as_program(main)
