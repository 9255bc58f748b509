"""Cost estimate of a run from counts alone, shared by the tables that `--plan` prints before a run starts.

Each stage states its work independently of machines (`StageWork`); machines and prices convert it to hours and dollars
(`StageCost`). The estimate is rough by design: floating-point operations by the usual rules, at a throughput stated in the output,
and CPU time at the unit costs of `rates`.

    proxy model               `ScoringCosts`   its shapes, tracked layers and the windows' mean length
    embedder                  2 P              per token, P an encoder's parameters; `jvp_costs` of the proxy's blocks
"""

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Sequence
from typing import Literal

from beam_quad.plan import rates
from beam_quad.plan.devices import Device
from beam_quad.plan.prices import LIST_PRICES, Prices
from beam_quad.plan.rates import Requests
from beam_quad.records import Budget
from beam_quad.report.formatting import compact, duration, size
from beam_quad.scoring.costs import ScoringCosts

# Maximum characters per token passed to an encoder; see `embedding.sentence`.
_CHARACTERS_PER_TOKEN = 8


@dataclasses.dataclass(frozen=True)
class Workload:
    """Inputs of the plan of any pipeline.

    Attributes:
      documents: Examples of the corpus, estimated if they are not counted.
      tokens: Tokens of the corpus, estimated.
      input_bytes: Compressed size of the input files.
      text_bytes: Size of the texts, estimated.
      splits: Number of splits of the input.
      budget: How much to select.
      reserve_examples: Examples with text set aside in the reserve.
      scoring: Costs of the proxy model and its tracked layers.
      context_length: Tokens of a window.
      max_windows: Maximum number of windows scored per example.
      curvature: "ekfac", "kfac", or "identity" (none).
      embedding_dim: Dimension of an embedding.
      embedder_flops: Floating-point operations to embed a mean example; 0 for hashing.
      embedder_tokens: Tokens that an encoder reads from a mean example; 0 for hashing.
      counts_tokens: Whether the proxy's tokenizer counts tokens, rather than a column giving them.
      embeds_in_float32: Whether texts are embedded in float32 whatever the proxy's dtype.
      curvature_examples: Examples to which the factors are fitted.
      factor_bytes: Stored bytes of factors, eigenvectors and eigenvalues.
      query_tokens: Tokens of the query set.
      num_query_vectors: Number of query vectors, one per query group.
      vector_bytes: Stored bytes of query gradients and vectors.
    """

    documents: int
    tokens: int
    input_bytes: int
    text_bytes: int
    splits: int
    budget: Budget
    reserve_examples: int
    scoring: ScoringCosts
    context_length: int
    max_windows: int
    curvature: Literal["ekfac", "kfac", "identity"]
    embedding_dim: int
    embedder_flops: float
    embedder_tokens: float
    counts_tokens: bool
    embeds_in_float32: bool
    curvature_examples: int
    factor_bytes: int
    query_tokens: int
    num_query_vectors: int
    vector_bytes: int

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of an example."""
        return self.tokens / max(self.documents, 1)

    @property
    def scored_tokens(self) -> float:
        """Scored tokens of a mean example."""
        return min(self.mean_tokens, self.context_length * self.max_windows)

    @property
    def window_tokens(self) -> float:
        """Tokens of a window of a mean example."""
        return min(self.mean_tokens, self.context_length)

    @property
    def example_bytes(self) -> float:
        """Compressed bytes of a mean example; texts in artifacts and shuffles are assumed to compress like the input."""
        return self.input_bytes / max(self.documents, 1)

    @property
    def example_text_bytes(self) -> float:
        """Bytes of the text of a mean example."""
        return self.text_bytes / max(self.documents, 1)


@dataclasses.dataclass(frozen=True)
class StageWork:
    """The work of one line of the plan, independent of machines.

    Attributes:
      name: Name of the line.
      covers: Names of the chain's stages covered by the line; `*` at the end matches any suffix.
      documents: Number of examples processed.
      num_stages: Number of stages covered.
      requests: Requests to an object store.
      is_model: Whether the line runs a model on the devices.
      flops: Floating-point operations of the model in the proxy's dtype.
      float32_flops: Floating-point operations of the model in float32, whatever the proxy's dtype.
      cpu_flops: Floating-point operations on CPUs, shared by all workers.
      core_s: Other CPU time shared by all workers, in core seconds.
      alone_flops: Floating-point operations on one core while all other workers wait.
      flops_per_core_s: Rate at which a core does `cpu_flops` and `alone_flops`, per second.
      alone_s: Other CPU time on one core while all other workers wait, in seconds.
      memory_bytes: Memory of the largest process, beyond the memory of any process.
      bytes_read: Compressed input read, without the run's own artifacts.
      bytes_shuffled: Bytes shuffled between workers.
      bytes_stored: Bytes stored in artifacts or the output.
    """

    name: str
    covers: tuple[str, ...]
    documents: int
    num_stages: int = 1
    requests: Requests = rates.NO_REQUESTS
    is_model: bool = False
    flops: float = 0.0
    float32_flops: float = 0.0
    cpu_flops: float = 0.0
    core_s: float = 0.0
    alone_flops: float = 0.0
    alone_s: float = 0.0
    flops_per_core_s: float = rates.CORE_FLOPS_PER_S
    memory_bytes: float = 0.0
    bytes_read: float = 0.0
    bytes_shuffled: float = 0.0
    bytes_stored: float = 0.0

    @property
    def total_flops(self) -> float:
        """Sum of all floating-point operations."""
        return self.flops + self.float32_flops + self.cpu_flops + self.alone_flops


@dataclasses.dataclass(frozen=True)
class Machines:
    """The machines of a run and their prices.

    Attributes:
      proxy: The devices of the models, at the rate of the proxy's dtype.
      float32: The same devices at the rate of float32, for work that is float32 whatever the proxy's dtype.
      cores: CPU cores of all workers without a device.
      device_cores: CPU cores of workers with a device; if models run on CPUs, cores of all workers.
      memory_per_core: Memory paid for with each core, in bytes.
      prices: Prices of the machines, shuffles and storage.
      stage_s: Minimum duration of a stage, in seconds.

    Raises:
      ValueError: If the counts of `proxy` and `float32` differ.
    """

    proxy: Device
    float32: Device
    cores: int
    device_cores: int
    memory_per_core: float = 4e9
    prices: Prices = LIST_PRICES
    stage_s: float = rates.STAGE_S

    def __post_init__(self) -> None:
        if self.proxy.count != self.float32.count:
            raise ValueError(f"got {self.proxy.count} and {self.float32.count} of the same devices")

    def price(self, work: StageWork, splits: int) -> "StageCost":
        """Converts the work of a line to hours and dollars.

        Devices and their cores are paid for as long as the model runs, other cores only for the time they compute.

        Args:
          work: Work of the line.
          splits: Number of splits of the corpus, which every process lists in memory.
        """
        has_device = work.is_model and self.proxy.chip is not None
        device_s = (
            work.flops / self.proxy.flops_per_s + work.float32_flops / self.float32.flops_per_s
        )
        core_s = work.core_s + work.cpu_flops / work.flops_per_core_s
        alone_s = work.alone_s + work.alone_flops / work.flops_per_core_s
        shared_s = core_s / (self.device_cores if work.is_model else self.cores)
        # A device computes while cores read and tokenise. Without a device, the cores do both in turn.
        parallel_s = max(device_s, shared_s) if has_device else device_s + shared_s
        hours = (parallel_s + alone_s + work.num_stages * self.stage_s) / 3600
        device_hours = self.proxy.count * hours if has_device else 0.0
        busy_s = core_s + alone_s + (0.0 if has_device else device_s * self.proxy.count)
        core_hours = self.device_cores * hours if has_device else busy_s / 3600
        return StageCost(
            **{name: getattr(work, name) for name in _AS_THEY_ARE},
            flops=work.total_flops,
            hours=hours,
            core_hours=core_hours,
            device_hours=device_hours,
            memory_bytes=rates.PROCESS_BYTES + rates.SPLIT_BYTES * splits + work.memory_bytes,
            requests=sum(work.requests),
            dollars=self._dollars(work, core_hours, device_hours),
        )

    def _dollars(self, work: StageWork, core_hours: float, device_hours: float) -> float | None:
        of_devices = self.prices.of_devices(device_hours, self.proxy.chip)
        if of_devices is None:
            return None
        return (
            of_devices
            + self.prices.of_cores(core_hours, self.memory_per_core)
            + self.prices.of_bytes(work.bytes_shuffled, work.bytes_stored)
            + self.prices.of_requests(*work.requests)
        )


@dataclasses.dataclass(frozen=True)
class StageCost:
    """One line of the plan.

    Attributes:
      name: Name of the line.
      covers: As in `StageWork`.
      documents: Number of examples processed.
      is_model: Whether the line runs a model.
      flops: Floating-point operations.
      hours: Estimated hours from start to end.
      core_hours: Paid hours of CPU cores.
      device_hours: Paid hours of GPUs.
      memory_bytes: Memory of the largest process, without the model itself.
      bytes_read: Compressed input read, without the run's own artifacts.
      bytes_shuffled: Bytes shuffled between workers.
      bytes_stored: Bytes stored in artifacts or the output.
      requests: Number of requests to an object store.
      dollars: Total price, with a month of storage; None if the device has no price.
      is_made: Whether its artifacts exist already, so it takes nothing.
    """

    name: str
    covers: tuple[str, ...]
    documents: int
    is_model: bool
    flops: float
    hours: float
    core_hours: float
    device_hours: float
    memory_bytes: float
    bytes_read: float
    bytes_shuffled: float
    bytes_stored: float
    requests: float
    dollars: float | None
    is_made: bool = False

    def made(self) -> "StageCost":
        """The same stage once its artifacts are there: it takes nothing."""
        return StageCost(
            self.name,
            self.covers,
            self.documents,
            self.is_model,
            flops=0.0,
            hours=0.0,
            core_hours=0.0,
            device_hours=0.0,
            memory_bytes=0.0,
            bytes_read=0.0,
            bytes_shuffled=0.0,
            bytes_stored=0.0,
            requests=0.0,
            dollars=0.0,
            is_made=True,
        )

    def of(self, names: Sequence[str]) -> list[str]:
        """Which of a chain's stages it covers."""
        return [n for n in names if any(fnmatch.fnmatchcase(n, own) for own in self.covers)]


