"""Prices of machines, shuffles and storage."""

import dataclasses
import json
from collections.abc import Mapping

from beam_quad.errors import UsageError

_GB = 1e9
_FIELDS = (
    "core_hour",
    "memory_gb_hour",
    "shuffled_gb",
    "stored_gb_month",
    "thousand_reads",
    "thousand_writes",
)


@dataclasses.dataclass(frozen=True)
class Prices:
    """Prices in dollars.

    Attributes:
      core_hour: One hour of a CPU core.
      memory_gb_hour: One hour of 10**9 bytes of a worker's memory.
      shuffled_gb: 10**9 bytes shuffled between workers.
      stored_gb_month: 10**9 bytes stored for a month.
      thousand_reads: 1,000 requests to the store that read an object.
      thousand_writes: 1,000 requests to the store that write or list.
      device_hour: One hour of a GPU, by the name of its chip (`devices.CHIPS`).
    """

    core_hour: float
    memory_gb_hour: float
    shuffled_gb: float
    stored_gb_month: float
    thousand_reads: float
    thousand_writes: float
    device_hour: Mapping[str, float]

    @classmethod
    def from_json(cls, text: str) -> "Prices":
        """Reads prices from JSON; missing prices are those of `LIST_PRICES`.

        Raises:
          UsageError: If the text is not a JSON object of known, nonnegative prices.
        """
        try:
            found = json.loads(text)
            devices = found.pop("device_hour", {})
            values = {name: float(value) for name, value in found.items()}
            of_devices = {name: float(value) for name, value in devices.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"prices must be a JSON object of numbers: {error}") from error
        if unknown := sorted(values.keys() - set(_FIELDS)):
            raise UsageError(
                f"no price is called {unknown[0]!r}; there are {', '.join(_FIELDS)} and device_hour"
            )
        # Written so that nan is refused too.
        if any(not value >= 0 for value in [*values.values(), *of_devices.values()]):
            raise UsageError("prices must be numbers of at least 0")
        merged = {**LIST_PRICES.device_hour, **of_devices}
        return dataclasses.replace(LIST_PRICES, **values, device_hour=merged)

    def of_cores(self, core_hours: float, memory_bytes_per_core: float) -> float:
        """Prices hours of cores with their memory."""
        memory = self.memory_gb_hour * memory_bytes_per_core / _GB
        return core_hours * (self.core_hour + memory)

    def of_devices(self, device_hours: float, chip: str | None) -> float | None:
        """Prices hours of GPUs; None if the chip has no price, and 0 if `chip` is None, because models then run on cores."""
        if chip is None:
            return 0.0
        price = self.device_hour.get(chip)
        return None if price is None else price * device_hours

    def of_bytes(self, shuffled: float, stored: float) -> float:
        """Prices shuffled bytes, and a month of stored bytes."""
        return (self.shuffled_gb * shuffled + self.stored_gb_month * stored) / _GB

    def of_requests(self, reads: float, writes: float) -> float:
        """Prices requests to the store."""
        return (self.thousand_reads * reads + self.thousand_writes * writes) / 1000


# List prices of Google Cloud in us-central1 as of 2026: Dataflow batch workers and shuffle service, Cloud Storage standard
# storage and class B and A requests, and an L4 on Compute Engine.
LIST_PRICES = Prices(
    core_hour=0.056,
    memory_gb_hour=0.003557,
    shuffled_gb=0.011,
    stored_gb_month=0.020,
    thousand_reads=0.0004,
    thousand_writes=0.005,
    device_hour={"L4": 0.560},
)
