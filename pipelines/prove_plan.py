"""`--plan` of a proof."""

import dataclasses

from beam_quad.plan.cost import CostPlan
from beam_quad.plan.work import Sizes
from beam_quad.stages.proof.train import TrainOn
from pipelines import plan
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.prove_options import ProveOptions


def describe(options: ProveOptions, inputs: Inputs, chain: Chain) -> str:
    """Describes the plan of a proof in words and a table."""
    trained = _trained(chain)
    start, names = trained.start, [drawn.contender for drawn in trained.measured.drawn]
    planned = trained.planned(_sizes(options, inputs, chain))
    num_tokens = trained.measured.drawn[0].draws.num_tokens
    passes = f"{planned.num_passes} passes over " if planned.num_passes > 1 else ""
    return "\n".join(
        [
            f"proves    {options.output}",
            f"against   {', '.join(names[1:])}",
            f"stages    {', '.join(stage.name for stage in chain.stages)}",
            f"trains    {planned.trainings} times {passes}{num_tokens:,} tokens = {planned.num_tokens:,} tokens"
            f"{', from scratch' if start.is_from_scratch else ''}",
            f"measures  {planned.measurements} times, about {planned.measured_tokens:,} tokens in all",
            f"model     {planned.num_parameters:,} parameters",
            "",
            plan.table(price(options, inputs, chain), chain),
        ]
    )


def price(options: ProveOptions, inputs: Inputs, chain: Chain) -> CostPlan:
    """Estimates the cost of a proof by stage."""
    sizes = _sizes(options, inputs, chain)
    missing = plan.missing_splits(inputs.corpus, chain)
    return plan.price_stages(sizes, inputs, chain, missing, plan.machines_of(options))


def _trained(chain: Chain) -> TrainOn:
    return next(stage for stage in chain.stages if isinstance(stage, TrainOn))


def _sizes(options: ProveOptions, inputs: Inputs, chain: Chain) -> Sizes:
    trained = _trained(chain)
    tokenizer = trained.start.tokenizer()
    held_out = (
        plan.text_sizes(chain.plans[query.plan_path], query.columns, tokenizer)
        for query in trained.measured.held_out
    )
    return dataclasses.replace(plan.sizes_of(options, inputs, chain), held_out=tuple(held_out))
