"""What a call costs: time, and memory over what was there before it; what an object holds."""

import ctypes
import dataclasses
import gc
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_PEAK, _NOW = "VmHWM", "VmRSS"
_ON_GPU = {_PEAK: "peak", _NOW: "current"}


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


class Memory:
    """Memory over what the process, or its GPU, holds when this is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()
        self._before = self._read(_NOW)

    def restart(self) -> None:
        """Forgets the peak up to now."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif sys.platform == "linux":
            # Freed memory that the allocator keeps would count as held.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            # 5: the peak is what is resident now.
            pathlib.Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        """Returns the most since the last restart, in 10**6 bytes; nan on a CPU under another system than Linux."""
        return (self._read(_PEAK) - self._before) / 1e6

    def _read(self, field: str) -> float:
        if self._device.type == "cuda":
            found = torch.cuda.memory_stats(self._device)
            return float(found[f"allocated_bytes.all.{_ON_GPU[field]}"])
        return _resident(field) if sys.platform == "linux" else float("nan")


def held_bytes(value: Any) -> int:
    """Counts the bytes of the tensors in nested mappings, lists, tuples and dataclasses, not those of a model."""
    return sum(tensor.nbytes for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])


def _resident(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)
