"""The progress of a run, read from files of its launcher and stages in the store."""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from beam_quad.artifacts import clock, files
from beam_quad.artifacts.lock import OutputLock
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.report.data import Notice
from beam_quad.report.progress import (
    Failure,
    RunProgress,
    StageProgress,
    State,
    headline,
)
from pipelines import jobs

if TYPE_CHECKING:
    # Not imported at run time, because torch takes seconds and a status report should be fast.
    from beam_quad.plan.cost import CostPlan, StageCost
    from beam_quad.stages.base import Stage

# Object stores charge for requests, so they are polled less often.
_POLL_S, _STORE_POLL_S = 1.0, 10.0
_HEARTBEAT_S = 30.0
# Fields of a `StageCost` that the report shows; its room knows no plan.
_COSTS = (
    "line", "documents", "flops", "device_hours", "dollars", "is_model", "bytes_read", "bytes_shuffled", "bytes_stored",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RecordedStage:
    """The launcher's record of a stage.

    Attributes:
      name: Its name.
      artifact: The file that exists if and only if the stage is finished.
      clock: Path of its times.
      prefixes: Path prefixes of the files of finished pieces.
      planned: Its planned cost: `_COSTS` and `seconds`; empty if the run has no plan.
    """

    name: str
    artifact: str
    clock: str
    prefixes: tuple[str, ...]
    planned: dict[str, Any]

    def places(self, output: str) -> list[str]:
        """The folders of its files; if it makes the output, only the parts."""
        folder = self.artifact.rpartition("/")[0]
        return [*self.prefixes, *[folder] * (folder != output)]

    def is_piece(self, path: str) -> bool:
        """Whether a file belongs to a piece of the stage; such a file may be in the artifact's folder."""
        return not path.startswith((self.artifact, self.clock))


class RecordedRun:
    """The last run started on an output.

    Args:
      output: The output; absolute if local.

    Raises:
      UsageError: If no run of this version was started there.
    """

    def __init__(self, output: str) -> None:
        path = clock.chain_path(output)
        try:
            record = json.loads(files.read_bytes(path)) if files.exists(path) else _recall(output)
            self._stages = tuple(_from_json(output, stage) for stage in record["stages"])
            self._budget = Budget(**record["budget"]) if record["budget"] else None
            self._started, self._counts = record["started"], record["counts"]
            self._documents, self._input_bytes = record["documents"], record["input_bytes"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} was written by another version; run its command again"
            ) from error
        self.output = output
        self._num_finished = 0
        self._sizes: dict[str, int] = {}
        self._written: float | None = None
        self._finished: dict[int, StageProgress] = {}

    @property
    def names(self) -> list[str]:
        """Names of the stages."""
        return [stage.name for stage in self._stages]

    def num_finished(self) -> int:
        """Counts the finished stages, with one request for each newly finished stage and one more."""
        # Stages run in order, so all finished stages precede the unfinished ones.
        while self._num_finished < len(self._stages):
            if not files.exists(self._stages[self._num_finished].artifact):
                break
            self._num_finished += 1
        return self._num_finished

    def look(self, owner: str | None) -> RunProgress:
        """Reads the progress of the run.

        Args:
          owner: Description of the lock's owner; None if there is none.
        """
        number = self.num_finished()
        stages = [self._look_at(at) for at in range(min(number + 1, len(self._stages)))]
        stages += [_progress(stage) for stage in self._stages[number + 1 :]]
        is_complete = number == len(self._stages)
        state: State = "complete" if is_complete else "running" if owner else "stopped"
        judged = self._judged() if is_complete else {}
        return RunProgress(
            state=state,
            stages=stages,
            num_finished=number,
            started=self._started,
            seen=time.time(),
            written=self._written,
            documents=self._documents,
            input_bytes=self._input_bytes,
            stored_bytes=sum(self._sizes.values()),
            budget=self._budget,
            owner=owner,
            failure=None if is_complete else self._failure(self._stages[number]),
            verdict=judged.get("verdict"),
            notices=tuple(Notice(**own) for own in judged.get("notices", ())),
        )

    def _judged(self) -> dict[str, Any]:
        """Reads the manifest of a finished selection."""
        path = files.join(self.output, "manifest.json")
        return json.loads(files.read_bytes(path)) if files.exists(path) else {}

    def _look_at(self, number: int) -> StageProgress:
        if number in self._finished:
            return self._finished[number]
        stage = self._stages[number]
        started = clock.read(stage.clock, "started") or {}
        ended = (clock.read(stage.clock, "ended") or {}) if number < self._num_finished else {}
        # The report shows it; of a run's progress it says nothing that the sizes of the files do not.
        ended.pop("traffic", None)
        found = _progress(
            stage,
            started=started.get("at"),
            ended=ended.pop("at", None),
            pieces=started.get("pieces"),
            found=started.get("found", 0),
            done=self._num_done(stage, started.get("pieces", 0), started.get("files", 0)),
            counts=ended or self._counts,
        )
        if found.ended is not None:
            self._finished[number] = found
        return found

    def _num_done(self, stage: RecordedStage, num_pieces: int, files_per_piece: int) -> int | None:
        """Lists a stage's files, and counts the complete pieces."""
        for place in stage.places(self.output):
            for info in files.find(place):
                self._sizes[info.path] = info.size_bytes
                self._written = max(self._written or 0.0, info.modified_s)
        # A piece is done once all its folders have its files, so the folder with the fewest decides.
        each = files_per_piece // max(1, len(stage.prefixes))
        if not each:
            return None
        paths = [path for path in self._sizes if stage.is_piece(path)]
        numbers = [sum(p.startswith(f"{prefix}/") for p in paths) for prefix in stage.prefixes]
        return min(*numbers, each * num_pieces) // each

    def _failure(self, stage: RecordedStage) -> Failure | None:
        # Failures of the launcher, which may have ended, and of workers, which may have been retried.
        found = [
            clock.read(path, "failed") for path in (clock.chain_path(self.output), stage.clock)
        ]
        # Failures before the start of this run belong to earlier attempts.
        own = [each for each in found if each and each["at"] >= (self._started or 0.0)]
        last = max(own, key=lambda each: each["at"], default=None)
        return Failure(last["at"], last["error"]) if last else None


