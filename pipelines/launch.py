"""Launches a run: checks everything, builds the chain of stages, runs it, and reports the result."""

import collections
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineResult, PipelineState, create_runner

from beam_quad.artifacts import clock, files, traffic
from beam_quad.artifacts.lock import OutputLock
from beam_quad.errors import BeamQuadError, UsageError
from beam_quad.gradients.proxy import require_device
from beam_quad.plan.cost import CostPlan, StageCost
from beam_quad.report.formatting import size
from beam_quad.report.judgements import about
from beam_quad.report.proof import about_proof
from beam_quad.stages.proof.write import PROOF
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.transforms import RunStage, Token, counters, start
from pipelines import command_line, jobs, plan, progress, recorded, refresh, stopping
from pipelines.builder import Chain
from pipelines.failures import known_cause, refusing, without_step
from pipelines.identity import Identity
from pipelines.inputs import Inputs, look, try_proxy
from pipelines.parsing import DIRECT_RUNNERS, LOCAL_RUNNERS, tell_stores
from pipelines.run_options import RunOptions

_LINE = 300
# Runners that hand the job to a service: the launcher returns once it is submitted, as templates must.
_SUBMITTING_RUNNERS = ("DataflowRunner",)
# The tests run on this Flink.
FLINK_VERSION = "1.20"
_RUNNERS = (
    *LOCAL_RUNNERS,
    *_SUBMITTING_RUNNERS,
    "FlinkRunner",
    "PortableRunner",
    "SparkRunner",
)

Options = TypeVar("Options", bound=RunOptions)


@dataclasses.dataclass(frozen=True)
class Program(Generic[Options]):
    """The functions behind a command: from its flags to its stages, its plan and its result.

    Attributes:
      build: Makes the chain of its stages.
      describe: Describes its plan, for `--plan`.
      price: Estimates the cost of the stages.
      result: The kind of output.
    """

    build: Callable[[Options, Inputs], Chain]
    describe: Callable[[Options, Inputs, Chain], str] = plan.describe
    price: Callable[[Options, Inputs, Chain], CostPlan] = plan.price
    result: "SelectionOutput | ProofOutput" = dataclasses.field(
        default_factory=lambda: SelectionOutput()
    )


def run(options: Options, beam_arguments: Sequence[str], program: Program[Options]) -> int:
    """Checks everything, then builds the chain and runs it.

    Raises:
      BeamQuadError: With a remedy in one line.
    """
    with refusing():
        options = refresh.resolved(options)
        _check_accelerator(options, beam_arguments)
        tell_stores(beam_arguments)
        launch = _look(options, _beam_options(beam_arguments), program)
    if options.plan:
        print(program.describe(options, launch.inputs, launch.chain))
        return 0
    if launch.is_complete:
        print(f"{launch.output} is complete already: the same configuration and the same input")
        program.result.print_summary(launch.output)
        return 0
    costs = program.price(options, launch.inputs, launch.chain)
    return _start(launch, options, costs, program.result)


@dataclasses.dataclass(frozen=True)
class _Launch:
    """A checked run, before anything is written.

    Attributes:
      beam_options: Beam's options, with an available runner.
      inputs: The inputs found by `look`.
      chain: The stages.
      output: The output path; absolute if local.
      is_complete: Whether the output is complete.
    """

    beam_options: PipelineOptions
    inputs: Inputs
    chain: Chain
    output: str
    is_complete: bool

    @property
    def runner(self) -> str:
        """The name of Beam's runner."""
        return self.beam_options.view_as(StandardOptions).runner or ""


def _look(options: Options, beam_options: PipelineOptions, program: Program[Options]) -> _Launch:
    if beam_options.view_as(StandardOptions).runner in LOCAL_RUNNERS:
        require_device(options.device)
    inputs = look(options)
    chain = program.build(options, inputs)
    replayed = command_line.manifest(options.config)
    if replayed is not None and replayed["configuration"] != chain.identity.configuration:
        words = chain.identity.difference(replayed, most=len(replayed["config"]))
        print(f"warning: this is not the run of {options.config}: {words}", file=sys.stderr)
    output = files.absolute(options.output)
    _check_folder("output", options.output)
    _check_folder("artifacts", options.artifacts or options.output)
    is_complete = program.result.check(output, chain.identity)
    if not is_complete:
        _check_writable("output", options.output)
        _check_writable("artifacts", options.artifacts or options.output)
        for name, counts in inputs.query_counts.items():
            print(counts.line(name), file=sys.stderr)
        is_local = beam_options.view_as(StandardOptions).runner in LOCAL_RUNNERS
        # A plan needs no weights, so it can be made on a machine too small for them.
        if is_local and not options.plan:
            direct = beam_options.view_as(DirectOptions)
            try_proxy(inputs, keep=direct.direct_running_mode != "multi_processing")
    return _Launch(beam_options, inputs, chain, output, is_complete)