_AS_THEY_ARE = (
    "name", "covers", "documents", "is_model", "bytes_read", "bytes_shuffled", "bytes_stored",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CostPlan:
    """The plan of a run.

    Attributes:
      stages: The lines of the plan, in order.
      documents: Examples of the corpus.
      machines: The machines of the run.
      float32_work: Names of the work done at the rate of float32.
      notes: Lines below the table.
    """

    stages: tuple[StageCost, ...]
    documents: int
    machines: Machines
    float32_work: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        works: Sequence[StageWork],
        documents: int,
        splits: int,
        machines: Machines,
        float32_work: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> "CostPlan":
        """Prices stages; `splits` is the number of splits of the corpus, and other arguments are as the attributes."""
        stages = tuple(machines.price(work, splits) for work in works)
        return cls(stages, documents, machines, float32_work, notes)

    @property
    def hours(self) -> float:
        """Estimated hours of all stages in sequence."""
        return math.fsum(stage.hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Estimated hours of GPUs."""
        return math.fsum(stage.device_hours for stage in self.stages)

    @property
    def core_hours(self) -> float:
        """Estimated hours of CPU cores."""
        return math.fsum(stage.core_hours for stage in self.stages)

    @property
    def dollars(self) -> float | None:
        """Total price of the run; None if a stage has no price."""
        each = [stage.dollars for stage in self.stages]
        return None if None in each else math.fsum(d for d in each if d is not None)

    @property
    def bottleneck(self) -> StageCost:
        """The stage with the most hours."""
        return max(self.stages, key=lambda stage: stage.hours)

    def of_chain(self, names: Sequence[str]) -> dict[str, StageCost]:
        """Divides the hours of each line equally among the stages it covers.

        Args:
          names: Names of a chain's stages.

        Returns:
          The line of each covered stage, with the stage's share of the hours.
        """
        found: dict[str, StageCost] = {}
        for line in self.stages:
            covered = line.of(names)
            for name in covered:
                found[name] = dataclasses.replace(line, hours=line.hours / len(covered))
        return found

    def without_made(self, names: Sequence[str], made: Collection[str]) -> "CostPlan":
        """Takes off what is made already.

        A line of which the chain has no stage was made by an earlier run, from which this one goes on. Of a line of which
        some stages are left nothing is taken off, and a note says so.

        Args:
          names: Names of the chain's stages.
          made: Those of them of which all artifacts are there.
        """
        stages, notes = [], []
        for line in self.stages:
            covered = line.of(names)
            left = [name for name in covered if name not in made]
            stages.append(line if left else line.made())
            if left and len(left) < len(covered):
                number = len(covered) - len(left)
                notes.append(
                    f"{line.name}: {number} of {len(covered)} stages are made already; the line is of all"
                )
        return dataclasses.replace(self, stages=tuple(stages), notes=(*self.notes, *notes))


def embed_stage(w: Workload) -> StageWork:
    """Prices the stage that reads, tokenises and embeds the corpus, and sets texts aside."""
    flops = w.embedder_flops * w.documents
    return StageWork(
        "embed",
        ("EmbedExamples",),
        w.documents,
        requests=rates.requests(w.splits, "EmbedExamples"),
        is_model=w.embedder_flops > 0,
        flops=0.0 if w.embeds_in_float32 else flops,
        float32_flops=flops if w.embeds_in_float32 else 0.0,
        core_s=w.documents * rates.EMBED_ROW_S + _reading_s(w),
        bytes_read=w.input_bytes,
        bytes_stored=2.0 * w.documents * w.embedding_dim + w.reserve_examples * w.example_bytes,
    )


def _reading_s(w: Workload) -> float:
    """CPU time of tokenising for the proxy and an encoder, or of hashing, in seconds."""
    seconds = w.text_bytes * rates.TOKENISE_BYTE_S if w.counts_tokens else 0.0
    if not w.embedder_tokens:
        return seconds + w.text_bytes * rates.HASH_BYTE_S
    # Texts are cut before an encoder tokenises them, so the tail of a long text costs nothing.
    given = w.documents * w.embedder_tokens * _CHARACTERS_PER_TOKEN
    return seconds + min(w.text_bytes, given) * rates.WORDPIECE_BYTE_S


def curvature_stage(w: Workload) -> StageWork:
    """Prices the factors of the curvature and the query vectors: model passes, and sums in float32."""
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
    covers = (
        "SampleTexts",
        "SumCovariances",
        "Eigendecompose",
        "SumEigenvalues",
        "AddEigenvalues",
        "SumQueryGradients",
        "FitQueryVectors",
    )
    return StageWork(
        "curvature",
        covers,
        examples,
        # Without curvature only the two stages of the query vectors run.
        num_stages=len(covers) if examples else 2,
        is_model=True,
        # The sums run in float32, at another rate than the model.
        flops=flops - sums,
        float32_flops=sums,
        memory_bytes=w.scoring.fit_peak_bytes,
        bytes_shuffled=texts,
        bytes_stored=texts + w.factor_bytes + w.vector_bytes,
    )


def fit_note(w: Workload) -> str:
    """States the number of slices of layers in which curvature and query vectors are fitted, and a worker's peak memory."""
    if w.curvature == "identity":
        return ""
    slices = len(w.scoring.slice_backwards)
    passes = f"in {slices} slices of layers, " if slices > 1 else ""
    return f", fitted {passes}with up to {size(w.scoring.fit_peak_bytes)} beside the model"


def passes_stage(
    name: str,
    covers: tuple[str, ...],
    num_passes: int,
    documents: int,
    splits: int,
    *others: str,
) -> StageWork:
    """Prices passes over a few numbers of every row; `others` names stages that read more files than a pass."""
    return StageWork(
        name,
        covers,
        documents,
        num_stages=num_passes,
        requests=rates.requests(splits, *[rates.PASS] * (num_passes - len(others)), *others),
        core_s=num_passes * documents * rates.PASS_ROW_S,
    )


def paraphrases_stage(w: Workload, num_items: int) -> StageWork:
    """Prices the stages that embed items and compare what is selected with them, without the texts that are read once more."""
    covers = ("EmbedItems", "FlagParaphrases")
    flops = w.embedder_flops * num_items
    return dataclasses.replace(
        passes_stage("paraphrases", covers, len(covers), w.documents, w.splits),
        is_model=w.embedder_flops > 0,
        flops=0.0 if w.embeds_in_float32 else flops,
        float32_flops=flops if w.embeds_in_float32 else 0.0,
    )


def shares_stage(w: Workload) -> StageWork:
    """Prices the stages that read the columns of shares, at most all of the input, and count who meets which."""
    # With a bandit, documents drawn from each group are scored, at most half as many as in the pilot.
    draws = ("DrawForShares", "GatherShareDraws", "ScoreShareDraws", "ShiftGroups")
    covers = ("ReadPatterns", "CountPatterns", "GroupKeys", *draws)
    passes = passes_stage("shares", covers, 2, w.documents, w.splits, "WriteSelection")
    return dataclasses.replace(
        passes,
        core_s=passes.core_s + w.input_bytes * rates.COPIED_BYTE_S,
        bytes_read=w.input_bytes,
    )


def write_stage(w: Workload) -> StageWork:
    """Prices the stage that reads the input again, and writes the selection and the report page."""
    return StageWork(
        "write",
        ("WriteSelection",),
        w.documents,
        requests=rates.requests(w.splits, "WriteSelection"),
        core_s=w.input_bytes * rates.COPIED_BYTE_S,
        alone_s=rates.REPORT_S,
        bytes_read=w.input_bytes,
        bytes_stored=w.input_bytes * w.budget.share(w.documents, w.tokens),
    )


def float32_work(w: Workload, *others: str) -> tuple[str, ...]:
    """Names the work done in float32 whatever the proxy's dtype: an encoder if there is one, `others`, and sums."""
    has_encoder = w.embedder_flops > 0 and w.embeds_in_float32
    return (*["encoder"] * has_encoder, *others, "sums of the curvature")


def corpus_note(w: Workload, choices: str) -> str:
    """States the size of the corpus, the budget, and the pipeline's own choices."""
    return (
        f"corpus: {compact(w.documents)} examples, {compact(w.tokens)} tokens, {size(w.input_bytes)}; "
        f"budget: {compact(w.budget.amount)} {w.budget.unit}; {choices}"
    )


def format_plan(plan: CostPlan) -> str:
    """Formats a plan as a table for the terminal, with its assumptions below."""
    rows: list[tuple[str, ...]] = [
        ("stage", "examples", "FLOPs", "time", "core-h", "device-h", "read", "shuffled", "stored", "memory", "requests", "dollars")
    ]  # fmt: skip
    rows += [_row(stage) for stage in plan.stages]
    rows.append(_row(total(plan)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(n) if i == 0 else c.rjust(n) for i, (c, n) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", *plan.notes, *about_machines(plan.machines, plan.float32_work)])


def about_machines(machines: Machines, float32_work: Sequence[str]) -> tuple[str, ...]:
    """States the machines and prices that a plan assumes."""
    prices = machines.prices
    chip, of_device = machines.proxy.chip, ""
    if chip is not None:
        hour = prices.device_hour.get(chip)
        of_device = (
            f"; no price of {chip} is known, so that no dollars are told: pass --prices"
            if hour is None
            else f", ${hour:g} an hour of {chip}"
        )
    return (
        f"machines: models on {_model_devices(machines, float32_work)}, with {machines.device_cores} cores; the rest on {machines.cores} cores, "
        f"each tokenising {1e-6 / rates.TOKENISE_BYTE_S:g} MB of text a second; memory: of the largest process, without the model",
        f"prices: ${prices.core_hour:g} a core-hour, with {machines.memory_per_core / 1e9:g} GB at ${prices.memory_gb_hour:g}, "
        f"${prices.shuffled_gb:g} a GB shuffled, ${prices.stored_gb_month:g} a GB stored for a month{of_device}",
    )


def _model_devices(machines: Machines, float32_work: Sequence[str]) -> str:
    proxy, float32 = machines.proxy.name, machines.float32.name
    if proxy == float32:
        return proxy
    return f"{proxy}, {' and '.join(float32_work)} on {float32}"


def total(plan: CostPlan) -> StageCost:
    """Sums all stages; memory is the maximum over stages."""
    stages = plan.stages
    return StageCost(
        "total",
        (),
        plan.documents,
        False,
        math.fsum(s.flops for s in stages),
        plan.hours,
        plan.core_hours,
        plan.device_hours,
        max(s.memory_bytes for s in stages),
        math.fsum(s.bytes_read for s in stages),
        math.fsum(s.bytes_shuffled for s in stages),
        math.fsum(s.bytes_stored for s in stages),
        math.fsum(s.requests for s in stages),
        plan.dollars,
    )


def _row(stage: StageCost) -> tuple[str, ...]:
    if stage.is_made:
        return (stage.name, compact(stage.documents), "", "already made", *[""] * 8)
    sizes = (stage.bytes_read, stage.bytes_shuffled, stage.bytes_stored, stage.memory_bytes)
    return (
        stage.name,
        compact(stage.documents),
        f"{stage.flops:.1e}" if stage.flops else "",
        duration(stage.hours * 3600) if stage.hours else "",
        f"{stage.core_hours:,.3g}" if stage.core_hours else "",
        f"{stage.device_hours:,.3g}" if stage.device_hours else "",
        *(size(n) if n else "" for n in sizes),
        compact(stage.requests) if stage.requests else "",
        "" if stage.dollars is None else f"{stage.dollars:,.2f}",
    )
