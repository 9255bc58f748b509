"""What it costs to find near-duplicates; a line of any plan."""

import dataclasses

from beam_quad.report.cost import CostPlan, StageCost, Workload
from beam_quad.selection.near_duplicates import (
    COMPARED_BUDGETS,
    NUM_HASHES,
    SIGNATURE_DTYPE,
    band_rows,
)

_TEXT_BYTES_PER_TOKEN = 4
# Measured by `tests.benchmarks.twins`.
_SIGNED_BYTES_PER_CORE_S = 15e6
_COMPARED_PER_CORE_S = 100_000
_BAND_BYTES = 16


def with_near_duplicates(costs: CostPlan, threshold: float, budgets: float = 1.0) -> CostPlan:
    """Adds the line to a plan, before that of what is written.

    Args:
      costs: The plan without it.
      threshold: Similarity of near-duplicates, in (0, 1].
      budgets: What the ranking is cut at in which they are looked for, in budgets.
    """
    line = near_duplicates_stage(costs.workload, threshold, budgets)
    return dataclasses.replace(costs, stages=(*costs.stages[:-1], line, costs.stages[-1]))


def near_duplicates_stage(w: Workload, threshold: float, budgets: float = 1.0) -> StageCost:
    """Prices what finds near-duplicates, of a corpus in which those that are compared fill the budget.

    Texts are signed while they are embedded; signatures are compared of what a few budgets reach. Arguments as for
    `with_near_duplicates`.
    """
    share = min(1.0, COMPARED_BUDGETS * budgets * w.budget.share(w.documents, w.tokens))
    compared = round(share * w.documents)
    signed_s = w.tokens * _TEXT_BYTES_PER_TOKEN / _SIGNED_BYTES_PER_CORE_S
    seconds = (signed_s + compared / _COMPARED_PER_CORE_S) / w.cores
    return StageCost(
        "near-duplicates",
        compared,
        0.0,
        seconds / 3600,
        bytes_shuffled=float(_BAND_BYTES * (NUM_HASHES // band_rows(threshold)) * compared),
        bytes_stored=float(SIGNATURE_DTYPE.itemsize * NUM_HASHES * w.documents),
        covers=("SignTexts", "LinkCandidates", "FindNearDuplicates"),
    )
