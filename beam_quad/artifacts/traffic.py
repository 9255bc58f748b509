"""What a run reads, shuffles, stores and passes through models, reported to whatever counts it, such as Beam's counters."""

from collections.abc import Callable
from typing import Literal

Kind = Literal[
    "bytes_read", "bytes_shuffled", "bytes_stored", "documents_embedded", "documents_scored"
]
_counters: list[Callable[[Kind, int], None]] = []


def report_to(counter: Callable[[Kind, int], None]) -> None:
    """Has all that this process counts counted by a function of its kind and amount, beside those given before."""
    _counters.append(counter)


def count(kind: Kind, amount: int) -> None:
    """Counts bytes or documents.

    Args:
      kind: `bytes_read` of the input's files, compressed; `bytes_shuffled` between workers, as packed; `bytes_stored`
        as artifacts or output; `documents_embedded`, and `documents_scored` by a model or by counts.
      amount: How many.
    """
    for counter in _counters:
        counter(kind, amount)