def _start(
    launch: _Launch,
    options: RunOptions,
    costs: CostPlan,
    result: "SelectionOutput | ProofOutput",
) -> int:
    output, chain, runner = launch.output, launch.chain, launch.runner
    job = jobs.name(launch.beam_options)
    lock = OutputLock(output, jobs.is_done(launch.beam_options))
    with refusing():
        jobs.check_service(launch.beam_options)
        pipeline = _pipeline(launch.beam_options, chain, options.accelerator)
        stopping.releases(lock.release_for_good)
        lock.acquire(take_over=options.take_over)
    try:
        # Another run may have finished since the first check.
        if result.check(output, chain.identity):
            result.print_summary(output)
            return 0
        _begin(launch, options, costs, result)
        if job:
            # A cluster job continues if its launcher dies, and is found by its name.
            lock.name_job(job)
            print(f"starting {job}, which goes on if this process is stopped", file=sys.stderr)
        if runner in _SUBMITTING_RUNNERS:
            _run(pipeline, lock, wait=False)
            print(_submitted(job, output, result.last_file))
            return 0
        planned = plan.left(costs, chain).total
        with progress.printed(output):
            job_result = _run(pipeline, lock, wait=True)
    except Exception as error:
        clock.write_failure(clock.chain_path(output), known_cause(error) or error)
        raise
    finally:
        lock.release()
    result.print_summary(output)
    print(_traffic(job_result, planned))
    return 0


def _begin(
    launch: _Launch,
    options: RunOptions,
    costs: CostPlan,
    result: "SelectionOutput | ProofOutput",
) -> None:
    """Writes the plans for the stages and the records of the run, while holding the output's lock."""
    result.begin(launch.output, launch.chain.identity)
    for folder in {launch.output, files.absolute(options.artifacts or launch.output)}:
        files.delete_temporaries(folder)
    launch.chain.write_plans()
    _record(launch, costs)


def add_to(
    pipeline: beam.Pipeline, options: Options, program: Program[Options]
) -> beam.PCollection[Token]:
    """Checks everything, and adds the chain to a pipeline run by the caller, unless the output is already complete.

    The output's lock is held only while the pipeline is built, not while it runs.

    Raises:
      BeamQuadError: With a remedy in one line.
    """
    with refusing():
        options = refresh.resolved(options)
        launch = _look(options, pipeline.options, program)
        if launch.is_complete:
            return start(pipeline, launch.chain.plan_path)
        lock = OutputLock(launch.output)
        lock.acquire(take_over=options.take_over)
    try:
        costs = program.price(options, launch.inputs, launch.chain)
        _begin(launch, options, costs, program.result)
    finally:
        lock.release()
    return wire(pipeline, launch.chain, options.accelerator)


def _record(launch: _Launch, costs: CostPlan) -> None:
    """Records the chain, for reports of the run's progress."""
    corpus, stages = launch.inputs.corpus, launch.chain.stages
    budget = stages[-1].budget if isinstance(stages[-1], WriteSelection) else None
    progress.record(launch.output, stages, corpus.num_rows, corpus.size_bytes, budget, costs)


def _pipeline(
    beam_options: PipelineOptions, chain: Chain, accelerator: str | None
) -> beam.Pipeline:
    """Builds the graph.

    Raises:
      UsageError: If Beam rejects the options, which may happen only at this point.
    """
    try:
        pipeline = beam.Pipeline(options=beam_options)
        wire(pipeline, chain, accelerator)
    except (ValueError, ImportError) as error:
        raise UsageError(f"Beam does not take its options: {_in_a_line(error)}") from error
    return pipeline


def wire(
    pipeline: beam.Pipeline, chain: Chain, accelerator: str | None = None
) -> beam.PCollection[Token]:
    """Adds the chain of stages to a pipeline; the steps with a model carry the accelerator as a resource hint."""
    tokens = start(pipeline, chain.plan_path)
    times: collections.Counter[str] = collections.Counter()
    for stage in chain.stages:
        times[stage.name] += 1
        # The chain of a proof includes the chains of its rivals, so several stages may have one name.
        again = f"{times[stage.name]}" if times[stage.name] > 1 else ""
        tokens = tokens | f"{stage.name}{again}" >> RunStage(stage, accelerator)
    return tokens


