"""`--plan` of Quad."""

import dataclasses

from beam_quad.bandit import default_samples_per_pull
from beam_quad.clustering import default_num_clusters
from beam_quad.plan import shortlist
from beam_quad.plan.cost import CostPlan, format_plan
from beam_quad.plan.quad import QuadWorkload, plan_cost
from beam_quad.records import Budget
from pipelines import plan
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions


def describe(options: QuadOptions, inputs: Inputs, chain: Chain) -> str:
    """Puts the plan of a run in words and a table.

    Args:
      options: The flags.
      inputs: What was found.
      chain: The stages.
    """
    policy = f"{options.policy}, {options.budget_tokens:,} tokens"
    if options.policy == "quad":
        policy += f", {options.acceptance} acceptance"
    lines = plan.describe_input(inputs, chain, policy)
    costs = price(options, inputs, chain)
    if costs is not None:
        lines += ["", format_plan(costs)]
    return "\n".join(lines)


def price(options: QuadOptions, inputs: Inputs, chain: Chain) -> CostPlan | None:
    """Estimates what a run costs, stage by stage; None for a baseline. Arguments as for `describe`."""
    models = plan.Models.of(inputs) if options.policy == "quad" else None
    if models is None:
        return None
    machines = plan.machines(options)
    if options.is_shortlist:
        listed = _shortlist_workload(options, inputs, chain, models)
        costs = shortlist.plan_cost(listed, machines)
        if inputs.base is None:
            costs = dataclasses.replace(costs, notes=(*costs.notes, shortlist.cheaper(listed)))
    else:
        costs = plan_cost(_workload(options, inputs, chain, models), machines)
    return plan.refreshed(costs, inputs, options)


def _workload(
    options: QuadOptions, inputs: Inputs, chain: Chain, models: plan.Models
) -> QuadWorkload:
    shared = vars(
        plan.shared_workload(options, inputs, chain, Budget(options.budget_tokens), models)
    )
    documents, scoring = shared["documents"], shared["scoring"]
    num_clusters = options.num_clusters or default_num_clusters(documents)
    samples = options.samples_per_pull or default_samples_per_pull(documents, num_clusters)
    # Several groups' vectors are combined, into one more.
    combined = scoring.vector_bytes if len(inputs.query) > 1 else 0
    return QuadWorkload(
        **shared | {"vector_bytes": shared["vector_bytes"] + combined},
        num_clusters=num_clusters,
        num_rounds=options.num_rounds,
        samples_per_pull=samples,
        blocks_per_cluster=options.blocks_per_cluster,
        normalize=options.normalize,
    )


def _shortlist_workload(
    options: QuadOptions, inputs: Inputs, chain: Chain, models: plan.Models
) -> shortlist.ShortlistWorkload:
    shared = plan.shared_workload(options, inputs, chain, Budget(options.budget_tokens), models)
    return shortlist.ShortlistWorkload(
        **vars(shared),
        num_clusters=options.num_clusters or default_num_clusters(shared.documents),
        normalize=options.normalize,
        shortlist=options.shortlist,
    )
