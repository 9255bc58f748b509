"""Tells how far a local run is, from the files that its stages leave behind."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from beam_quad.artifacts import files
from beam_quad.stages.base import Stage

_POLL_S = 1.0
_HEARTBEAT_S = 30.0


@contextlib.contextmanager
def printed(stages: Sequence[Stage]) -> Iterator[None]:
    """Prints a line to standard error as each stage starts, and now and then how many of its pieces are done."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(stages, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(stages: Sequence[Stage], over: threading.Event) -> None:
    # A disk that fails ends the run in the step that needs it, with more to say.
    with contextlib.suppress(OSError):
        _tell(stages, over)


def _tell(stages: Sequence[Stage], over: threading.Event) -> None:
    start = last = time.monotonic()
    current = _num_finished(stages, 0)
    done = f", {current} of them done by an earlier run" if current else ""
    _say(start, f"a chain of {len(stages)} stages{done}")
    shown = current - 1
    while not over.wait(_POLL_S):
        # The job is a chain: what is finished came before what is not.
        current = _num_finished(stages, current)
        for number in range(shown + 1, min(current + 1, len(stages))):
            _say(start, f"stage {number + 1}/{len(stages)} {stages[number].name}")
            shown, last = number, time.monotonic()
        if current < len(stages) and time.monotonic() - last > _HEARTBEAT_S:
            stage = stages[current]
            _say(start, f"stage {current + 1}/{len(stages)} {stage.name}{_pieces(stage)}")
            last = time.monotonic()


def _num_finished(stages: Sequence[Stage], at_least: int) -> int:
    while at_least < len(stages) and files.exists(stages[at_least].artifact):
        at_least += 1
    return at_least


def _pieces(stage: Stage) -> str:
    if not stage.prefixes():
        return ""
    stored = {info.path for prefix in stage.prefixes() for info in files.find(prefix)}
    pieces = list(stage.pieces())
    done = sum(stored.issuperset(stage.paths(piece)) for piece in pieces)
    return f": {done:,} of {len(pieces):,} pieces done"


def _say(start: float, line: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - start:5.0f} s] {line}\n")
    sys.stderr.flush()