def _submitted(job: str, output: str, last_file: str) -> str:
    if not job:
        return "dry run: the graph was built, and nothing was started"
    path = files.join(output, last_file)
    return f"submitted as {job}; {path} appears when it is done, and beam-quad status {output} tells how it stands"


def _check_accelerator(options: RunOptions, beam_arguments: Sequence[str]) -> None:
    if options.accelerator and any("accelerator=" in argument for argument in beam_arguments):
        raise UsageError(
            "pass --accelerator for the stages with a model, or Beam's accelerator for all, not both"
        )


def _check_folder(flag: str, folder: str) -> None:
    if files.is_local(folder) and os.path.isfile(folder):
        raise UsageError(f"--{flag}={folder} is a file; pass a folder, or a name that is free")


def _check_writable(flag: str, folder: str) -> None:
    if not files.is_local(folder):
        return
    path = pathlib.Path(files.absolute(folder))
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not (os.path.isdir(there) and os.access(there, os.W_OK)):
        raise UsageError(
            f"--{flag}={folder} cannot be written: {there} is no folder that may be written to"
        )


def _beam_options(arguments: Sequence[str]) -> PipelineOptions:
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
        why = f" ({_in_a_line(error)})" if "." in name else ""
        names = ", ".join(name for name in _RUNNERS if name)
        raise UsageError(
            f"--runner={name} is no runner of Beam's{why}; pass one of {names}"
        ) from error
    if name in _SUBMITTING_RUNNERS:
        _check_dataflow(options, runner)
    try:
        wrong = PipelineOptionsValidator(options, runner).validate()
    except Exception as error:  # Whatever a client raises: of Dataflow it looks at buckets.
        wrong = [error]
    if wrong:
        raise UsageError(f"--runner={name}: {_in_a_line(' '.join(map(str, wrong)))}")


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


def _in_a_line(error: object) -> str:
    line = " ".join(str(error).split())
    return (line if len(line) <= _LINE else f"{line[: _LINE - 1]}…").rstrip(".")


def _run(pipeline: beam.Pipeline, lock: OutputLock, wait: bool) -> PipelineResult:
    """Runs the job, and removes its name from the lock once it has ended."""
    result = None
    try:
        with _workers_left_to_this_process(pipeline):
            result = pipeline.run()
        if wait:
            result.wait_until_finish()
            lock.name_job("")
        return result
    except BeamQuadError as error:
        without_step(error)
        raise
    except Exception as error:
        # A failed submission leaves no job. If contact was lost, the lock keeps the name, and the service knows the state.
        if result is None or _has_ended(result):
            lock.name_job("")
        known = known_cause(error)
        if known is not None:
            raise known from error
        if words := _about_flink(pipeline.options):
            error.add_note(words)
        raise


def _about_flink(options: PipelineOptions) -> str:
    """Explains why a job may fail on another version of Flink than ours."""
    version = options.view_as(FlinkRunnerOptions).flink_version
    if options.view_as(StandardOptions).runner != "FlinkRunner" or version == FLINK_VERSION:
        return ""
    return (
        f"pipelines were run on Flink {FLINK_VERSION}, and never on {version}: "
        "pass the --flink_version of your cluster, and mind that it may be this that fails"
    )


def _workers_left_to_this_process(
    pipeline: beam.Pipeline,
) -> contextlib.AbstractContextManager[None]:
    # Servers started by Beam end on an interrupt, so they must receive it.
    is_direct = pipeline.options.view_as(StandardOptions).runner in DIRECT_RUNNERS
    return stopping.interrupts_kept_from_children() if is_direct else contextlib.nullcontext()


def _has_ended(result: PipelineResult) -> bool:
    try:
        return bool(PipelineState.is_terminal(result.state))
    except Exception:  # Perhaps the service reporting on the job has failed.
        return False


class SelectionOutput:
    """The output of a selection, which belongs to one configuration."""

    last_file = "COMPLETE"

    def check(self, output: str, identity: Identity) -> bool:
        """Tells whether the output is complete; refuses an output with other contents."""
        return _check_output(output, identity)

    def begin(self, output: str, identity: Identity) -> None:
        """Claims the output for this run, which holds its lock."""
        files.write(_configuration_path(output), identity.to_bytes())
        for folder in ("selected", "rejected", "decisions"):
            # Only the lock's owner writes here, so temporary files of killed runs can be deleted at any age.
            files.delete_temporaries(files.join(output, folder), older_than_s=-math.inf)

    def print_summary(self, output: str) -> None:
        """Prints the result of the run."""
        _print_summary(output)


