"""`--plan` of Influence Distillation."""

from beam_quad.distillation import default_num_landmarks
from beam_quad.gradients.attention import eager_attention
from beam_quad.plan.cost import CostPlan, Workload
from beam_quad.plan.distillation import DistillationWorkload, SecondOrder, plan_cost
from beam_quad.scoring import ScoringCosts
from beam_quad.stages.distillation.allocate import TakeTurns
from beam_quad.stages.distillation.shortlist import SHORTLIST, GatherShortlist
from beam_quad.stages.distillation.sketch import SketchLandmarks
from beam_quad.stages.write.budget import CutBudget
from beam_quad.stages.write.taken import SumTaken
from beam_quad.stages.write.weights import FindBestLeft
from pipelines import plan
from pipelines.builder import Chain
from pipelines.distillation_options import DistillationOptions
from pipelines.inputs import Inputs

_READERS_OF_INFLUENCE = (CutBudget, TakeTurns, GatherShortlist, SumTaken, FindBestLeft)


def describe(options: DistillationOptions, inputs: Inputs, chain: Chain) -> str:
    """Describes the plan of a run in words and a table.

    Args:
      options: The flags.
      inputs: The checked inputs.
      chain: The stages.
    """
    documents = inputs.corpus.num_rows
    policy = f"influence distillation, {options.budget.amount:,} {options.budget.unit}"
    policy += f", {_num_landmarks(options, documents):,} landmarks"
    if documents < (options.num_landmarks or 0):
        policy += f" (all there are, of {options.num_landmarks:,} asked for)"
    lines = plan.describe_input(inputs, chain, policy)
    costs = price(options, inputs, chain)
    if costs is not None:
        lines += ["", plan.table(costs, chain)]
    return "\n".join(lines)


def price(options: DistillationOptions, inputs: Inputs, chain: Chain) -> CostPlan | None:
    """Estimates the cost of a run by stage; None without a proxy. Arguments as for `describe`."""
    models = plan.Models.of(inputs)
    if models is None:
        return None
    workload = _workload(options, inputs, chain, models)
    machines = plan.machines(options)
    costs = plan.with_near_duplicates(plan_cost(workload, machines), workload, options)
    costs = plan.with_paraphrases(plan.with_shares(costs, workload, inputs), workload, inputs)
    return plan.refreshed(costs, inputs)


def _workload(
    options: DistillationOptions, inputs: Inputs, chain: Chain, models: plan.Models
) -> DistillationWorkload:
    shared = plan.shared_workload(options, inputs, chain, options.budget, models)
    num_landmarks = _num_landmarks(options, shared.documents)
    second_order = None
    if options.order == 2:
        second_order = _second_order(options, inputs, models, shared, num_landmarks)
    return DistillationWorkload(
        **vars(shared),
        num_landmarks=num_landmarks,
        is_sketched=any(isinstance(stage, SketchLandmarks) for stage in chain.stages),
        sketch_dim=options.sketch_dim,
        sketch_entries=options.sketch_entries,
        num_passes=sum(isinstance(stage, _READERS_OF_INFLUENCE) for stage in chain.stages),
        second_order=second_order,
    )


def _num_landmarks(options: DistillationOptions, documents: int) -> int:
    return min(options.num_landmarks or default_num_landmarks(documents), documents)


def _second_order(
    options: DistillationOptions,
    inputs: Inputs,
    models: plan.Models,
    shared: Workload,
    num_landmarks: int,
) -> SecondOrder:
    with eager_attention(models.skeleton):
        scoring = ScoringCosts.of(models.skeleton, shared.scoring.blocks)
    num_texts = [query.num_rows for query in inputs.query.values()]
    return SecondOrder(
        scoring=scoring,
        num_landmarks=min(options.interaction_landmarks, num_landmarks),
        num_texts=sum(min(options.interaction_texts, number) for number in num_texts),
        mean_tokens=shared.query_tokens / max(1, sum(num_texts)),
        shortlist_examples=min(SHORTLIST.amount, shared.documents),
    )
