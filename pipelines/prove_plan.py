"""`--plan` of a proof."""

from beam_quad.gradients.proxy import default_context_length
from beam_quad.plan import proof
from beam_quad.proof.held_out import HELD_OUT_SHARE
from beam_quad.stages.proof.train import TrainOn
from pipelines import plan
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.prove_options import ProveOptions


def describe(options: ProveOptions, inputs: Inputs, chain: Chain) -> str:
    """Puts the plan of a proof in a few lines.

    Args:
      options: The flags.
      inputs: The checked inputs.
      chain: The stages.
    """
    trained = next(stage for stage in chain.stages if isinstance(stage, TrainOn))
    draws = trained.measured.drawn[0].draws
    names = [drawn.contender for drawn in trained.measured.drawn]
    start = trained.start
    skeleton = start.skeleton()
    num_parameters = skeleton.num_parameters()
    context_length = default_context_length(skeleton.config, start.spec)
    recipe = start.recipe(skeleton, draws.num_tokens, context_length, trained.learning_rate)
    trainings = len(names) * draws.num_seeds
    tokens = trainings * recipe.num_passes * draws.num_tokens
    passes = f"{recipe.num_passes} passes over " if recipe.num_passes > 1 else ""
    times = start.num_models(draws.num_seeds) + trainings
    measured = times * _measured_tokens(options, inputs, chain, trained)
    costs = proof.plan_cost(
        num_parameters, trainings, tokens, times, measured, inputs.corpus.num_rows, plan.machines(options)
    )  # fmt: skip
    return "\n".join(
        [
            f"proves    {options.output}",
            f"against   {', '.join(names[1:])}",
            f"stages    {', '.join(stage.name for stage in chain.stages)}",
            f"trains    {trainings} times {passes}{draws.num_tokens:,} tokens = {tokens:,} tokens"
            f"{', from scratch' if start.is_from_scratch else ''}",
            f"measures  {times} times, about {measured:,} tokens in all",
            f"model     {num_parameters:,} parameters",
            "",
            plan.table(costs, chain),
        ]
    )


def _measured_tokens(options: ProveOptions, inputs: Inputs, chain: Chain, trained: TrainOn) -> int:
    """Estimates the tokens that are measured at a time."""
    measured, tokenizer = trained.measured, trained.start.tokenizer()
    general = min(options.general_texts, inputs.corpus.num_rows)
    tokens = general * plan.text_lengths(inputs.corpus, measured.corpus.columns, tokenizer).tokens
    groups = [(chain.plans[query.plan_path], query) for query in measured.held_out]
    shares = [HELD_OUT_SHARE if query.sets_aside else 1.0 for _, query in groups]
    for (found, query), share in zip(groups, shares, strict=True):
        texts = min(found.num_rows * share, options.heldout_texts)
        tokens += texts * plan.text_lengths(found, query.columns, tokenizer).tokens
    return round(tokens)
