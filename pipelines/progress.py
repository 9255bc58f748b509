"""Tells how far a local run is, from the files that its stages leave behind."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from beam_quad.io import files
from beam_quad.transforms.stage import Task, timing_path

_POLL_S = 1.0
_HEARTBEAT_S = 30.0


@contextlib.contextmanager
def told(tasks: Sequence[Task]) -> Iterator[None]:
    """Prints a line to standard error as each stage starts, and now and then how many of its pieces are done."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(tasks, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(tasks: Sequence[Task], over: threading.Event) -> None:
    start = last = time.monotonic()
    current = 0
    shown = -1
    while not over.wait(_POLL_S):
        # The job is a chain: a stage is over when the next has started, and what an earlier run left has no line.
        while current < len(tasks) and files.exists(tasks[current].artifact):
            current += 1
        if current == len(tasks):
            return
        task, now = tasks[current], time.monotonic()
        is_new = current != shown
        if (is_new or now - last > _HEARTBEAT_S) and files.exists(
            timing_path(task.clock, "started")
        ):
            pieces = "" if is_new else _pieces(task)
            _say(f"[{now - start:5.0f} s] stage {current + 1}/{len(tasks)} {task.name}{pieces}")
            shown, last = current, now


def _pieces(task: Task) -> str:
    prefixes = task.prefixes()
    if not prefixes:
        return ""
    done = min(len(files.find(prefix)) for prefix in prefixes)
    return f": {done:,} pieces done"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
