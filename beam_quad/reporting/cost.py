"""What a run would cost, from counts alone: the table that `--plan` prints before anything is started.

Rough by design: floating-point operations by the usual rules, divided by a throughput that is named in the output, and
never below the time that reading the input takes.

    proxy model               `ScoringCosts`   its shapes, tracked layers and the windows' mean length
    embedder                  2 P              per token, P an encoder's parameters; `jvp_costs` of the proxy's blocks
    k-means, assignment       2 D              per example and center, D the dimension of an embedding
"""

import dataclasses
import math
from typing import Literal

from beam_quad.bandit import num_drawn
from beam_quad.bandit.rules import ROUND_MARGIN
from beam_quad.reporting.formatting import compact, duration, size
from beam_quad.scoring.costs import ScoringCosts

_KMEANS_POINTS_PER_CLUSTER = 256
_KMEANS_PASSES = 10
_ROW_ARTIFACT_BYTES = 24  # cluster, similarity, block and tokens of one example, before compression
_SCORE_BYTES = 128  # id, score and tokens of a scored example, in the file of its pulls and in that of its round
_TEXT_BYTES_PER_TOKEN = 4  # English under a vocabulary of 32,000 to 128,000
# One core tokenises 1.5 MB of text a second (tokenizers 0.22, byte-level BPE, measured); decompression is faster.
_TEXT_BYTES_PER_CORE_S = 1.5e6
# Reading, filtering and writing again, in compressed bytes; an assumption.
_COPIED_BYTES_PER_CORE_S = 50e6
# Peaks of an H100 SXM or H200: the tensor cores, dense; in float32 the CUDA cores, as torch leaves TF32 off.
_HOPPER_PEAKS = {
    "bfloat16": (989e12, "989 TFLOP/s bfloat16"),
    "float32": (67e12, "67 TFLOP/s float32 without TF32"),
}


@dataclasses.dataclass(frozen=True)
class Device:
    """A throughput assumption.

    Attributes:
      name: How it is named in the plan.
      flops_per_s: Sustained floating-point operations per second, of all devices together.
      count: Number of devices (of a CPU: of cores).
    """

    name: str
    flops_per_s: float
    count: int = 1

    @classmethod
    def hopper(cls, dtype: str, count: int = 1) -> "Device":
        """Assumes 40 % of what an H100 SXM or H200 does in a dtype at best.

        Args:
          dtype: "bfloat16" or "float32".
          count: Number of devices.

        Raises:
          ValueError: If the dtype is another one.
        """
        if dtype not in _HOPPER_PEAKS:
            raise ValueError(f"dtype must be one of {sorted(_HOPPER_PEAKS)}, got {dtype!r}")
        peak, words = _HOPPER_PEAKS[dtype]
        return cls(f"{count} x H100/H200 at 40 % of {words}", count * 0.4 * peak, count)

    @classmethod
    def cpu(cls, cores: int) -> "Device":
        """Assumes 50 GFLOP/s per core, float32."""
        return cls(f"{cores} CPU cores at 50 GFLOP/s", cores * 50e9, cores)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the plan is computed from.

    Attributes:
      documents: Examples of the corpus, estimated where they are not counted.
      tokens: Their tokens, estimated.
      input_bytes: Size of the input files, compressed.
      budget_tokens: Tokens to select.
      num_clusters: Clusters, that is arms.
      num_rounds: Rounds after the pilot.
      samples_per_pull: Examples scored in a pull.
      blocks_per_cluster: Blocks of a cluster.
      reserve_examples: Examples whose texts are set aside.
      scoring: Costs of the proxy model and its tracked layers.
      context_length: Tokens of a window.
      max_windows: Windows of an example that are scored at most.
      normalize: Whether scores are divided by the gradient's norm.
      is_two_forwards: Whether the rounds after the pilot are scored by two forwards.
      curvature: "ekfac", "kfac", or "identity" (none).
      embedding_dim: Dimension of an embedding.
      embedder_flops: Floating-point operations of embedding a mean example; 0 for hashing.
      embeds_with_proxy: Whether the proxy embeds, at the rate of its dtype, and not an encoder in float32.
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
    budget_tokens: int
    num_clusters: int
    num_rounds: int
    samples_per_pull: int
    blocks_per_cluster: int
    reserve_examples: int
    scoring: ScoringCosts
    context_length: int
    max_windows: int
    normalize: bool
    is_two_forwards: bool
    curvature: Literal["ekfac", "kfac", "identity"]
    embedding_dim: int
    embedder_flops: float
    embeds_with_proxy: bool
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

    @property
    def pulls(self) -> int:
        """Expected pulls after the pilot: blocks worth twice the budget, at least 8 a round."""
        blocks = self.num_clusters * self.blocks_per_cluster
        wanted = math.ceil(ROUND_MARGIN * self.budget_tokens / max(self.tokens, 1) * blocks)
        return min(max(wanted, 8 * self.num_rounds), blocks - self.num_clusters)


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
    """

    name: str
    documents: int
    flops: float
    hours: float
    is_model: bool = False
    bytes_read: float = 0.0
    bytes_shuffled: float = 0.0
    bytes_stored: float = 0.0


@dataclasses.dataclass(frozen=True)
class CostPlan:
    """The plan of a run.

    Attributes:
      stages: Its stages, in order.
      workload: What it was computed from.
      proxy_device: Where the proxy runs, at the rate of its dtype.
      float32_device: The same at the rate of float32, in which the encoder and two forwards run.
      cpu: Where everything else runs.
    """

    stages: tuple[StageCost, ...]
    workload: Workload
    proxy_device: Device
    float32_device: Device
    cpu: Device

    @property
    def hours(self) -> float:
        """Estimated hours of all stages, one after the other."""
        return math.fsum(stage.hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Estimated hours of the stages that run a model, times the number of devices."""
        return self.proxy_device.count * math.fsum(s.hours for s in self.stages if s.is_model)


