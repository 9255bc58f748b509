"""`--plan` of Influence Distillation."""

from pipelines.builder import Chain
from pipelines.distillation_options import DistillationOptions
from pipelines.inputs import Inputs
from pipelines.plan import describe_input


def describe(options: DistillationOptions, inputs: Inputs, chain: Chain) -> str:
    """Puts the plan of a run in words and a table.

    Args:
      options: The flags.
      inputs: What was found.
      chain: The stages.
    """
    policy = f"influence distillation, {options.budget.amount:,} {options.budget.unit}"
    return "\n".join(describe_input(inputs, chain, policy))
