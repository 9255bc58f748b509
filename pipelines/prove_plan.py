"""`--plan` of a proof."""

from beam_quad.gradients.proxy import default_context_length, load_skeleton
from beam_quad.stages.proof.train import TrainOn
from pipelines import plan
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.prove_options import ProveOptions


def describe(options: ProveOptions, inputs: Inputs, chain: Chain) -> str:
    """Puts the plan of a proof in a few lines.

    Args:
      options: The flags.
      inputs: What was found.
      chain: The stages.
    """
    trained = next(stage for stage in chain.stages if isinstance(stage, TrainOn))
    draws = trained.measured.drawn[0].draws
    names = [drawn.contender for drawn in trained.measured.drawn]
    spec = trained.proxy.spec
    skeleton = load_skeleton(spec)
    num_parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    trainings = len(names) * draws.num_seeds
    tokens = trainings * draws.num_tokens
    # Of a text that is measured at most its windows are read.
    longest = default_context_length(skeleton.config, spec) * spec.max_windows
    measured = (1 + trainings) * (options.heldout_texts + options.general_texts) * longest
    # Forward and backward are 6 operations a parameter and token, a forward alone 2. Parameters are float32 while they
    # are trained.
    training, measuring = 6.0 * num_parameters * tokens, 2.0 * num_parameters * measured
    float32 = plan.device(options, "float32")
    hours = float32.hours(training) + plan.device(options, options.dtype).hours(measuring)
    return "\n".join(
        [
            f"proves    {options.output}",
            f"against   {', '.join(names[1:])}",
            f"stages    {', '.join(stage.name for stage in chain.stages)}",
            f"trains    {trainings} times {draws.num_tokens:,} tokens = {tokens:,} tokens",
            f"measures  {1 + trainings} times, at most {measured:,} tokens in all",
            f"costs     {training + measuring:.2g} FLOPs with {num_parameters:,} parameters",
            f"takes     at most {hours:.2g} h on {float32.name}",
        ]
    )
