"""Reads and tokenises ahead, so that a device does not wait for work on the CPU."""

import concurrent.futures
import contextlib
import ctypes
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
# One item is in use, one is ready and one is being made.
_DEPTH = 1
# While one thread waits for the interpreter lock, the other tokenises without it.
_MAKERS = 2
# The parameter of glibc's `mallopt`, and its value.
_M_ARENA_MAX, _HEAPS = -8, 4


def _share_heaps() -> None:
    """Limits glibc to a few heaps for all threads of this process, instead of eight per core.

    One thread frees what another has allocated, which leaves holes in every heap: with glibc's default a process grew by
    2 GB over a million documents of 1 kB. With a single heap, threads would wait for each other.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _HEAPS)


_share_heaps()


class _End:
    """Marks the end of the items, with the error that ended them, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """Yields items that another thread makes ahead of time, in their order.

    Args:
      items: The items; making them must not need a lock held by the consumer.

    Yields:
      The items. An error of theirs is raised where its item would have come; a consumer that stops early stops the
      thread.
    """
    ready: queue.Queue[T | _End] = queue.Queue(_DEPTH)
    is_stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, is_stopped), daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_stopped.set()
        thread.join()


def made_ahead(items: Iterable[T], make: Callable[[T], U]) -> Iterator[U]:
    """Yields the results of `make` in the order of items, making two while a third is in use.

    Args:
      items: The items, read by a separate thread as in `prefetched`.
      make: Called in other threads, for two items at once.

    Yields:
      The results. An error of `make` is raised in place of its item.
    """
    with concurrent.futures.ThreadPoolExecutor(_MAKERS) as makers:
        try:
            for future in prefetched(makers.submit(make, item) for item in items):
                yield future.result()
        finally:
            makers.shutdown(cancel_futures=True)


def _fill(items: Iterable[T], ready: "queue.Queue[T | _End]", is_stopped: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            _put(ready, item, is_stopped)
            if is_stopped.is_set():
                return
    except BaseException as error:
        end = _End(error)
    _put(ready, end, is_stopped)


def _put(ready: "queue.Queue[T | _End]", item: T | _End, is_stopped: threading.Event) -> None:
    while not is_stopped.is_set():
        try:
            # With a timeout: a consumer that has stopped takes nothing more, and would leave the thread waiting
            # forever.
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return
