"""Cost of finding near-duplicates, a line of every plan."""

import dataclasses

from beam_quad.plan import rates
from beam_quad.plan.cost import CostPlan, StageWork, Workload
from beam_quad.selection.near_duplicates import (
    COMPARED_BUDGETS,
    NUM_HASHES,
    SIGNATURE_DTYPE,
    band_rows,
)

_BAND_BYTES = 16


def with_near_duplicates(
    costs: CostPlan, workload: Workload, threshold: float, budgets: float = 1.0
) -> CostPlan:
    """Adds the line of near-duplicates to a plan, before the line of writing.

    Args:
      costs: The plan without it.
      workload: Inputs of the plan.
      threshold: Similarity of near-duplicates, in (0, 1].
      budgets: Length of the compared part of the ranking, in multiples of the budget.
    """
    work = near_duplicates_stage(workload, threshold, budgets)
    *stages, written = costs.stages
    line = costs.machines.price(work, workload.splits)
    return dataclasses.replace(costs, stages=(*stages, line, written))


def near_duplicates_stage(w: Workload, threshold: float, budgets: float = 1.0) -> StageWork:
    """Prices the search for near-duplicates, assuming that the compared documents fill the budget.

    Texts are signed while they are embedded; signatures are compared within a few budgets. Arguments as for
    `with_near_duplicates`.
    """
    share = min(1.0, COMPARED_BUDGETS * budgets * w.budget.share(w.documents, w.tokens))
    compared = round(share * w.documents)
    return StageWork(
        "near-duplicates",
        ("SignTexts", "LinkCandidates", "FindNearDuplicates"),
        compared,
        num_stages=3,
        requests=rates.requests(w.splits, rates.PASS, rates.PASS, rates.PASS),
        core_s=w.text_bytes * rates.SIGN_BYTE_S + compared * rates.COMPARE_ROW_S,
        bytes_shuffled=float(_BAND_BYTES * (NUM_HASHES // band_rows(threshold)) * compared),
        bytes_stored=float(SIGNATURE_DTYPE.itemsize * NUM_HASHES * w.documents),
    )
