"""Selects pre-training data by influence propagated from landmarks: `python -m pipelines.influence_distillation --help`.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, 2025.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import command
from pipelines import distillation_options as flags

if TYPE_CHECKING:
    from pipelines.launch import Wiring


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline from a command line; see `command.main`."""
    return command.main(flags.parse, _wiring, argv)


def _wiring() -> "Wiring[flags.DistillationOptions]":
    from pipelines import distillation_chain, distillation_plan, launch

    return launch.Wiring(distillation_chain.build, distillation_plan.describe)


if __name__ == "__main__":
    command.run_as_program(main)
