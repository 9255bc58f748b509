"""Assumed speeds of devices, by which a plan converts operations to hours."""

import dataclasses
import re

# Assumed share of the peak; `tests.benchmarks.gpu` measures it.
UTILISATION = 0.4


@dataclasses.dataclass(frozen=True)
class Chip:
    """A GPU, with the figures of its data sheet.

    Attributes:
      name: Name of the chip, whose words identify it in a device's name.
      bfloat16_flops_per_s: Peak of the tensor cores in bfloat16, without sparsity.
      float32_flops_per_s: Peak of the CUDA cores in float32, because torch leaves TF32 off by default.
      memory_bytes: Memory of the device.
    """

    name: str
    bfloat16_flops_per_s: float
    float32_flops_per_s: float
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name}, {self.bfloat16_flops_per_s / 1e12:g} TFLOP/s bfloat16"

    def peak(self, dtype: str) -> tuple[float, str]:
        """Returns the peak in a dtype, "bfloat16" or "float32", as a number and in words.

        Raises:
          ValueError: If the dtype is another one.
        """
        peaks = {"bfloat16": self.bfloat16_flops_per_s, "float32": self.float32_flops_per_s}
        if dtype not in peaks:
            raise ValueError(f"dtype must be one of {sorted(peaks)}, got {dtype!r}")
        note = " without TF32" if dtype == "float32" else ""
        return peaks[dtype], f"{peaks[dtype] / 1e12:g} TFLOP/s {dtype}{note}"


# From NVIDIA's data sheets of the H100, H200, A100, L40S and L4; rates with sparsity are halved. Hopper names without a form
# factor are SXM.
CHIPS = (
    Chip("H200 NVL", 835.5e12, 60e12, 141 * 10**9),
    Chip("H100 NVL", 835.5e12, 60e12, 94 * 10**9),
    Chip("H100 PCIe", 756.5e12, 51e12, 80 * 10**9),
    Chip("H200", 989e12, 67e12, 141 * 10**9),
    Chip("H100", 989e12, 67e12, 80 * 10**9),
    Chip("A100", 312e12, 19.5e12, 40 * 10**9),
    Chip("L40S", 362e12, 91.6e12, 48 * 10**9),
    Chip("L4", 121e12, 30.3e12, 24 * 10**9),
)


# The default chip of a plan.
HOPPER = next(chip for chip in CHIPS if chip.name == "H100")


def chip_named(name: str) -> Chip | None:
    """Finds the chip in a device name such as torch's "NVIDIA H100 80GB HBM3" or Dataflow's "nvidia-l4"."""
    # `CHIPS` lists longer names first, so "H100 PCIe" is not taken for "H100".
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return next((chip for chip in CHIPS if words.issuperset(chip.name.lower().split())), None)


@dataclasses.dataclass(frozen=True)
class Device:
    """Devices with an assumed throughput.

    Attributes:
      name: Name in the plan.
      flops_per_s: Sustained floating-point operations per second of all devices together.
      count: Number of devices; for a CPU, number of cores.
      chip: Name of the chip; None for a CPU.
    """

    name: str
    flops_per_s: float
    count: int = 1
    chip: str | None = None

    @classmethod
    def gpu(cls, chip: Chip, dtype: str, count: int = 1) -> "Device":
        """Assumes a fixed share of a chip's peak in a dtype, "bfloat16" or "float32".

        Raises:
          ValueError: If the dtype is another one.
        """
        peak, words = chip.peak(dtype)
        name = f"{count} x {chip.name} at {UTILISATION:.0%} of {words}".replace("%", " %")
        return cls(name, count * UTILISATION * peak, count, chip.name)

    @classmethod
    def cpu(cls, cores: int) -> "Device":
        """Assumes 50 GFLOP/s per core, float32."""
        return cls(f"{cores} CPU cores at 50 GFLOP/s", cores * 50e9, cores)

    def hours(self, flops: float, least_s: float = 0.0) -> float:
        """Estimates the hours of `flops` operations, at least `least_s` seconds."""
        return max(flops / self.flops_per_s, least_s) / 3600
