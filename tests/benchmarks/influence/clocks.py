"""What a call costs: time, and memory over what was there before it."""

import ctypes
import dataclasses
import gc
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_PEAK, _NOW = "VmHWM", "VmRSS"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Time of a call.

    Attributes:
      seconds: By the clock.
      cpu_seconds: Of all threads of this process.
    """

    seconds: float
    cpu_seconds: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds - other.seconds, self.cpu_seconds - other.cpu_seconds)


def now(device: torch.device) -> Cost:
    """Reads both clocks, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter(), time.process_time())


def timed(function: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """Calls a function and takes its time."""
    gc.collect()
    began = now(device)
    result = function()
    return result, now(device) - began


def peak_memory(function: Callable[[], Any], device: torch.device) -> float:
    """Calls a function and returns the most memory it held over what was held before, in 10**6 bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if sys.platform != "linux":
        function()
        return float("nan")
    # Freed memory that the allocator keeps would hide what the call takes.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = _resident(_NOW)
    function()
    return (_resident(_PEAK) - before) / 1e6


def _resident(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)
