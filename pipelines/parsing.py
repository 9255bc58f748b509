"""Strict parsing: our flags here, Beam's flags by Beam; all others are refused."""

import argparse
import datetime
import decimal
import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from beam_quad.errors import UsageError

# Options known to Beam's Flink job server; the Python SDK passes them on without knowing them.
_JOB_SERVER_FLAGS = frozenset(
    {
        "--parallelism",
        "--max_parallelism",
        "--checkpointing_interval",
        "--checkpointing_mode",
        "--state_backend",
        "--state_backend_storage_path",
        "--object_reuse",
        "--execution_mode_for_batch",
        "--number_of_execution_retries",
    }
)
# Runners in threads of this process or in its child processes.
DIRECT_RUNNERS = ("", "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner")
LOCAL_RUNNERS = (*DIRECT_RUNNERS, "PrismRunner")
# Accepts one wrong or missing letter in a name of five; with a lower value, --eta would match --tau.
_NEAR = 0.85
# Environment variables of S3 clients, for Beam's flags.
_S3_VARIABLES = {
    "s3_access_key_id": "AWS_ACCESS_KEY_ID",
    "s3_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
    "s3_endpoint_url": "AWS_ENDPOINT_URL",
    "s3_region_name": "AWS_REGION",
}
_GROUP_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def switch(text: str) -> bool:
    """Reads the value of a switch. A command line may leave it out; a Flex Template passes every parameter as text.

    Args:
      text: `true` or `false`, in any case.

    Raises:
      argparse.ArgumentTypeError: If it is neither.
    """
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


_COUNT = re.compile(r"([+-]?[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)(?:[eE]\+?([0-9]{1,3}))?([kKmMbBtT]?)")
_POWERS = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}
# The maximum of the integers of sums.
_LARGEST = 2**63 - 1


def count(text: str) -> int:
    """Reads a whole number: `1000000`, `1_000_000`, `1e9`, `2k`, `500M`, `30B`, `1.5T`.

    Args:
      text: Digits, and k, M, B or T (in any case) for a thousand, a million, 10⁹ or 10¹².

    Raises:
      argparse.ArgumentTypeError: If it is no number, no whole one, or above 2⁶³ - 1.
    """
    found = _COUNT.fullmatch(text.strip())
    value = None
    if found:
        digits, exponent, suffix = found.groups()
        # Not float, which is exact to 2⁵³ only.
        value = decimal.Decimal(f"{digits}e{int(exponent or 0) + _POWERS[suffix.lower()]}")
    if value is None or value != value.to_integral_value():
        raise argparse.ArgumentTypeError(
            f"must be a whole number, such as 1000000, 1e9, 500M or 1.5T, got {text!r}"
        )
    if abs(value) > _LARGEST:
        raise argparse.ArgumentTypeError(f"must be at most {_LARGEST}, got {text!r}")
    return int(value)


class More(int):
    """A number beyond the one of the base."""


def total(text: str) -> int:
    """Reads a whole number as `count` does or, with a plus before it, as `More`."""
    text = text.strip()
    return More(count(text[1:])) if text.startswith("+") else count(text)


class Parser(argparse.ArgumentParser):
    """A parser raising `UsageError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises the message."""
        raise UsageError(f"{message}; see --help")


def dated(output: str) -> str:
    """Puts the day (UTC) in the place of `{date}`."""
    today = datetime.datetime.now(datetime.UTC).date()
    return output.replace("{date}", today.isoformat())


def default_dtype(device: str) -> str:
    """Returns the default dtype of the proxy and of a sentence encoder."""
    # A GPU's rate in bfloat16 is fifteen times that in float32; see `plan.devices`.
    return "float32" if device == "cpu" else "bfloat16"


