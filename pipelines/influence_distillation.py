"""Selects pre-training data by influence propagated from landmarks: `beam-quad distill --help`.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import command

if TYPE_CHECKING:
    from pipelines import distillation_options
    from pipelines.launch import Program


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline from a command line; see `command.main`."""
    # Imported late, because the import takes time, and signals must be handled during it.
    from pipelines import distillation_options

    return command.main(distillation_options.parse, program, argv)


def program() -> "Program[distillation_options.DistillationOptions]":
    """Imports the code of the pipeline, from flags to stages."""
    from pipelines import distillation_chain, launch

    return launch.Program(distillation_chain.build)


if __name__ == "__main__":
    command.run_as_program(main)
