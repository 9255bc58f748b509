"""When a stage started, ended and last failed, in small files beside its artifact: for people, no result depends on them."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

from beam_quad.artifacts import files

Edge = Literal["started", "ended", "failed"]
ENDINGS = (".started", ".ended", ".failed")
_LINE = 300


def write(clock: str, edge: Edge, **facts: Any) -> None:
    """Writes that something has started, ended or failed now.

    Args:
      clock: The path beside which the file is stored.
      edge: Which of them.
      facts: What else there is to say of it, for `json.dumps`.
    """
    data = json.dumps({"at": time.time()} | facts).encode()
    files.write(f"{clock}.{edge}", data)


def read(clock: str, edge: Edge) -> dict[str, Any] | None:
    """Reads what `write` wrote, with the time in seconds since 1970 as `at`; None if nothing was written."""
    path = f"{clock}.{edge}"
    if not files.exists(path):
        return None
    try:
        found = json.loads(files.read_bytes(path))
    except ValueError:
        return None
    # An older version wrote the time alone.
    return found if isinstance(found, dict) else {"at": float(found)}


def chain_path(output: str) -> str:
    """Where the launcher records the stages of the run of an output."""
    return files.join(output, "_run", "stages.json")


def planned_seconds(output: str) -> dict[str, float]:
    """Reads how long each stage of an output's run takes by the launcher's plan; nothing without a plan."""
    path = chain_path(output)
    try:
        stages = json.loads(files.read_bytes(path))["stages"] if files.exists(path) else ()
        return {s["name"]: s["planned_s"] for s in stages if s["planned_s"] is not None}
    except (ValueError, KeyError, TypeError):
        # Of another version.
        return {}


def write_failure(clock: str, error: BaseException) -> None:
    """Writes the line of an error, unless the store fails too: the error itself has more to say."""
    with contextlib.suppress(Exception):
        write(clock, "failed", error=in_a_line(error))


@contextlib.contextmanager
def noting_failure(clock: str) -> Iterator[None]:
    """Writes the line of an error that ends the block, and raises it on."""
    try:
        yield
    except Exception as error:
        write_failure(clock, error)
        raise


def in_a_line(error: BaseException) -> str:
    """Puts an error in one line, with its type if it is none of this package's."""
    words = " ".join(str(error).split())
    if not type(error).__module__.startswith("beam_quad"):
        words = f"{type(error).__name__}: {words}"
    return words if len(words) <= _LINE else f"{words[: _LINE - 1]}…"