def threads_of_a_process(arguments: Sequence[str]) -> int | None:
    """Shares the cores of this process among Beam's local worker processes.

    Returns:
      None on a cluster, whose workers find their own.
    """
    # Unlike os.cpu_count(), joblib respects the limits of containers and schedulers.
    import joblib

    beam = Parser(add_help=False, allow_abbrev=False)
    beam.add_argument("--runner", default="")
    beam.add_argument("--direct_running_mode")
    beam.add_argument("--direct_num_workers", type=int, default=1)
    local = beam.parse_known_args(arguments)[0]
    if local.runner not in LOCAL_RUNNERS:
        return None
    cores: int = joblib.cpu_count()
    if local.direct_running_mode != "multi_processing":
        return cores
    # 0 is a process for every core.
    return max(1, cores // (local.direct_num_workers or cores))


def refuse_unknown(arguments: Sequence[str], ours: argparse.ArgumentParser) -> None:
    """Refuses arguments unknown to Beam and its job server.

    Args:
      arguments: What our parser left.
      ours: Our parser, for suggestions.

    Raises:
      UsageError: Naming the first of them.
    """
    if not arguments:
        return
    # Imported late, because Beam takes seconds and --help or a missing flag should respond at once.
    from apache_beam.options.pipeline_options import PipelineOptions

    beam = Parser(add_help=False, allow_abbrev=False)
    for options in [PipelineOptions, *_subclasses(PipelineOptions)]:
        options._add_argparse_args(_Tolerant(beam))
    _, unknown = beam.parse_known_args(list(arguments))
    for argument in unknown:
        name = argument.split("=", 1)[0]
        if argument.startswith("--") and name not in _JOB_SERVER_FLAGS:
            close = difflib.get_close_matches(name, ours._option_string_actions, 1, _NEAR)
            hint = f"did you mean {close[0]}?" if close else "see --help"
            raise UsageError(f"unknown flag {name}: neither ours nor Beam's; {hint}")
        if argument.startswith("-") and not argument.startswith("--"):
            raise UsageError(f"unknown flag {name}; flags are written --name=value, see --help")
        # Beam does not know the job server's flags, so their values are left over as arguments.
        if not argument.startswith("-") and not any(a in _JOB_SERVER_FLAGS for a in arguments):
            raise UsageError(
                f"unexpected argument {argument!r}; flags are written --name=value, and globs in quotes"
            )


def tell_stores(arguments: Sequence[str]) -> None:
    """Passes Beam's flags for S3 to the stores of this process and its child processes."""
    from apache_beam.options.pipeline_options import PipelineOptions, S3Options

    told = PipelineOptions(list(arguments)).view_as(S3Options)
    for flag, variable in _S3_VARIABLES.items():
        if value := getattr(told, flag):
            os.environ[variable] = value


class _Tolerant:
    """Allows adding all option classes of Beam to one parser, although some share a flag."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser

    def add_argument(self, *names: str, **settings: Any) -> None:
        known = self._parser._option_string_actions
        fresh = [name for name in names if name not in known]
        if fresh:
            # What one runner requires must not be required of all; Beam checks its options itself.
            settings.pop("required", None)
            self._parser.add_argument(*fresh, **settings)

    def add_mutually_exclusive_group(self, **_: Any) -> "_Tolerant":
        return self


def _subclasses(base: type) -> list[Any]:
    direct: list[Any] = base.__subclasses__()
    return direct + [deeper for child in direct for deeper in _subclasses(child)]


def split_named(texts: list[str]) -> list[str]:
    """Splits NAME=A,B,OTHER=C before every name, because a template has a single parameter for all values of a flag."""
    before_name = re.compile(rf",(?={_GROUP_NAME.pattern}=)")
    return [part for text in texts for part in before_name.split(text)]


def bounds_in(text: str) -> list[str]:
    """Splits `--share` at semicolons outside quotes."""
    parts = re.findall(r"""(?:"[^"]*"|'[^']*'|[^;])+""", text)
    return [part.strip() for part in parts if part.strip()]


def named_globs(named: list[str], flag: str) -> dict[str, tuple[str, ...]]:
    """Reads `NAME=GLOB`, which may be repeated: the globs by name.

    Args:
      named: The given values.
      flag: Its flag, for errors.
    """
    groups: dict[str, list[str]] = {}
    for text in split_named(named):
        name, separator, glob = text.partition("=")
        if not separator or not glob or not _GROUP_NAME.fullmatch(name):
            raise UsageError(f"{flag}={text} must be NAME=GLOB, NAME of letters, digits, _.-")
        groups.setdefault(name, []).append(glob)
    return {name: tuple(globs) for name, globs in groups.items()}


def query_weights(texts: list[str], groups: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Reads `--query_weight`: a weight for every group, by default 1."""
    weights = dict.fromkeys(groups, 1.0)
    for text in split_named(texts):
        name, _, value = text.partition("=")
        if name not in groups:
            raise UsageError(f"--query_weight={text}: no query group {name}; pass --query_group")
        try:
            weights[name] = float(value)
        except ValueError:
            raise UsageError(f"--query_weight={text} must be NAME=W, W a number") from None
        if not 0 < weights[name] < float("inf"):
            raise UsageError(f"--query_weight={text}: the weight must be positive")
    return weights
