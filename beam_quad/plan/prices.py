"""What machines, shuffles and stores are paid for."""

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
    """Dollars.

    Attributes:
      core_hour: Of a CPU core.
      memory_gb_hour: Of 10**9 bytes of memory of a worker.
      shuffled_gb: Of 10**9 bytes that cross between workers.
      stored_gb_month: Of 10**9 bytes that are kept for a month.
      thousand_reads: Of 1,000 requests to the store that read an object.
      thousand_writes: Of 1,000 that write or list.
      device_hour: Of a GPU, by the name of its chip (`devices.CHIPS`).
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
        """Reads prices from JSON; what is left out is as in `LIST_PRICES`.

        Raises:
          UsageError: If it is no such JSON.
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
        if any(not value >= 0 for value in [*values.values(), *of_devices.values()]):
            raise UsageError("prices must be numbers of at least 0")
        merged = {**LIST_PRICES.device_hour, **of_devices}
        return dataclasses.replace(LIST_PRICES, **values, device_hour=merged)

    def of_cores(self, core_hours: float, memory_bytes_per_core: float) -> float:
        """Prices cores with their memory."""
        memory = self.memory_gb_hour * memory_bytes_per_core / _GB
        return core_hours * (self.core_hour + memory)

    def of_devices(self, device_hours: float, chip: str | None) -> float | None:
        """Prices GPUs; None if there is no price of such a chip, and 0 if there is no chip: models run on cores."""
        if chip is None:
            return 0.0
        price = self.device_hour.get(chip)
        return None if price is None else price * device_hours

    def of_bytes(self, shuffled: float, stored: float) -> float:
        """Prices a shuffle, and a month of what is stored."""
        return (self.shuffled_gb * shuffled + self.stored_gb_month * stored) / _GB

    def of_requests(self, reads: float, writes: float) -> float:
        """Prices requests to the store."""
        return (self.thousand_reads * reads + self.thousand_writes * writes) / 1000


# List prices of Google Cloud in us-central1, read in 2026: Dataflow's of a batch worker and of its shuffle service, Cloud
# Storage's of standard storage and of requests of class B and A, Compute Engine's of an L4.
LIST_PRICES = Prices(
    core_hour=0.056,
    memory_gb_hour=0.003557,
    shuffled_gb=0.011,
    stored_gb_month=0.020,
    thousand_reads=0.0004,
    thousand_writes=0.005,
    device_hour={"L4": 0.560},
)
