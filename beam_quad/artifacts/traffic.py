"""Amounts that a run reads, shuffles, stores and passes through models, reported to counters such as Beam's."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

Kind = Literal[
    "bytes_read", "bytes_shuffled", "bytes_stored", "documents_embedded", "documents_scored"
]
_counters: list[Callable[[Kind, int], None]] = []
_of_thread = threading.local()


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
    collector: Counter[str] | None = getattr(_of_thread, "collector", None)
    if collector is not None:
        collector[kind] += amount


@contextlib.contextmanager
def collected() -> Iterator[Counter[str]]:
    """Collects what this thread counts in the block, by kind; blocks are not nested."""
    _of_thread.collector = found = Counter[str]()
    try:
        yield found
    finally:
        _of_thread.collector = None
