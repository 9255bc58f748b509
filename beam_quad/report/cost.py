"""What a run would cost, from counts alone: what the tables that `--plan` prints before anything is started share.

Rough by design: floating-point operations by the usual rules, divided by a throughput that is named in the output, and
never below the time that reading the input takes.

    proxy model               `ScoringCosts`   its shapes, tracked layers and the windows' mean length
    embedder                  2 P              per token, P an encoder's parameters; `jvp_costs` of the proxy's blocks
"""

import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from typing import Literal

from beam_quad.records import Budget
from beam_quad.report.devices import Device
from beam_quad.report.formatting import compact, duration, size
from beam_quad.scoring.costs import ScoringCosts

_TEXT_BYTES_PER_TOKEN = 4  # English under a vocabulary of 32,000 to 128,000
# One core tokenises 1.5 MB of text a second (tokenizers 0.22, byte-level BPE, measured); decompression is faster.
_TEXT_BYTES_PER_CORE_S = 1.5e6
# Reading, filtering and writing again, in compressed bytes; an assumption.
_COPIED_BYTES_PER_CORE_S = 50e6


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the plan of any pipeline is computed from.

    Attributes:
      documents: Examples of the corpus, estimated where they are not counted.
      tokens: Their tokens, estimated.
      input_bytes: Size of the input files, compressed.
      budget: How much to select.
      reserve_examples: Examples whose texts are set aside.
      scoring: Costs of the proxy model and its tracked layers.
      context_length: Tokens of a window.
      max_windows: Windows of an example that are scored at most.
      curvature: "ekfac", "kfac", or "identity" (none).
      embedding_dim: Dimension of an embedding.
      embedder_flops: Floating-point operations of embedding a mean example; 0 for hashing.
      embeds_in_float32: Whether texts are embedded in float32, whatever the proxy's dtype is.
      curvature_examples: Examples that the factors are fitted on.
      factor_bytes: Factors, eigenvectors and eigenvalues that the run stores.
      query_tokens: Tokens of the query set.
      num_query_vectors: Query vectors, one a group.
      vector_bytes: Query gradients and vectors that the run stores.
      cores: CPU cores of all workers.
    """

    documents: int
    tokens: int
    input_bytes: int
    budget: Budget
    reserve_examples: int
    scoring: ScoringCosts
    context_length: int
    max_windows: int
    curvature: Literal["ekfac", "kfac", "identity"]
    embedding_dim: int
    embedder_flops: float
    embeds_in_float32: bool
    curvature_examples: int
    factor_bytes: int
    query_tokens: int
    num_query_vectors: int
    vector_bytes: int
    cores: int

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of an example."""
        return self.tokens / max(self.documents, 1)

    @property
    def scored_tokens(self) -> float:
        """Tokens of a mean example that are scored."""
        return min(self.mean_tokens, self.context_length * self.max_windows)

    @property
    def window_tokens(self) -> float:
        """Tokens of such an example's windows."""
        return min(self.mean_tokens, self.context_length)

    @property
    def example_bytes(self) -> float:
        """A mean example, compressed as the input is, and as its text is in artifacts and shuffles."""
        return self.input_bytes / max(self.documents, 1)