class ProofOutput:
    """The proof in the output of a finished selection; only the last requested one is kept."""

    last_file = PROOF

    def check(self, output: str, identity: Identity) -> bool:
        """Tells whether the proof exists."""
        found = _read_identity(files.join(output, PROOF))
        return found is not None and found["configuration"] == identity.configuration

    def begin(self, output: str, identity: Identity) -> None:
        """Deletes a different proof; the artifacts it was made from are kept."""
        path = files.join(output, PROOF)
        if files.exists(path):
            files.delete([path])

    def print_summary(self, output: str) -> None:
        """Prints the verdict, and what it rests on."""
        path = files.join(output, PROOF)
        proof = json.loads(files.read_bytes(path))
        for line in about_proof(proof):
            print(line)
        print(f"proof: {path}; report: {files.join(output, 'proof.html')}")


def _configuration_path(output: str) -> str:
    return files.join(output, "_run", "configuration")


def _check_output(output: str, identity: Identity) -> bool:
    """Tells whether the output is complete; refuses an output with another run's selection or foreign files.

    Until its selection is begun, an output belongs to no run. Artifacts are named by what they depend on, so a corrected
    command reuses the matching ones and ignores the others.
    """
    found: dict[str, Any] | None = None
    # The manifest comes first, because users may delete `_run/`.
    for path in (files.join(output, "manifest.json"), _configuration_path(output)):
        found = found or _read_identity(path)
    if found is not None and found["configuration"] == identity.configuration:
        return files.exists(files.join(output, "COMPLETE"))
    strangers = [f.path for f in files.find(output) if not _is_ours(output, f.path)]
    if not strangers:
        return False
    if found is None:
        raise UsageError(f"{output} holds other files, such as {strangers[0]}; pass a new --output")
    raise UsageError(
        f"{output} belongs to another configuration or input: {identity.difference(found)}; pass a new --output "
        f"(and --artifacts={recorded.artifacts_of(output)} to reuse what fits), or delete it"
    )


def _read_identity(path: str) -> dict[str, Any] | None:
    """Reads the identity of a run from one of our files; None if the file is missing or another program's."""
    if not files.exists(path):
        return None
    try:
        found = json.loads(files.read_bytes(path))
    except ValueError:
        return None
    return found if isinstance(found, dict) and "configuration" in found else None


def _is_ours(output: str, path: str) -> bool:
    return path.startswith(files.join(output, "_run") + "/")


def _print_summary(output: str) -> None:
    manifest = json.loads(files.read_bytes(files.join(output, "manifest.json")))
    counts = manifest["counts"]
    print(
        f"{counts['read']:,} documents were read, {counts['rejected']:,} rejected, {counts['scored']:,} scored"
    )
    for name, target in manifest.get("targets", {}).items():
        print(_about_target(name, target))
    for line in about(manifest):
        print(line)
    if manifest["config"].get("prove"):
        print(f"to see what it is worth: beam-quad prove --output={output}")
    print(f"report: {files.join(output, 'report.html')}")


def _about_target(name: str, target: dict[str, Any]) -> str:
    influence = target["influence"]
    means = [influence[kind] for kind in ("selected_mean", "random_mean")]
    selected, random = ("unknown" if mean is None else f"{mean:.4g}" for mean in means)
    return (
        f"target {name}: {target['documents']:,} documents, {target['tokens']:,} tokens, "
        f"mean influence {selected}, of a random draw {random}"
    )


def _traffic(result: PipelineResult, planned: StageCost) -> str:
    """Puts what a job counted beside what was planned for it."""
    kinds: tuple[traffic.Kind, ...] = ("bytes_read", "bytes_shuffled", "bytes_stored")
    read, shuffled, stored = (size(counters.total(result, kind)) for kind in kinds)
    embedded, scored = (
        counters.total(result, kind) for kind in ("documents_embedded", "documents_scored")
    )
    return (
        f"this run read {read} of input, shuffled {shuffled} and stored {stored}; "
        f"it embedded {embedded:,} documents and gave {scored:,} scores, those by n-grams included\n"
        f"its plan was {size(planned.bytes_read)} of input, {size(planned.bytes_shuffled)} shuffled and {size(planned.bytes_stored)} stored"
    )
