"""How fast models are assumed to run, where a plan turns operations into hours."""

import dataclasses

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

    def hours(self, flops: float, least_s: float = 0.0) -> float:
        """Estimates the hours of some computing that takes no less than `least_s` seconds."""
        return max(flops / self.flops_per_s, least_s) / 3600