def is_output(output: str) -> bool:
    """Whether a run was started on an output."""
    return files.exists(clock.chain_path(output)) or files.exists(files.join(output, "COMPLETE"))


def record(
    output: str,
    stages: "Sequence[Stage]",
    documents: int,
    input_bytes: int,
    budget: Budget | None,
    costs: "CostPlan",
) -> None:
    """Records the stages of a run about to start, for reports of its progress.

    Args:
      output: The output; absolute if local.
      stages: The chain.
      documents: Documents of the input; an estimate if they are not counted.
      input_bytes: Size of the input.
      budget: How much to select; None if nothing is selected.
      costs: The plan.
    """
    found = {
        "started": time.time(),
        "counts": {},
        "documents": documents,
        "input_bytes": input_bytes,
        "budget": None if budget is None else dataclasses.asdict(budget),
        "stages": [
            dataclasses.asdict(_recorded(output, stage, cost))
            for stage, cost in zip(stages, costs.stages, strict=True)
        ],
    }
    files.write(clock.chain_path(output), json.dumps(found).encode())


def _recall(output: str) -> dict[str, Any]:
    """Makes the record of a finished selection whose artifacts were deleted, from its manifest.

    Raises:
      UsageError: If there is none.
    """
    path = files.join(output, "manifest.json")
    if not files.exists(files.join(output, "COMPLETE")) or not files.exists(path):
        raise UsageError(f"{output} holds no run of beam-quad; pass the --output of one")
    manifest = json.loads(files.read_bytes(path))
    counts, tokens, budget = (manifest[name] for name in ("counts", "tokens", "budget"))
    is_tokens = budget["unit"] == "tokens"
    parts = ("selected", "rejected")
    stage = RecordedStage("WriteSelection", "COMPLETE", "_run/write", parts, {})
    return {
        "started": None,
        "counts": {
            "documents": counts["read"],
            "tokens": tokens["read"],
            "scored": counts["scored"],
            "accepted": tokens["selected"] if is_tokens else counts["selected"],
        },
        "documents": counts["read"],
        "input_bytes": manifest["input"]["bytes"],
        "budget": budget,
        "stages": [dataclasses.asdict(stage)],
    }


