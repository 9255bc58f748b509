"""The runners of Beam that a run may go on, and Beam's own options."""

from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import create_runner

from beam_quad.errors import UsageError
from pipelines.parsing import LOCAL_RUNNERS

_LINE = 300
# Runners that hand the job to a service: the launcher returns once it is submitted, as templates must.
SUBMITTING_RUNNERS = ("DataflowRunner",)
# The tests run on this Flink.
FLINK_VERSION = "1.20"
_RUNNERS = (
    *LOCAL_RUNNERS,
    *SUBMITTING_RUNNERS,
    "FlinkRunner",
    "PortableRunner",
    "SparkRunner",
)


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options.

    Raises:
      UsageError: If the runner is unknown, or lacks an option.
    """
    options = PipelineOptions(list(arguments))
    standard = options.view_as(StandardOptions)
    # Beam accepts any case, and names without `Runner`.
    known = {name.lower().removesuffix("runner"): name for name in _RUNNERS if name}
    asked = (standard.runner or "").lower().removesuffix("runner")
    standard.runner = known.get(asked, standard.runner)
    modes = [a for a in arguments if a.startswith("--direct_running_mode")]
    if standard.runner in (None, "DirectRunner"):
        # Without a running mode DirectRunner would first look for Prism and download it.
        standard.runner = "DirectRunner" if modes else "FnApiRunner"
    _check_runner(options)
    return options


def _check_runner(options: PipelineOptions) -> None:
    name = options.view_as(StandardOptions).runner
    try:
        runner = create_runner(name)
    except Exception as error:  # Whatever importing a module raises.
        why = f" ({in_a_line(error)})" if "." in name else ""
        names = ", ".join(name for name in _RUNNERS if name)
        raise UsageError(
            f"--runner={name} is no runner of Beam's{why}; pass one of {names}"
        ) from error
    if name in SUBMITTING_RUNNERS:
        _check_dataflow(options, runner)
    try:
        wrong = PipelineOptionsValidator(options, runner).validate()
    except Exception as error:
        # Whatever a client raises: for Dataflow the validator asks for buckets.
        wrong = [error]
    if wrong:
        raise UsageError(f"--runner={name}: {in_a_line(' '.join(map(str, wrong)))}")


def _check_dataflow(options: PipelineOptions, runner: Any) -> None:
    # Without a named bucket Beam's validator would create one, or try for minutes.
    cloud = options.view_as(GoogleCloudOptions)
    places = {"temp_location": cloud.temp_location, "staging_location": cloud.staging_location}
    lacking = {
        "project": cloud.project,
        "region": cloud.region or runner.get_default_gcp_region(),
        "temp_location": cloud.temp_location or cloud.staging_location,
    }
    if names := [f"--{name}" for name, value in lacking.items() if not value]:
        raise UsageError(f"--runner=DataflowRunner needs {', '.join(names)}")
    for name, place in places.items():
        if place and not place.startswith("gs://"):
            raise UsageError(f"--{name}={place} must be a folder of Cloud Storage, gs://...")


def in_a_line(error: object) -> str:
    """Formats an error in one line of bounded length, without a full stop."""
    line = " ".join(str(error).split())
    return (line if len(line) <= _LINE else f"{line[: _LINE - 1]}…").rstrip(".")


def about_flink(options: PipelineOptions) -> str:
    """Explains why a job may fail on another version of Flink than ours."""
    version = options.view_as(FlinkRunnerOptions).flink_version
    if options.view_as(StandardOptions).runner != "FlinkRunner" or version == FLINK_VERSION:
        return ""
    return (
        f"pipelines were run on Flink {FLINK_VERSION}, and never on {version}: "
        "pass the --flink_version of your cluster, and mind that it may be this that fails"
    )
