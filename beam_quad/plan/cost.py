"""Cost of a run: the work of its stages at the speed and the price of machines, as a table.

Stages state their work without machines (`work`). The floating-point operations are converted at a throughput that the table states.
"""

import dataclasses
import math
from collections.abc import Sequence

from beam_quad.plan import rates
from beam_quad.plan.devices import Device
from beam_quad.plan.prices import LIST_PRICES, Prices
from beam_quad.plan.work import Work
from beam_quad.report.formatting import compact, duration, size

_HEAD = (
    "stage", "examples", "FLOPs", "time", "core-h", "device-h", "read", "shuffled", "stored", "memory", "requests", "dollars",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StageCost:
    """The cost of a stage, or of the stages of a line.

    Attributes:
      name: Name of the stage or of the line.
      line: Name of the line.
      documents: Number of examples processed.
      is_model: Whether a model runs.
      flops: Floating-point operations.
      float32_flops: Those of a model in float32, whatever the proxy's dtype.
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
    line: str
    documents: float
    is_model: bool
    flops: float = 0.0
    float32_flops: float = 0.0
    hours: float = 0.0
    core_hours: float = 0.0
    device_hours: float = 0.0
    memory_bytes: float = 0.0
    bytes_read: float = 0.0
    bytes_shuffled: float = 0.0
    bytes_stored: float = 0.0
    requests: float = 0.0
    dollars: float | None = 0.0
    is_made: bool = False

    def made(self) -> "StageCost":
        """The same stage once its artifacts exist: it takes nothing."""
        return StageCost(self.name, self.line, 0.0, self.is_model, is_made=True)


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

    def price(self, name: str, work: Work, splits: int) -> StageCost:
        """Converts the work of a stage to hours and dollars.

        Devices and their cores are paid for as long as the model runs, other cores only for the time they compute.

        Args:
          name: Name of the stage.
          work: Its work.
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
        hours = (parallel_s + alone_s + self.stage_s) / 3600
        device_hours = self.proxy.count * hours if has_device else 0.0
        busy_s = core_s + alone_s + (0.0 if has_device else device_s * self.proxy.count)
        core_hours = self.device_cores * hours if has_device else busy_s / 3600
        return StageCost(
            name,
            work.line,
            work.documents,
            work.is_model,
            flops=work.total_flops,
            float32_flops=work.float32_flops,
            hours=hours,
            core_hours=core_hours,
            device_hours=device_hours,
            memory_bytes=rates.PROCESS_BYTES + rates.SPLIT_BYTES * splits + work.memory_bytes,
            bytes_read=work.bytes_read,
            bytes_shuffled=work.bytes_shuffled,
            bytes_stored=work.bytes_stored,
            requests=sum(work.requests),
            dollars=self._dollars(work, core_hours, device_hours),
        )

    def _dollars(self, work: Work, core_hours: float, device_hours: float) -> float | None:
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
class CostPlan:
    """The plan of a run.

    Attributes:
      stages: The costs of the chain's stages, in order.
      machines: The machines of the run.
      notes: Lines below the table.
    """

    stages: tuple[StageCost, ...]
    machines: Machines
    notes: tuple[str, ...] = ()

    def without(self, is_made: Sequence[bool]) -> "CostPlan":
        """Takes off the stages whose artifacts exist, in the order of the stages."""
        left = (s.made() if done else s for s, done in zip(self.stages, is_made, strict=True))
        return dataclasses.replace(self, stages=tuple(left))

    @property
    def lines(self) -> tuple[StageCost, ...]:
        """The costs by line, in the order of each line's first stage."""
        names = dict.fromkeys(stage.line for stage in self.stages)
        return tuple(_sum(name, [s for s in self.stages if s.line == name]) for name in names)

    @property
    def total(self) -> StageCost:
        """The cost of the run, for the most documents that a stage processes."""
        documents = max(stage.documents for stage in self.stages)
        return dataclasses.replace(_sum("total", self.stages), documents=documents)

    @property
    def bottleneck(self) -> StageCost:
        """The line with the most hours."""
        return max(self.lines, key=lambda line: line.hours)


def _sum(name: str, stages: Sequence[StageCost]) -> StageCost:
    """Adds up stages that run one after the other; their memory is that of the largest process."""
    # A model passes over other examples in every stage. Other stages pass over the same ones again.
    scored = math.fsum(stage.documents for stage in stages if stage.is_model)
    # One stage on a device without a price makes the price of the whole unknown, not lower.
    dollars = [stage.dollars for stage in stages]
    return StageCost(
        name,
        name,
        scored or max(stage.documents for stage in stages),
        any(stage.is_model for stage in stages),
        memory_bytes=max(stage.memory_bytes for stage in stages),
        dollars=None if None in dollars else math.fsum(d for d in dollars if d is not None),
        is_made=all(stage.is_made for stage in stages),
        **{field: math.fsum(getattr(stage, field) for stage in stages) for field in _SUMS},
    )


_SUMS = (
    "flops", "float32_flops", "hours", "core_hours", "device_hours", "bytes_read", "bytes_shuffled", "bytes_stored",
    "requests",
)  # fmt: skip


def format_plan(plan: CostPlan) -> str:
    """Formats a plan as a table for the terminal, with its assumptions below."""
    rows = [_HEAD, *map(_row, plan.lines), _row(plan.total)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(n) if i == 0 else c.rjust(n) for i, (c, n) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", *_about_lines(plan), *plan.notes, *_about_machines(plan)])


def _about_lines(plan: CostPlan) -> list[str]:
    """States which line takes longest, and which are made in part."""
    hours, longest = plan.total.hours, plan.bottleneck
    found = [f"longest: {longest.name}, {longest.hours / hours:.0%} of the time"] if hours else []
    for line in plan.lines:
        made = [stage.is_made for stage in plan.stages if stage.line == line.name]
        if any(made) and not line.is_made:
            found.append(
                f"{line.name}: {sum(made)} of {len(made)} stages are made already; the line is of the others"
            )
    return found


def _about_machines(plan: CostPlan) -> tuple[str, ...]:
    """States the machines and prices that a plan assumes."""
    machines, prices = plan.machines, plan.machines.prices
    chip, of_device = machines.proxy.chip, ""
    if chip is not None:
        hour = prices.device_hour.get(chip)
        of_device = (
            f"; no price of {chip} is known, so that no dollars are told: pass --prices"
            if hour is None
            else f", ${hour:g} an hour of {chip}"
        )
    return (
        f"machines: models on {_model_devices(plan)}, with {machines.device_cores} cores; the rest on {machines.cores} cores, "
        f"each tokenising {1e-6 / rates.TOKENISE_BYTE_S:g} MB of text a second; memory: of the largest process, without the model",
        f"prices: ${prices.core_hour:g} a core-hour, with {machines.memory_per_core / 1e9:g} GB at ${prices.memory_gb_hour:g}, "
        f"${prices.shuffled_gb:g} a GB shuffled, ${prices.stored_gb_month:g} a GB stored for a month{of_device}",
    )


def _model_devices(plan: CostPlan) -> str:
    proxy, float32 = plan.machines.proxy.name, plan.machines.float32.name
    names = [line.name for line in plan.lines if line.float32_flops]
    if proxy == float32 or not names:
        return proxy
    return f"{proxy}, and in float32 (in {', '.join(names)}) {float32}"


def _row(stage: StageCost) -> tuple[str, ...]:
    if stage.is_made:
        return (stage.name, "", "", "already made", *[""] * 8)
    sizes = (stage.bytes_read, stage.bytes_shuffled, stage.bytes_stored, stage.memory_bytes)
    return (
        stage.name,
        compact(stage.documents) if stage.documents else "",
        f"{stage.flops:.1e}" if stage.flops else "",
        duration(stage.hours * 3600) if stage.hours else "",
        f"{stage.core_hours:,.3g}" if stage.core_hours else "",
        f"{stage.device_hours:,.3g}" if stage.device_hours else "",
        *(size(n) if n else "" for n in sizes),
        compact(stage.requests) if stage.requests else "",
        "" if stage.dollars is None else f"{stage.dollars:,.2f}",
    )