def _recorded(output: str, stage: "Stage", cost: "StageCost") -> RecordedStage:
    costs = {name: getattr(cost, name) for name in _COSTS}
    return RecordedStage(
        name=stage.name,
        artifact=_within(output, stage.artifact),
        clock=_within(output, stage.clock),
        prefixes=tuple(_within(output, prefix) for prefix in stage.prefixes()),
        planned={"seconds": 3600 * cost.hours, **costs},
    )


def _within(output: str, path: str) -> str:
    # Paths inside the output are recorded relative to it, because it may be mounted elsewhere on another machine.
    return path.removeprefix(f"{output}/")


def _from_json(output: str, found: dict[str, Any]) -> RecordedStage:
    def place(path: str) -> str:
        is_own = files.is_local(path) and not path.startswith("/")
        return files.join(output, path) if is_own else path

    found["prefixes"] = tuple(place(prefix) for prefix in found["prefixes"])
    if found["planned"] and found["planned"].keys() != {"seconds", *_COSTS}:
        raise KeyError("planned")
    return RecordedStage(**found | {n: place(found[n]) for n in ("artifact", "clock")})


def _progress(stage: RecordedStage, **facts: Any) -> StageProgress:
    planned = stage.planned
    return StageProgress(
        stage.name, planned.get("seconds"), planned.get("is_model", False), **facts
    )


def owner_of(output: str) -> str | None:
    """Describes the owner of an output's lock; None if there is none, or its process or job has ended."""
    owner = OutputLock(output, jobs.is_done_by_name).owner()
    return None if owner is None else str(owner)


def follow(
    run: RecordedRun,
    look: Callable[[], RunProgress],
    is_over: Callable[[float], bool],
    say: Callable[[str], None],
) -> None:
    """Reports each stage's start, its progress at intervals, and failures, one line each.

    Args:
      run: The run.
      look: Reads the progress.
      is_over: Waits the given number of seconds, and tells whether the run has ended.
      say: Prints a line.
    """
    shown, last, failure, has_ended = run.num_finished() - 1, 0.0, None, False
    while not has_ended:
        # Look once more after the end, because a stage may have started since the last look.
        has_ended = is_over(_POLL_S if files.is_local(run.output) else _STORE_POLL_S)
        current = run.num_finished()
        for number in range(shown + 1, current):
            say(f"stage {number + 1}/{len(run.names)} {run.names[number]}")
        is_new, shown = current > shown, max(shown, current - 1)
        if current == len(run.names):
            continue
        if is_new or time.monotonic() - last > _HEARTBEAT_S:
            progress = look()
            say(headline(progress))
            shown, last = current, time.monotonic()
            if progress.failure not in (None, failure) and not has_ended:
                failure = progress.failure
                say(f"failed: {failure.error}")


@contextlib.contextmanager
def printed(output: str) -> Iterator[None]:
    """Prints the progress of a run of this process to standard error until the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(output, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(output: str, over: threading.Event) -> None:
    start = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - start:5.0f} s] {line}\n")
        sys.stderr.flush()

    # Errors are ignored: a failing store ends the run in a step with a better message.
    with contextlib.suppress(Exception):
        run = RecordedRun(output)
        number = run.num_finished()
        done = f", {number} of them done by an earlier run" if number else ""
        say(f"a chain of {len(run.names)} stages{done}")
        follow(run, lambda: run.look("this process"), over.wait, say)
