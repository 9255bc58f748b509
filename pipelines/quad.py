"""Selects pre-training data by influence and diversity: `beam-quad select --help`.

References:
  Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, ICLR 2025.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import command

if TYPE_CHECKING:
    from pipelines import options
    from pipelines.launch import Program


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline from a command line; see `command.main`."""
    # Imported late, because the import takes time, and signals must be handled during it.
    from pipelines import options

    return command.main(options.parse, program, argv)


def program() -> "Program[options.QuadOptions]":
    """Imports the code of the pipeline, from flags to stages."""
    from pipelines import chain, launch

    return launch.Program(chain.build)


if __name__ == "__main__":
    command.run_as_program(main)
