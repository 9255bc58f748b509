"""Times when a stage started, ended and last failed, in small files beside its artifact; no result depends on them."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import find_json

Edge = Literal["started", "ended", "failed"]
ENDINGS = (".started", ".ended", ".failed")
_LINE = 300


def write(clock: str, edge: Edge, **facts: Any) -> None:
    """Records that a stage starts, ends or fails now.

    Args:
      clock: The path that the file is stored beside.
      edge: Whether the stage starts, ends or fails.
      facts: Further facts, for `json.dumps`.
    """
    # Facts may bring an earlier `at`.
    data = json.dumps({"at": time.time()} | facts).encode()
    files.write(f"{clock}.{edge}", data)


def read(clock: str, edge: Edge) -> dict[str, Any] | None:
    """Reads the record of `write`, with the time in seconds since 1970 as `at`; None if there is no record."""
    found = find_json(f"{clock}.{edge}")
    # An older version wrote only the time.
    return found if found is None or isinstance(found, dict) else {"at": float(found)}


def chain_path(output: str) -> str:
    """Returns the path where the launcher records the stages of an output's run."""
    return files.join(output, "_run", "stages.json")


def planned(output: str) -> tuple[float, dict[str, dict[str, Any]]]:
    """Reads what the launcher recorded: when the run started, and the planned cost of each stage.

    Returns:
      The start, in seconds since 1970, and the costs by name of the stage; 0 and no costs without a record.
    """
    path = chain_path(output)
    try:
        found = json.loads(files.read_bytes(path)) if files.exists(path) else {"stages": ()}
        costs = {s["name"]: s["planned"] for s in found["stages"] if s["planned"]}
        return found.get("started") or 0.0, costs
    except (ValueError, KeyError, TypeError):
        # The file is from another version.
        return 0.0, {}


def write_failure(clock: str, error: BaseException) -> None:
    """Writes an error in one line; a failing store is ignored, because the error itself matters more."""
    with contextlib.suppress(Exception):
        write(clock, "failed", error=in_a_line(error))


@contextlib.contextmanager
def noting_failure(clock: str) -> Iterator[None]:
    """Records an error that ends the block, and re-raises it."""
    try:
        yield
    except Exception as error:
        write_failure(clock, error)
        raise


def in_a_line(error: BaseException) -> str:
    """Formats an error in one line, with its type unless it is one of this package's errors."""
    words = " ".join(str(error).split())
    if not type(error).__module__.startswith("beam_quad"):
        words = f"{type(error).__name__}: {words}"
    return words if len(words) <= _LINE else f"{words[: _LINE - 1]}…"