def plan_cost(workload: Workload, proxy_device: Device, float32_device: Device) -> CostPlan:
    """Estimates a Quad run, stage by stage.

    Args:
      workload: Counts and sizes.
      proxy_device: Where the proxy runs, at the rate of its dtype.
      float32_device: The same at the rate of float32, in which the encoder and two forwards run whatever the proxy's
        dtype is.

    Returns:
      The plan. Each stage takes the longer of its computing and its reading.

    Raises:
      ValueError: If the two are not as many devices.
    """
    if proxy_device.count != float32_device.count:
        raise ValueError(f"got {proxy_device.count} and {float32_device.count} of the same devices")
    w, cpu = workload, Device.cpu(workload.cores)
    pilot, later = w.num_clusters * w.samples_per_pull, w.pulls * w.samples_per_pull
    stages = (
        _embed(w, proxy_device if w.embeds_with_proxy else float32_device),
        _fit_centers(w),
        _assign(w, cpu),
        _candidates(w),
        _curvature(w, proxy_device),
        _score("pilot", pilot, _exact_flops(w, w.num_query_vectors), w, proxy_device),
        # Under the halves of each group; a few hundred forward passes more where two forwards are tried.
        _score(
            "calibrate", min(pilot, 64), _exact_flops(w, 2 * w.num_query_vectors), w, proxy_device
        ),
        _rounds(w, later, proxy_device, float32_device),
        _write(w),
    )
    return CostPlan(stages, w, proxy_device, float32_device, cpu)


def _hours(flops: float, device: Device, least_s: float = 0.0) -> float:
    return max(flops / device.flops_per_s, least_s) / 3600


def _embed(w: Workload, device: Device) -> StageCost:
    flops = w.embedder_flops * w.documents
    # This stage also counts the tokens of the whole corpus, which a fast encoder has to wait for.
    least_s = w.tokens * _TEXT_BYTES_PER_TOKEN / (_TEXT_BYTES_PER_CORE_S * w.cores)
    return StageCost(
        "embed",
        w.documents,
        flops,
        _hours(flops, device, least_s),
        is_model=w.embedder_flops > 0,
        bytes_read=w.input_bytes,
        bytes_stored=2.0 * w.documents * w.embedding_dim + w.reserve_examples * w.example_bytes,
    )


def _fit_centers(w: Workload) -> StageCost:
    points = min(w.documents, _KMEANS_POINTS_PER_CLUSTER * w.num_clusters)
    flops = 2.0 * _KMEANS_PASSES * points * w.num_clusters * w.embedding_dim
    return StageCost(
        "fit centers",
        points,
        flops,
        _hours(flops, Device.cpu(1)),  # in one process
        bytes_stored=2.0 * points * w.embedding_dim + 4.0 * w.num_clusters * w.embedding_dim,
    )


