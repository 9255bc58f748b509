"""Cost of a selection from a shortlist; see `cost` and `quad`, which it extends."""

import dataclasses

from beam_quad.plan import cost, rates
from beam_quad.plan.cost import CostPlan, Machines, StageWork
from beam_quad.plan.quad import (
    ClusteredWorkload,
    assign_stage,
    fit_centers_stage,
    proxy_note,
    score_stage,
)
from beam_quad.scoring.ngrams import NUM_LOOKED_AT

_SCORE_BYTES = 8
_PASSES = (
    "CutShortlist*",
    "RankShortlist",
    "CutRanking*",
    "FindHeavyClusters",
    "ShowScores",
)


@dataclasses.dataclass(frozen=True)
class ShortlistWorkload(ClusteredWorkload):
    """Inputs of the plan of a run with a shortlist.

    Attributes:
      shortlist: Tokens of the shortlist, in multiples of the budget.
    """

    shortlist: float

    @property
    def listed(self) -> int:
        """Number of examples on the shortlist."""
        share = self.budget.share(self.documents, self.tokens)
        return min(self.documents, round(self.shortlist * share * self.documents))


def plan_cost(workload: ShortlistWorkload, machines: Machines) -> CostPlan:
    """Estimates a run stage by stage; arguments as for `quad.plan_cost`."""
    w = workload
    per_token = w.exact_flops(w.num_query_vectors)
    influence = score_stage("influence", "ScoreShortlist", w.listed, per_token, w)
    works = (
        cost.embed_stage(w),
        fit_centers_stage(w),
        assign_stage(w),
        _score_ngrams(w),
        cost.curvature_stage(w),
        # Unlike the rounds of a bandit, this stage reads the input again and stores scores of every example.
        dataclasses.replace(
            influence,
            requests=rates.requests(w.splits, "ScoreShortlist"),
            bytes_read=w.input_bytes,
            bytes_stored=float(_SCORE_BYTES * w.num_query_vectors * w.documents),
        ),
        dataclasses.replace(
            cost.passes_stage("rank, cut", _PASSES, 10, w.documents, w.splits, "ShowScores"),
            alone_s=rates.SHOWN_S,
        ),
        cost.write_stage(w),
    )
    choices = f"a shortlist of {w.shortlist:g} budgets"
    notes = (cost.corpus_note(w, choices), proxy_note(w))
    return CostPlan.of(works, w.documents, w.splits, machines, cost.float32_work(w), notes)


def _score_ngrams(w: ShortlistWorkload) -> StageWork:
    per_byte = rates.COUNT_NGRAMS_BYTE_S + rates.SCORE_NGRAMS_BYTE_S
    looked_at = min(NUM_LOOKED_AT, w.documents) * w.example_text_bytes
    names = ("CountTokenNgrams", "SampleFirstLook", "LookAhead", "ScoreNgrams")
    return StageWork(
        "n-grams",
        names,
        w.documents,
        num_stages=len(names),
        requests=rates.requests(w.splits, "CountTokenNgrams", "SampleFirstLook", "ScoreNgrams"),
        core_s=w.text_bytes * per_byte,
        alone_s=looked_at * rates.SCORE_NGRAMS_BYTE_S,
        memory_bytes=rates.NGRAMS_BYTES + rates.NGRAMS_TEXT_BYTES * w.example_text_bytes,
        bytes_read=w.input_bytes,
        bytes_stored=float(_SCORE_BYTES * w.num_query_vectors * w.documents),
    )


def cheaper(w: ShortlistWorkload) -> str:
    """Suggests settings that score fewer documents, which can be better for a large corpus."""
    if 8 * w.num_clusters >= w.listed:
        # As it is where the budget is small beside the corpus.
        return "cheaper: --policy=ngram scores no document by influence, and selects less well"
    per_document = w.exact_flops(w.num_query_vectors) * w.scored_tokens
    return (
        f"cheaper: --acceptance=block scores some {8 * w.num_clusters:,} documents instead of {w.listed:,} "
        f"({per_document:.1e} FLOPs each), and selects less well; --policy=ngram scores none"
    )
