"""What a selection from a shortlist would cost; see `cost` and `quad`, which it adds this to."""

import dataclasses

from beam_quad.plan import cost
from beam_quad.plan.cost import CostPlan, StageCost
from beam_quad.plan.devices import Device
from beam_quad.plan.quad import (
    ClusteredWorkload,
    assign_stage,
    fit_centers_stage,
    proxy_note,
    score_stage,
)

_SCORE_BYTES = 8


@dataclasses.dataclass(frozen=True)
class ShortlistWorkload(ClusteredWorkload):
    """What the plan is computed from.

    Attributes:
      shortlist: Tokens of the shortlist, in budgets.
    """

    shortlist: float

    @property
    def listed(self) -> int:
        """Examples on the shortlist."""
        share = self.budget.share(self.documents, self.tokens)
        return min(self.documents, round(self.shortlist * share * self.documents))


def plan_cost(
    workload: ShortlistWorkload, proxy_device: Device, float32_device: Device
) -> CostPlan:
    """Estimates a run, stage by stage; arguments as for `quad.plan_cost`."""
    w, cpu = workload, Device.cpu(workload.cores)
    per_token = w.exact_flops(w.num_query_vectors)
    influence = score_stage("influence", "ScoreShortlist", w.listed, per_token, w, proxy_device)
    stages = (
        cost.embed_stage(w, proxy_device, float32_device),
        fit_centers_stage(w),
        assign_stage(w, cpu),
        _score_ngrams(w),
        cost.curvature_stage(w, proxy_device, float32_device),
        dataclasses.replace(
            influence,
            bytes_read=w.input_bytes,
            bytes_stored=float(_SCORE_BYTES * w.num_query_vectors * w.documents),
        ),
        cost.write_stage(w),
    )
    choices = f"a shortlist of {w.shortlist:g} budgets"
    return CostPlan(
        stages, w, proxy_device, float32_device, cpu,
        float32_work=cost.float32_work(w),
        notes=(cost.corpus_note(w, choices), proxy_note(w), *_cheaper(w)),
    )  # fmt: skip


def _score_ngrams(w: ShortlistWorkload) -> StageCost:
    return StageCost(
        "n-grams",
        w.documents,
        0.0,
        cost.tokenising_s(w) / 3600,
        bytes_read=w.input_bytes,
        bytes_stored=float(_SCORE_BYTES * w.num_query_vectors * w.documents),
        covers=("CountTokenNgrams", "ScoreNgrams"),
    )


def _cheaper(w: ShortlistWorkload) -> tuple[str, ...]:
    """Names the setting that scores fewer documents, which a large corpus may be better off with."""
    per_document = w.exact_flops(w.num_query_vectors) * w.scored_tokens
    return (
        f"cheaper: --acceptance=block scores some {8 * w.num_clusters:,} documents instead of {w.listed:,} "
        f"({per_document:.1e} FLOPs each), and selects less well; --policy=ngram scores none",
    )