def _assign(w: Workload, cpu: Device) -> StageCost:
    flops = 2.0 * w.documents * w.num_clusters * w.embedding_dim
    stored = float(w.documents * _ROW_ARTIFACT_BYTES)
    return StageCost("assign", w.documents, flops, _hours(flops, cpu), bytes_stored=stored)


def _candidates(w: Workload) -> StageCost:
    blocks = w.num_clusters * w.blocks_per_cluster
    drawn = min(blocks * num_drawn(w.samples_per_pull), w.reserve_examples)
    kept = min(blocks * w.samples_per_pull, w.reserve_examples)
    return StageCost(
        "candidates",
        kept,
        0.0,
        0.0,
        bytes_shuffled=drawn * w.example_bytes,
        bytes_stored=kept * w.example_bytes,
    )


def _curvature(w: Workload, device: Device) -> StageCost:
    examples = 0 if w.curvature == "identity" else w.curvature_examples
    per_token = w.scoring.covariance_flops(w.window_tokens)
    if w.curvature == "ekfac":
        per_token += w.scoring.eigenvalue_flops(w.window_tokens)
    flops = per_token * examples * w.scored_tokens
    flops += w.scoring.query_flops(w.window_tokens) * w.query_tokens
    texts = examples * w.example_bytes
    return StageCost(
        "curvature",
        examples,
        flops,
        _hours(flops, device),
        is_model=True,
        bytes_shuffled=texts,
        bytes_stored=texts + w.factor_bytes + w.vector_bytes,
    )


def _exact_flops(w: Workload, num_vectors: int) -> float:
    return w.scoring.exact_flops(w.window_tokens, num_vectors, w.normalize)


def _rounds(w: Workload, documents: int, proxy_device: Device, float32_device: Device) -> StageCost:
    """Prices the rounds after the pilot, in which the groups' vectors are one."""
    name = f"{w.num_rounds} rounds, at most"
    if w.is_two_forwards:
        per_token = w.scoring.two_forwards_flops(w.window_tokens, 1)
        return _score(name, documents, per_token, w, float32_device)
    return _score(name, documents, _exact_flops(w, 1), w, proxy_device)


def _score(name: str, documents: int, per_token: float, w: Workload, device: Device) -> StageCost:
    flops = per_token * documents * w.scored_tokens
    stored = float(documents * _SCORE_BYTES)
    return StageCost(name, documents, flops, _hours(flops, device), True, bytes_stored=stored)


def _write(w: Workload) -> StageCost:
    share = min(w.budget_tokens / max(w.tokens, 1), 1.0)
    seconds = w.input_bytes / (_COPIED_BYTES_PER_CORE_S * w.cores)
    return StageCost(
        "write",
        w.documents,
        0.0,
        seconds / 3600,
        bytes_read=w.input_bytes,
        bytes_stored=w.input_bytes * share,
    )


def format_plan(plan: CostPlan) -> str:
    """Formats a plan as a table for the terminal, with its assumptions below."""
    w = plan.workload
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
    lines += [
        "",
        f"corpus: {compact(w.documents)} examples, {compact(w.tokens)} tokens, {size(w.input_bytes)}; "
        f"budget: {compact(w.budget_tokens)} tokens; {w.num_clusters:,} clusters, {w.num_rounds} rounds",
        _proxy_line(w),
        f"models: {_model_devices(plan)}, {plan.device_hours:,.2g} device-hours; the rest: {plan.cpu.name}, "
        f"each tokenising {_TEXT_BYTES_PER_CORE_S / 1e6:g} MB of text a second",
    ]
    return "\n".join(lines)


def _model_devices(plan: CostPlan) -> str:
    w, proxy, float32 = plan.workload, plan.proxy_device.name, plan.float32_device.name
    has_encoder = w.embedder_flops > 0 and not w.embeds_with_proxy
    uses = {"encoder": has_encoder, "two forwards": w.is_two_forwards}
    in_float32 = " and ".join(name for name, is_used in uses.items() if is_used)
    if proxy == float32 or not in_float32:
        return proxy
    return f"proxy on {proxy}, {in_float32} on {float32}"


def _proxy_line(w: Workload) -> str:
    forward = w.scoring.forward_flops(w.window_tokens)
    exact = w.scoring.exact_flops(w.window_tokens, normalize=w.normalize)
    return (
        f"proxy: {compact(exact)} FLOPs a scored token, {exact / forward:.2f} x a forward pass; stored: "
        f"{size(w.factor_bytes)} of factors, {size(w.vector_bytes)} of query gradients and vectors"
    )


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
