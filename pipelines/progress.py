"""Tells how far a local run is, from the files that its stages leave behind."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from beam_quad.artifacts import files
from beam_quad.stages.base import Task

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
    # A disk that fails ends the run in the step that needs it, with more to say.
    with contextlib.suppress(OSError):
        _tell(tasks, over)


def _tell(tasks: Sequence[Task], over: threading.Event) -> None:
    start = last = time.monotonic()
    current = _num_finished(tasks, 0)
    done = f", {current} of them done by an earlier run" if current else ""
    _say(start, f"a chain of {len(tasks)} stages{done}")
    shown = current - 1
    while not over.wait(_POLL_S):
        # The job is a chain: what is finished came before what is not.
        current = _num_finished(tasks, current)
        for number in range(shown + 1, min(current + 1, len(tasks))):
            _say(start, f"stage {number + 1}/{len(tasks)} {tasks[number].name}")
            shown, last = number, time.monotonic()
        if current < len(tasks) and time.monotonic() - last > _HEARTBEAT_S:
            task = tasks[current]
            _say(start, f"stage {current + 1}/{len(tasks)} {task.name}{_pieces(task)}")
            last = time.monotonic()


def _num_finished(tasks: Sequence[Task], at_least: int) -> int:
    while at_least < len(tasks) and files.exists(tasks[at_least].artifact):
        at_least += 1
    return at_least


def _pieces(task: Task) -> str:
    if not task.prefixes():
        return ""
    there = {info.path for prefix in task.prefixes() for info in files.find(prefix)}
    pieces = list(task.pieces())
    done = sum(there.issuperset(task.paths(piece)) for piece in pieces)
    return f": {done:,} of {len(pieces):,} pieces done"


def _say(start: float, line: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - start:5.0f} s] {line}\n")
    sys.stderr.flush()
