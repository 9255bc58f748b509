"""Amounts that a run reads, shuffles, stores and passes through models, reported to counters such as Beam's."""

from collections.abc import Callable
from typing import Literal

Kind = Literal[
    "bytes_read", "bytes_shuffled", "bytes_stored", "documents_embedded", "documents_scored"
]
_counters: list[Callable[[Kind, int], None]] = []


def report_to(counter: Callable[[Kind, int], None]) -> None:
    """Adds a counter, called with the kind and amount of every count of this process."""
    _counters.append(counter)


def count(kind: Kind, amount: int) -> None:
    """Counts bytes or documents.

    Args:
      kind: `bytes_read` of compressed input files; `bytes_shuffled` between workers, packed; `bytes_stored` in
        artifacts or the output; `documents_embedded`; or `documents_scored` by a model or by counts.
      amount: The number of bytes or documents.
    """
    for counter in _counters:
        counter(kind, amount)
