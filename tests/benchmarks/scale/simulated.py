"""A corpus and machines that nobody has at hand, priced by the functions of `--plan`."""

import dataclasses
import functools

import torch
import transformers

from beam_quad.distillation import default_num_landmarks
from beam_quad.embedding import EmbedderCosts, EmbedderSpec, StaticSpec, embedder_costs
from beam_quad.embedding.spec import static_source
from beam_quad.gradients import find_blocks
from beam_quad.plan.cost import CostPlan, Machines, Workload
from beam_quad.plan.devices import Device, chip_named
from beam_quad.plan.distillation import DistillationWorkload
from beam_quad.plan.distillation import plan_cost as distillation_cost
from beam_quad.plan.prices import Prices
from beam_quad.records import Budget
from beam_quad.scoring import ScoringCosts
from pipelines import chain, distillation_options, options, plan, quad_plan
from pipelines.distillation_options import DistillationOptions
from pipelines.options import QuadOptions
from tests.benchmarks.shapes import MODELS

PIPELINES = ("shortlist", "block", "distill")
# Stages that cut a ranking of one target.
_CUT_PASSES = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """What is simulated.

    Attributes:
      documents: Documents of the corpus.
      document_bytes: Bytes of a text.
      token_bytes: Bytes of a token.
      compression: Bytes of text for each that is stored.
      shards: Files, each of which is one piece of work.
      budget_tokens: Tokens to select.
      num_clusters: Clusters; None for the default.
      query_documents: Texts of the query set, as long as those of the corpus.
      proxy: Shape of the proxy, of `MODELS`.
    """

    documents: int
    document_bytes: int
    token_bytes: float
    compression: float
    shards: int
    budget_tokens: int
    num_clusters: int | None
    query_documents: int
    proxy: str

    @property
    def mean_tokens(self) -> float:
        """Tokens of a document."""
        return self.document_bytes / self.token_bytes


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Machines.

    Attributes:
      chip: Name of the GPU.
      devices: Workers with a GPU.
      device_cores: Cores of each.
      workers: Workers without one.
      worker_cores: Cores of each.
      stage_s: Seconds that a stage of the chain takes at least.
      prices: What they cost.
    """

    chip: str
    devices: int
    device_cores: int
    workers: int
    worker_cores: int
    stage_s: float
    prices: Prices

    def machines(self) -> Machines:
        """Turns it into what a plan takes.

        Raises:
          ValueError: If the GPU is not in the table of chips.
        """
        chip = chip_named(self.chip)
        if chip is None:
            raise ValueError(f"there is no {self.chip!r} in beam_quad.plan.devices")
        own, float32 = (Device.gpu(chip, dtype, self.devices) for dtype in ("bfloat16", "float32"))
        return Machines(
            own,
            float32,
            self.workers * self.worker_cores,
            self.devices * self.device_cores,
            prices=self.prices,
            stage_s=self.stage_s,
        )


def simulate(pipeline: str, case: Case, machines: Machines) -> CostPlan:
    """Prices a run.

    Args:
      pipeline: "shortlist" or "block", acceptances of Quad, or "distill", Influence Distillation of one target.
      case: The corpus.
      machines: What does the work.
    """
    shared = ["--input=i", "--query=q", "--output=o", "--proxy_model=p", "--device=cuda"]
    if pipeline == "distill":
        flags, _ = distillation_options.parse([*shared, f"--budget_tokens={case.budget_tokens}"])
        return distillation_cost(_distillation(flags, case), machines)
    clusters = [] if case.num_clusters is None else [f"--num_clusters={case.num_clusters}"]
    budget = f"--budget_tokens={case.budget_tokens}"
    quad, _ = options.parse([*shared, budget, f"--acceptance={pipeline}", *clusters])
    rate = chain.share_set_aside(quad, _Rows(case.documents))  # type: ignore[arg-type]
    return quad_plan.price_workload(quad, _workload(quad, case, rate), machines)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """As much of an input plan as decides which share of the texts is set aside."""

    num_rows: int


def _workload(flags: QuadOptions | DistillationOptions, case: Case, rate: float) -> Workload:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(MODELS[case.proxy])
    scoring = ScoringCosts.of(model, find_blocks(model, flags.layers))
    embedder = _embedder_costs(flags.embedder)
    text_bytes = case.documents * case.document_bytes
    return Workload(
        documents=case.documents,
        tokens=round(case.documents * case.mean_tokens),
        input_bytes=round(text_bytes / case.compression),
        text_bytes=text_bytes,
        splits=case.shards,
        budget=Budget(case.budget_tokens),
        reserve_examples=round(rate * case.documents),
        scoring=scoring,
        context_length=1024,
        max_windows=flags.max_windows,
        curvature=flags.curvature,
        embedding_dim=embedder.dim,
        embedder_flops=embedder.flops(case.mean_tokens),
        embedder_tokens=embedder.read_tokens(case.mean_tokens),
        counts_tokens=True,
        embeds_in_float32=False,
        curvature_examples=min(flags.curvature_examples, case.documents),
        factor_bytes=plan.factor_bytes(flags.curvature, scoring),
        query_tokens=round(case.query_documents * case.mean_tokens),
        num_query_vectors=1,
        vector_bytes=plan.vector_bytes([1], scoring),
    )


@functools.cache
def _embedder_costs(name: str) -> EmbedderCosts:
    if (source := static_source(name)) is not None:
        return embedder_costs(StaticSpec(EmbedderSpec(source)))
    return embedder_costs(EmbedderSpec(name, dtype="bfloat16"))


def _distillation(flags: DistillationOptions, case: Case) -> DistillationWorkload:
    rate = chain.reserve_rate(_Rows(case.documents), flags.reserve_examples)  # type: ignore[arg-type]
    return DistillationWorkload(
        **vars(_workload(flags, case, rate)),
        num_landmarks=default_num_landmarks(case.documents),
        is_sketched=False,
        sketch_dim=flags.sketch_dim,
        sketch_entries=flags.sketch_entries,
        num_passes=_CUT_PASSES,
        second_order=None,
    )
