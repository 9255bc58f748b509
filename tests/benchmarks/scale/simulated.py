"""A corpus and machines that nobody has at hand, priced as `--plan` prices a run: the chain of its stages."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import transformers

from beam_quad.embedding import AnyEmbedderSpec, EmbedderSpec, StaticSpec, embedder_costs
from beam_quad.embedding.spec import static_source
from beam_quad.gradients import find_blocks
from beam_quad.plan.cost import CostPlan, Machines
from beam_quad.plan.devices import Device, chip_named
from beam_quad.plan.prices import Prices
from beam_quad.plan.work import Sizes, TextSizes
from beam_quad.records import PLAIN_QUERY
from beam_quad.scoring import ScoringCosts
from pipelines import chain, distillation_chain, distillation_options, options, plan
from pipelines.builder import Chain
from pipelines.inputs import Inputs
from pipelines.run_options import RunOptions
from tests.benchmarks.shapes import MODELS
from tests.plan.unseen import unseen_inputs

PIPELINES = ("shortlist", "block", "distill")
_CONTEXT_LENGTH = 1024

Flags = TypeVar("Flags", bound=RunOptions)


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
    shared = [
        "--input=i", "--query=q", "--output=o", "--proxy_model=p", "--device=cuda", f"--budget_tokens={case.budget_tokens}",
    ]  # fmt: skip
    if pipeline == "distill":
        distill, _ = distillation_options.parse(shared)
        return _price(distill, distillation_chain.build, case, machines)
    clusters = [] if case.num_clusters is None else [f"--num_clusters={case.num_clusters}"]
    quad, _ = options.parse([*shared, f"--acceptance={pipeline}", *clusters])
    return _price(quad, chain.build, case, machines)


def _price(
    flags: Flags, build: Callable[[Flags, Inputs], Chain], case: Case, machines: Machines
) -> CostPlan:
    sizes = sizes_of(flags, case)
    inputs = unseen_inputs(
        case.documents, {PLAIN_QUERY: case.query_documents}, _embedder(flags), _CONTEXT_LENGTH
    )
    built = build(flags, inputs)
    costs = plan.price_stages(sizes, inputs, built, {}, machines)
    return dataclasses.replace(costs, notes=plan.notes(built, sizes, costs))


def sizes_of(flags: RunOptions, case: Case) -> Sizes:
    """What the chain's work follows from."""
    corpus = _texts(case.documents, case, case.shards)
    skeleton = _skeleton(case.proxy)
    return Sizes(
        corpus=corpus,
        new=corpus,
        missing=corpus,
        query=(_texts(case.query_documents, case, 1),),
        embedder=embedder_costs(_embedder(flags)),
        scoring=ScoringCosts.of(skeleton, find_blocks(skeleton, flags.layers)),
        context_length=_CONTEXT_LENGTH,
        max_windows=flags.max_windows,
    )


def _texts(documents: int, case: Case, splits: int) -> TextSizes:
    text_bytes = documents * case.document_bytes
    tokens = round(documents * case.mean_tokens)
    return TextSizes(documents, tokens, round(text_bytes / case.compression), text_bytes, splits)


@functools.cache
def _skeleton(proxy: str) -> Any:
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(MODELS[proxy])


def _embedder(flags: RunOptions) -> AnyEmbedderSpec:
    if (source := static_source(flags.embedder)) is not None:
        return StaticSpec(EmbedderSpec(source))
    return EmbedderSpec(flags.embedder, dtype="bfloat16")
