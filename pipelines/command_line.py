"""Command lines: our flags, flags from the file of `--config`, and Beam's flags."""

import argparse
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import yaml

from beam_quad.errors import UsageError
from pipelines.flags import Flag, Options, by_group, parser
from pipelines.parsing import refuse_unknown

# Flags whose recorded value is valid only with the recorded value of another flag.
_COMPANIONS = {"input": "input_root", "query": "query_weights"}


def parse(options: type[Options], argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Parses a command line and its file of flags, if it names one.

    Args:
      options: The class of the command's options.
      argv: Arguments without the program's name.

    Returns:
      The values of our flags by name, and the remaining arguments, all known to Beam or its job server.

    Raises:
      UsageError: If a flag is unknown, or its value is missing or invalid.
    """
    ours = parser(options)
    given = _given(options, argv)
    if (path := given.get("config")) is not None:
        found = _read(path)
        is_recorded = _is_manifest(found)
        values = found["config"] if is_recorded else found
        argv = [*arguments(options, values, f"--config={path}", given, is_recorded), *argv]
    namespace, rest = ours.parse_known_args(list(argv))
    refuse_unknown(rest, ours)
    return vars(namespace), rest


def manifest(path: str | None) -> dict[str, Any] | None:
    """Reads the manifest given as `--config`; None if that is no manifest."""
    found = {} if path is None else _read(path)
    return found if _is_manifest(found) else None


def _given(options: type[Options], argv: Sequence[str]) -> dict[str, Any]:
    """Parses the given flags without requiring any."""
    ours = parser(options)
    for action in ours._actions:
        # Suppressed defaults leave only the flags that were given.
        action.required, action.default = False, argparse.SUPPRESS
    return vars(ours.parse_known_args(list(argv))[0])


def arguments(
    options: type[Options],
    values: Mapping[str, Any],
    where: str,
    given: Collection[str] = (),
    is_recorded: bool = False,
) -> list[str]:
    """Writes flags by name as arguments of a command line.

    Args:
      options: The class of the command's options.
      values: Values by name of flag or field; None for a flag not given. Other names may be flags of Beam.
      where: Source of the values, for errors.
      given: Names of flags given elsewhere; other flags of the same field are left out.
      is_recorded: Whether the values are recorded from a run.

    Raises:
      UsageError: If a flag is unknown, or its value cannot be written as an argument.
    """
    fields: dict[str, list[Flag]] = {}
    for flag in (flag for group in by_group(options).values() for flag in group):
        fields.setdefault(flag.field, []).append(flag)
    own = {flag.name: field for field, flags in fields.items() for flag in flags}
    won = {own[name] for name in given}
    if is_recorded:
        won |= {other for name, other in _COMPANIONS.items() if name in won}
    ours: list[str] = []
    others: list[str] = []
    for name, value in values.items():
        field = own.get(name, name)
        if field not in fields:
            others += _arguments(where, Flag("", name=name), value)
        elif field not in won:
            named = [flag for flag in fields[field] if name in (field, flag.name)]
            # Of the flags of a field, the named one, for values of NAME=VALUE, is declared last.
            flag = named[-1] if isinstance(value, Mapping) else named[0]
            ours += _arguments(where, flag, value)
    try:
        refuse_unknown(others, parser(options))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return ours + others


def _arguments(where: str, flag: Flag, value: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, Mapping):
        if not flag.is_named:
            raise UsageError(f"{where}: {flag.name} must be a value or a list")
        value = [
            f"{name}={_text(each)}"
            for name, own in value.items()
            for each in (own if isinstance(own, list) else [own])
        ]
    if isinstance(value, list) and not flag.is_repeated:
        value = ",".join(map(_text, value))
    for each in value if isinstance(value, list) else [value]:
        yield f"--{flag.name}={_text(each)}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_manifest(found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("config"), dict) and "configuration" in found


def _read(path: str) -> dict[str, Any]:
    # Imported late, because Beam takes seconds and an invalid flag should fail at once.
    from beam_quad.artifacts import files

    if not files.exists(files.absolute(path)):
        raise UsageError(f"--config={path} is not there")
    try:
        data = files.read_bytes(files.absolute(path))
    except IsADirectoryError as error:
        raise UsageError(
            f"--config={path} is a folder; pass a file, as {files.join(path, 'manifest.json')} of a run"
        ) from error
    try:
        # Parsing a long manifest as YAML would be slow.
        found = json.loads(data)
    except ValueError:
        found = _read_yaml(path, data)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"--config={path} must hold flags by name, such as seed: 1")
    return found


def _read_yaml(path: str, data: bytes) -> Any:
    try:
        return yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UsageError(f"--config={path}{line}: {error.problem}; write it as YAML") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config={path} is no YAML: it holds bytes that are no text") from error
