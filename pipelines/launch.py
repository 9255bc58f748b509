"""Launches a run: checks everything, builds the chain of stages, runs it, and reports the result."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_quad.artifacts import clock, files, traffic
from beam_quad.artifacts.lock import OutputLock
from beam_quad.errors import BeamQuadError, UsageError
from beam_quad.gradients.proxy import require_device
from beam_quad.plan.cost import CostPlan, StageCost
from beam_quad.report.formatting import size
from beam_quad.stages.write.selection import WriteSelection
from beam_quad.transforms import RunStage, Token, counters, start
from pipelines import command_line, jobs, plan, progress, refresh, stopping
from pipelines.builder import Chain
from pipelines.failures import known_cause, refusing, without_step
from pipelines.inputs import Inputs, look, try_proxy
from pipelines.outputs import ProofOutput, SelectionOutput
from pipelines.parsing import DIRECT_RUNNERS, LOCAL_RUNNERS, tell_stores
from pipelines.run_options import RunOptions
from pipelines.runners import SUBMITTING_RUNNERS, about_flink, beam_options, in_a_line

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
    result: SelectionOutput | ProofOutput = dataclasses.field(default_factory=SelectionOutput)


def run(options: Options, beam_arguments: Sequence[str], program: Program[Options]) -> int:
    """Checks everything, then builds the chain and runs it.

    Raises:
      BeamQuadError: With a remedy in one line.
    """
    with refusing():
        options = refresh.resolved(options)
        _check_accelerator(options, beam_arguments)
        tell_stores(beam_arguments)
        launch = _look(options, beam_options(beam_arguments), program)
    if options.plan:
        print(program.describe(options, launch.inputs, launch.chain))
        return 0
    if launch.is_complete:
        print(f"{launch.output} is complete already: the same configuration and the same input")
        program.result.print_summary(launch.output)
        return 0
    costs = plan.left(program.price(options, launch.inputs, launch.chain), launch.chain)
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
    places = {"output": options.output, "artifacts": options.artifacts or options.output}
    for flag, folder in places.items():
        _check_folder(flag, folder)
    is_complete = program.result.check(output, chain.identity)
    if not is_complete:
        for flag, folder in places.items():
            _check_writable(flag, folder)
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
    result: SelectionOutput | ProofOutput,
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
        if runner in SUBMITTING_RUNNERS:
            _run(pipeline, lock, wait=False)
            print(_submitted(job, output, result.last_file))
            return 0
        with progress.printed(output):
            job_result = _run(pipeline, lock, wait=True)
    except Exception as error:
        clock.write_failure(clock.chain_path(output), known_cause(error) or error)
        raise
    finally:
        lock.release()
    result.print_summary(output)
    print(_traffic(job_result, costs.total))
    return 0


def _begin(
    launch: _Launch,
    options: RunOptions,
    costs: CostPlan,
    result: SelectionOutput | ProofOutput,
) -> None:
    """Writes the plans for the stages and the records of the run, while holding the output's lock."""
    result.begin(launch.output, launch.chain.identity)
    for folder in {launch.output, files.absolute(options.artifacts or launch.output)}:
        files.delete_temporaries(folder)
    launch.chain.write_plans()
    corpus, stages = launch.inputs.corpus, launch.chain.stages
    budget = stages[-1].budget if isinstance(stages[-1], WriteSelection) else None
    progress.record(launch.output, stages, corpus.num_rows, corpus.size_bytes, budget, costs)


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
        # Priced for the report, which shows the plan beside what was counted.
        costs = plan.left(program.price(options, launch.inputs, launch.chain), launch.chain)
        _begin(launch, options, costs, program.result)
    finally:
        lock.release()
    return wire(pipeline, launch.chain, options.accelerator)


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
        raise UsageError(f"Beam does not take its options: {in_a_line(error)}") from error
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
        if words := about_flink(pipeline.options):
            error.add_note(words)
        raise


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
