"""The flags of a run, stored with its output for later commands on it."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from beam_quad.artifacts import files
from beam_quad.artifacts.patterns import split_list
from beam_quad.errors import UsageError
from beam_quad.selection.shares import Bound
from pipelines.distillation_options import DistillationOptions
from pipelines.options import QuadOptions
from pipelines.run_options import HOW_STARTED, RunOptions

_KINDS: dict[str, type[RunOptions]] = {
    kind.__name__: kind for kind in (QuadOptions, DistillationOptions)
}
_LISTS = ("input", "exclude", "decontaminate", "share", "share_by")
_PLACES = (
    "artifacts", "input_root", "proxy_model", "embedder", "optimizer_state", "output_tokenizer", "base",
)  # fmt: skip


def path_of(output: str) -> str:
    """Returns the path of the recorded flags of an output."""
    return files.join(output, "_run", "options.json")


def to_bytes(options: RunOptions, bounds: Sequence[Bound] = ()) -> bytes:
    """Writes flags as JSON; paths become absolute, as the next command may be given elsewhere.

    Args:
      options: The flags.
      bounds: The bounds of `--share` and the tables of `--share_by`, because a table may change later.
    """
    values = dataclasses.asdict(options)
    # The record moves with the output, so it must not contain its path; options of starting the run no longer matter.
    del values["output"]
    values |= HOW_STARTED
    for name in ("input", "exclude", "decontaminate"):
        values[name] = _patterns(getattr(options, name))
    values["share"], values["share_by"] = [bound.text for bound in bounds], []
    values["query"] = {name: _patterns(globs) for name, globs in options.query.items()}
    for name in _PLACES:
        # Only an existing folder distinguishes a model's path from a hub id.
        if isinstance(path := values.get(name), str) and (
            name == "artifacts" or os.path.exists(path)
        ):
            values[name] = files.absolute(path)
    found = {"kind": type(options).__name__, "options": values}
    return json.dumps(found, indent=1, sort_keys=True).encode()


def read(output: str, flag: str) -> RunOptions:
    """Reads the flags behind an output, with its current path.

    Args:
      output: The folder, absolute.
      flag: What named it, for errors.

    Raises:
      UsageError: If no finished run of this version is there.
    """
    if not files.exists(files.join(output, "COMPLETE")):
        raise UsageError(
            f"{flag}={output} holds no finished selection; run beam-quad select or distill to its end first"
        )
    path = path_of(output)
    if not files.exists(path):
        raise UsageError(f"{path} is missing, which tells how {flag} was made; select again")
    try:
        found = json.loads(files.read_bytes(path))
        values: dict[str, Any] = found["options"]
        values |= {name: tuple(values[name]) for name in _LISTS}
        values["query"] = {name: tuple(globs) for name, globs in values["query"].items()}
        options = _KINDS[found["kind"]](**values | {"output": output})
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} was written by another version; select again") from error
    return options


def artifacts_of(output: str) -> str:
    """Returns the folder of an output's artifacts if it is recorded; by default it is beside the output."""
    path = path_of(output)
    try:
        found = (
            json.loads(files.read_bytes(path))["options"]["artifacts"] if files.exists(path) else ""
        )
    except (ValueError, KeyError, TypeError):
        found = ""
    return found or files.join(output, "_run")


def _patterns(patterns: tuple[str, ...]) -> list[str]:
    return [
        files.absolute(single)
        for given in patterns
        for single in split_list(given, lambda path: files.is_local(path) and os.path.lexists(path))
    ]
