"""`--plan` of Quad."""

import dataclasses

from beam_quad.bandit import default_samples_per_pull
from beam_quad.clustering import default_num_clusters
from beam_quad.plan import shortlist
from beam_quad.plan.cost import CostPlan, Machines, Workload
from beam_quad.plan.quad import QuadWorkload, plan_cost
from beam_quad.records import Budget
from pipelines import plan
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.options import QuadOptions


def describe(options: QuadOptions, inputs: Inputs, chain: Chain) -> str:
    """Describes the plan of a run in words and a table.

    Args:
      options: The flags.
      inputs: The checked inputs.
      chain: The stages.
    """
    policy = f"{options.policy}, {options.budget_tokens:,} tokens"
    if options.policy == "quad":
        policy += f", {options.acceptance} acceptance"
    lines = plan.describe_input(inputs, chain, policy)
    costs = price(options, inputs, chain)
    if costs is not None:
        lines += ["", plan.table(costs, chain)]
    return "\n".join(lines)


def price(
    options: QuadOptions, inputs: Inputs, chain: Chain, machines: Machines | None = None
) -> CostPlan | None:
    """Estimates the cost of a run by stage; None for a baseline.

    Args:
      options: The flags.
      inputs: The checked inputs.
      chain: The stages.
      machines: The machines of the run; by default those of the flags.
    """
    models = plan.Models.of(inputs) if options.policy == "quad" else None
    if models is None:
        return None
    budget = Budget(options.budget_tokens)
    shared = plan.shared_workload(options, inputs, chain, budget, models)
    costs = price_workload(options, shared, machines or plan.machines(options))
    costs = plan.with_paraphrases(plan.with_shares(costs, shared, inputs), shared, inputs)
    if options.is_shortlist and inputs.base is None:
        cheaper = shortlist.cheaper(_shortlist_workload(options, shared))
        costs = dataclasses.replace(costs, notes=(*costs.notes, cheaper))
    return plan.refreshed(costs, inputs)


def price_workload(options: QuadOptions, shared: Workload, machines: Machines) -> CostPlan:
    """Estimates the cost of the policy `quad` by its flags for any corpus; see `shared_workload`."""
    if options.is_shortlist:
        costs = shortlist.plan_cost(_shortlist_workload(options, shared), machines)
    else:
        costs = plan_cost(_bandit_workload(options, shared), machines)
    budgets = options.shortlist if options.is_shortlist else 1.0
    return plan.with_near_duplicates(costs, shared, options, budgets)


def _bandit_workload(options: QuadOptions, shared: Workload) -> QuadWorkload:
    documents = shared.documents
    num_clusters = options.num_clusters or default_num_clusters(documents)
    samples = options.samples_per_pull or default_samples_per_pull(documents, num_clusters)
    # Several groups' vectors are combined, into one more.
    combined = shared.scoring.vector_bytes if shared.num_query_vectors > 1 else 0
    return QuadWorkload(
        **vars(shared) | {"vector_bytes": shared.vector_bytes + combined},
        num_clusters=num_clusters,
        num_rounds=options.num_rounds,
        samples_per_pull=samples,
        blocks_per_cluster=options.blocks_per_cluster,
        normalize=options.normalize,
    )


def _shortlist_workload(options: QuadOptions, shared: Workload) -> shortlist.ShortlistWorkload:
    return shortlist.ShortlistWorkload(
        **vars(shared),
        num_clusters=options.num_clusters or default_num_clusters(shared.documents),
        normalize=options.normalize,
        shortlist=options.shortlist,
    )
