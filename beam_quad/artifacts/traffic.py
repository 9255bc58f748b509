"""What a run reads of its input, shuffles and stores, reported to whatever counts it, such as Beam's counters."""

from collections.abc import Callable
from typing import Literal

Kind = Literal["bytes_read", "bytes_shuffled", "bytes_stored"]
_counters: list[Callable[[Kind, int], None]] = []


def report_to(counter: Callable[[Kind, int], None]) -> None:
    """Has all bytes of this process counted by a function of their kind and number, beside those given before."""
    _counters.append(counter)


def count(kind: Kind, num_bytes: int) -> None:
    """Counts bytes.

    Args:
      kind: `bytes_read` of the input's files, compressed; `bytes_shuffled` between workers, as packed; `bytes_stored`
        as artifacts or output.
      num_bytes: How many.
    """
    for counter in _counters:
        counter(kind, num_bytes)