@dataclasses.dataclass(frozen=True)
class StageCost:
    """One line of the plan.

    Attributes:
      name: The stage.
      documents: Examples that it touches.
      flops: Floating-point operations.
      hours: Estimated hours from its start to its end.
      is_model: Whether it runs a model, on one of the plan's model devices.
      bytes_read: Compressed input that it reads; not its own artifacts.
      bytes_shuffled: What crosses between workers.
      bytes_stored: What it leaves in the artifacts or the output.
      covers: Names of the chain's stages that it prices together; `*` stands for any end of a name.
    """

    name: str
    documents: int
    flops: float
    hours: float
    is_model: bool = False
    bytes_read: float = 0.0
    bytes_shuffled: float = 0.0
    bytes_stored: float = 0.0
    covers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CostPlan:
    """The plan of a run.

    Attributes:
      stages: Its stages, in order.
      workload: What it was computed from.
      proxy_device: Where the proxy runs, at the rate of its dtype.
      float32_device: The same at the rate of float32, in which some work is done whatever the proxy's dtype is.
      cpu: Where everything else runs.
      float32_work: What runs at the rate of float32.
      notes: What stands below the table.

    Raises:
      ValueError: If the two devices of the models are not as many.
    """

    stages: tuple[StageCost, ...]
    workload: Workload
    proxy_device: Device
    float32_device: Device
    cpu: Device
    float32_work: tuple[str, ...]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.proxy_device.count != self.float32_device.count:
            raise ValueError(
                f"got {self.proxy_device.count} and {self.float32_device.count} of the same devices"
            )

    @property
    def hours(self) -> float:
        """Estimated hours of all stages, one after the other."""
        return math.fsum(stage.hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Estimated hours of the stages that run a model, times the number of devices."""
        return self.proxy_device.count * math.fsum(s.hours for s in self.stages if s.is_model)

    def of_chain(self, names: Sequence[str]) -> dict[str, StageCost]:
        """Shares the hours of each line equally among the stages that it covers.

        Args:
          names: Names of a chain's stages.

        Returns:
          The line of each covered stage, with the hours that are its own.
        """
        found: dict[str, StageCost] = {}
        for line in self.stages:
            covered = [n for n in names if any(fnmatch.fnmatchcase(n, own) for own in line.covers)]
            for name in covered:
                found[name] = dataclasses.replace(line, hours=line.hours / len(covered))
        return found


def embed_stage(w: Workload, proxy_device: Device, float32_device: Device) -> StageCost:
    """Prices the stage that reads, tokenises and embeds the corpus, and sets texts aside."""
    device = float32_device if w.embeds_in_float32 else proxy_device
    flops = w.embedder_flops * w.documents
    # This stage also counts the tokens of the whole corpus, which a fast encoder has to wait for.
    least_s = tokenising_s(w)
    return StageCost(
        "embed",
        w.documents,
        flops,
        device.hours(flops, least_s),
        is_model=w.embedder_flops > 0,
        bytes_read=w.input_bytes,
        bytes_stored=2.0 * w.documents * w.embedding_dim + w.reserve_examples * w.example_bytes,
        covers=("EmbedExamples",),
    )


def tokenising_s(w: Workload) -> float:
    """How long it takes to tokenise the corpus, in seconds."""
    return w.tokens * _TEXT_BYTES_PER_TOKEN / (_TEXT_BYTES_PER_CORE_S * w.cores)


def curvature_stage(w: Workload, proxy_device: Device, float32_device: Device) -> StageCost:
    """Prices the factors of the curvature and the query vectors: passes, and sums in float32."""
    examples = 0 if w.curvature == "identity" else w.curvature_examples
    per_token, sums_per_token = (
        w.scoring.covariance_flops(w.window_tokens),
        w.scoring.covariance_sum_flops,
    )
    if w.curvature == "ekfac":
        per_token += w.scoring.eigenvalue_flops(w.window_tokens)
        sums_per_token += w.scoring.eigenvalue_sum_flops
    fitted_tokens = examples * w.scored_tokens
    flops = per_token * fitted_tokens + w.scoring.query_flops(w.window_tokens) * w.query_tokens
    sums = sums_per_token * fitted_tokens + w.scoring.gradient_sum_flops * w.query_tokens
    texts = examples * w.example_bytes
    return StageCost(
        "curvature",
        examples,
        flops,
        proxy_device.hours(flops - sums) + float32_device.hours(sums),
        is_model=True,
        bytes_shuffled=texts,
        bytes_stored=texts + w.factor_bytes + w.vector_bytes,
        covers=(
            "SampleTexts",
            "SumCovariances",
            "Eigendecompose",
            "SumEigenvalues",
            "AddEigenvalues",
            "SumQueryGradients",
            "FitQueryVectors",
        ),
    )


def fit_note(w: Workload) -> str:
    """Says in how many slices of layers the curvature and the query vectors are fitted, and what a worker holds of them."""
    if w.curvature == "identity":
        return ""
    slices = len(w.scoring.slice_backwards)
    passes = f"in {slices} slices of layers, " if slices > 1 else ""
    return f", fitted {passes}with up to {size(w.scoring.fit_peak_bytes)} beside the model"


def write_stage(w: Workload) -> StageCost:
    """Prices the stage that reads the input once more and writes what is selected."""
    seconds = w.input_bytes / (_COPIED_BYTES_PER_CORE_S * w.cores)
    return StageCost(
        "write",
        w.documents,
        0.0,
        seconds / 3600,
        bytes_read=w.input_bytes,
        bytes_stored=w.input_bytes * w.budget.share(w.documents, w.tokens),
        covers=("WriteSelection",),
    )


def float32_work(w: Workload, *others: str) -> tuple[str, ...]:
    """Names what runs in float32 whatever the proxy's dtype is: the encoder, where there is one, sums, and others."""
    has_encoder = w.embedder_flops > 0 and w.embeds_in_float32
    return (*["encoder"] * has_encoder, *others, "sums of the curvature")


def corpus_note(w: Workload, choices: str) -> str:
    """Says what is selected from what, and by which choices of the pipeline's own."""
    return (
        f"corpus: {compact(w.documents)} examples, {compact(w.tokens)} tokens, {size(w.input_bytes)}; "
        f"budget: {compact(w.budget.amount)} {w.budget.unit}; {choices}"
    )


def format_plan(plan: CostPlan) -> str:
    """Formats a plan as a table for the terminal, with its assumptions below."""
    rows: list[tuple[str, ...]] = [
        ("stage", "examples", "FLOPs", "time", "read", "shuffled", "stored")
    ]
    rows += [_row(stage) for stage in plan.stages]
    rows.append(_row(_total(plan)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(n) if i == 0 else c.rjust(n) for i, (c, n) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    lines.insert(1, "-" * len(lines[0]))
    models = (
        f"models: {_model_devices(plan)}, {plan.device_hours:,.2g} device-hours; the rest: {plan.cpu.name}, "
        f"each tokenising {_TEXT_BYTES_PER_CORE_S / 1e6:g} MB of text a second"
    )
    return "\n".join([*lines, "", *plan.notes, models])


def _model_devices(plan: CostPlan) -> str:
    proxy, float32 = plan.proxy_device.name, plan.float32_device.name
    if proxy == float32:
        return proxy
    return f"proxy on {proxy}, {' and '.join(plan.float32_work)} on {float32}"


def _total(plan: CostPlan) -> StageCost:
    return StageCost(
        "total",
        plan.workload.documents,
        math.fsum(s.flops for s in plan.stages),
        plan.hours,
        False,
        math.fsum(s.bytes_read for s in plan.stages),
        math.fsum(s.bytes_shuffled for s in plan.stages),
        math.fsum(s.bytes_stored for s in plan.stages),
    )


def _row(stage: StageCost) -> tuple[str, ...]:
    sizes = (stage.bytes_read, stage.bytes_shuffled, stage.bytes_stored)
    return (
        stage.name,
        compact(stage.documents),
        f"{stage.flops:.1e}" if stage.flops else "",
        duration(stage.hours * 3600) if stage.hours else "",
        *(size(n) if n else "" for n in sizes),
    )
