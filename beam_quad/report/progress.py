"""The progress of a run: its stage, counts, elapsed and remaining time, as lines and for `--json`."""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from beam_quad.records import Budget
from beam_quad.report.data import Notice
from beam_quad.report.formatting import count, duration, percent, ratio, size

State = Literal["running", "stopped", "complete"]
# The stages that list a shortlist by n-grams, and that score it by influence.
_LISTING, _SHORTLIST = "ScoreNgrams", "ScoreShortlist"


@dataclasses.dataclass(frozen=True)
class StageProgress:
    """The progress of a stage. Times are seconds since 1970.

    Attributes:
      name: Name of the stage.
      planned_s: Planned seconds; None if the run has no plan.
      is_model: Whether the stage runs a model, by the plan.
      started: Time of the last start; None if not started.
      ended: Time of the end; None if not finished, or if the end was not recorded.
      pieces: Number of pieces, once they are listed.
      found: Number of pieces finished by an earlier attempt.
      done: Number of finished pieces; None if pieces leave no files of their own.
      counts: Amounts read, scored or accepted, from `Stage.progress`, once the stage is finished.
    """

    name: str
    planned_s: float | None = None
    is_model: bool = False
    started: float | None = None
    ended: float | None = None
    pieces: int | None = None
    found: int = 0
    done: int | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Failure:
    """The last failure.

    Attributes:
      at: Time, in seconds since 1970.
      error: The error in one line.
    """

    at: float
    error: str


@dataclasses.dataclass(frozen=True)
class RunProgress:
    """The progress of a run. Times are seconds since 1970.

    Attributes:
      state: Whether the run is complete, running or stopped.
      stages: The chain's stages, in order.
      num_finished: Number of finished stages, which come first in the chain.
      started: Time of the last start; None if its records have been deleted.
      seen: Time of this report.
      written: Time of the last write to a file of the run; None without files.
      documents: Planned documents of the input; estimated if not counted.
      input_bytes: Size of the input.
      stored_bytes: Size of the files stored by the stages.
      budget: How much to select; None if nothing is selected.
      owner: Description of the lock's owner; None if there is none.
      failure: The last failure; None once the run is complete.
      verdict: Summary of a finished selection in a sentence or two; None before.
      notices: Warnings and notes about the run.
    """

    state: State
    stages: Sequence[StageProgress]
    num_finished: int
    started: float | None
    seen: float
    written: float | None
    documents: int
    input_bytes: int
    stored_bytes: int
    budget: Budget | None
    owner: str | None
    failure: Failure | None
    verdict: str | None = None
    notices: Sequence[Notice] = ()

    @property
    def current(self) -> StageProgress | None:
        """The stage in progress; None once all are finished."""
        is_over = self.num_finished >= len(self.stages)
        return None if is_over else self.stages[self.num_finished]

    @property
    def documents_read(self) -> int:
        """Number of documents read; during reading, estimated from the share of finished pieces."""
        if (read := self._last("documents")) is not None:
            return read
        current = self.current
        if self.num_finished or current is None or not current.pieces:
            return 0
        return round(self.documents * (current.done or 0) / current.pieces)

    @property
    def tokens(self) -> int | None:
        """Tokens of the documents, in the end of those that can be selected; None until all are read."""
        return self._last("tokens")

    @property
    def scored(self) -> int | None:
        """Number of scores of finished stages; None before the first.

        The n-grams that list a shortlist do not count: its influence does.
        """
        # Both stages are of one kind, so only their names tell them apart.
        has_shortlist = any(stage.name == _SHORTLIST for stage in self.stages)
        counted = [
            stage.counts["scored"]
            for stage in self.stages
            if "scored" in stage.counts and not (has_shortlist and stage.name == _LISTING)
        ]
        return sum(counted) if counted else None

    @property
    def accepted(self) -> int | None:
        """Accepted amount of the budget, from the last stage that reports one; None before."""
        return self._last("accepted")

    @property
    def seconds(self) -> float | None:
        """Seconds from the start of the run to its last activity, or to now if it is running; None if unknown."""
        if self.started is None:
            return None
        if self.state == "running":
            return max(0.0, self.seen - self.started)
        ends = (stage.ended for stage in self.stages)
        last = max((end for end in ends if end is not None), default=self.started)
        if self.state == "stopped":
            # Its current stage has no end, so the last sign of life counts.
            last = max(last, self.written or 0.0, self.failure.at if self.failure else 0.0)
        return max(0.0, last - self.started)

    @property
    def stage_to_go_s(self) -> float | None:
        """Remaining seconds of the current stage, estimated from its pieces or else the plan; None if neither is known.

        It is also None for a stopped run.
        """
        stage = self.current
        if stage is None:
            return 0.0
        if self.state == "stopped":
            return None
        started = stage.started if self._is_own(stage) else None
        # The clock of the machine that started the stage may be ahead of this one.
        elapsed = 0.0 if started is None else max(0.0, self.seen - started)
        # Pieces that an earlier attempt left took this one no time, so they say nothing of its pace.
        made = (stage.done or 0) - stage.found
        if started is not None and stage.pieces and made > 0:
            return elapsed * (stage.pieces - (stage.done or 0)) / made
        if stage.planned_s is None:
            return None
        # A stage that is over its plan has no time left by it, rather than less than none.
        return max(0.0, stage.planned_s * self._pace(stage.is_model) - elapsed)

    @property
    def to_go_s(self) -> float | None:
        """Remaining seconds of the run; later stages by the plan, scaled by the pace of the stages this run has finished.

        None without a plan, since a later stage may then take any time, and for a stopped run.
        """
        later = self.stages[self.num_finished + 1 :]
        own = self.stage_to_go_s
        if own is None or any(stage.planned_s is None for stage in later):
            return None
        return own + math.fsum((s.planned_s or 0.0) * self._pace(s.is_model) for s in later)

    def _pace(self, is_model: bool) -> float:
        """Actual seconds per planned second, for stages with or without a model; 1 if unknown."""
        # Models and plain passes run on different hardware, so one says little about the pace of the other.
        measured = [
            (stage.planned_s, stage.ended - stage.started)
            for stage in self.stages[: self.num_finished]
            if stage.planned_s and stage.is_model == is_model and self._is_own(stage)
            if stage.started is not None and stage.ended is not None
        ]
        planned = math.fsum(seconds for seconds, _ in measured)
        return math.fsum(max(0.0, taken) for _, taken in measured) / planned if planned else 1.0

    def _is_own(self, stage: StageProgress) -> bool:
        """Whether this run started a stage, rather than reusing an earlier run's artifact."""
        if stage.started is None or self.started is None:
            return False
        return stage.started >= self.started

    def _last(self, name: str) -> int | None:
        """Reads an amount from the last stage that counts it."""
        # Later stages know more: duplicates, leaks and rows without an embedding are told apart after the texts are read.
        found = [stage.counts[name] for stage in self.stages if name in stage.counts]
        return found[-1] if found else None


def headline(run: RunProgress) -> str:
    """Describes the current stage and the remaining time in one line."""
    words = _where(run)
    if run.accepted is not None and run.budget is not None and run.current is not None:
        words += f", {run.accepted:,} of {run.budget.amount:,} {run.budget.unit} accepted"
    to_go = _to_go(run)
    return f"{words}, {to_go}" if to_go else words


def lines(run: RunProgress) -> list[str]:
    """Describes the progress of a run in a few lines."""
    found = [(run.state, _where(run)), ("read", _read(run))]
    if run.scored is not None:
        found.append(("scores", count(run.scored)))
    if run.accepted is not None and run.budget is not None:
        share = percent(ratio(run.accepted, run.budget.amount))
        words = (
            f"{run.accepted:,} of {run.budget.amount:,} {run.budget.unit} of the budget ({share})"
        )
        found.append(("accepted", words))
    found.append(("stored", size(run.stored_bytes)))
    if run.seconds is not None:
        # Of a complete run the time is final.
        so_far = "" if run.state == "complete" else " so far"
        to_go = f", {_to_go(run)}" if _to_go(run) else ""
        found.append(("time", f"{duration(run.seconds)}{so_far}{to_go}"))
    if run.state == "running":
        last = "" if run.written is None else f"; last file {_ago(run, run.written)}"
        found.append(("held by", f"{run.owner}{last}"))
    if run.failure is not None:
        words = f"{_ago(run, run.failure.at)}, {_utc(run.failure.at)}: {run.failure.error}"
        found.append(("failed", words))
    if run.verdict is not None:
        found.append(("verdict", run.verdict))
    found += [(notice.level, notice.message) for notice in run.notices]
    return [f"{name:<9} {words}" for name, words in found]


def as_json(run: RunProgress) -> dict[str, Any]:
    """Converts the progress for `json.dumps`, always with the same names, and null for unknown values."""
    stage, budget = run.current, run.budget
    return {
        "state": run.state,
        "stage": None if stage is None else {
            "number": run.num_finished + 1,
            "name": stage.name,
            "pieces": stage.pieces,
            "pieces_done": stage.done,
            "seconds_to_go": run.stage_to_go_s,
        },
        "stages": len(run.stages),
        "documents": {"read": run.documents_read, "planned": run.documents},
        "tokens": run.tokens,
        "scored": run.scored,
        "accepted": run.accepted,
        "budget": None if budget is None else {"amount": budget.amount, "unit": budget.unit},
        "bytes": {"input": run.input_bytes, "stored": run.stored_bytes},
        "seconds": run.seconds,
        "seconds_to_go": run.to_go_s,
        "last_file": None if run.written is None else _utc(run.written),
        "held_by": run.owner,
        "failed": None if run.failure is None else {
            "at": _utc(run.failure.at),
            "error": run.failure.error,
        },
        "verdict": run.verdict,
        "notices": [dataclasses.asdict(notice) for notice in run.notices],
    }  # fmt: skip


def _where(run: RunProgress) -> str:
    stage = run.current
    if stage is None:
        return f"{len(run.stages)} stage{'s' if len(run.stages) > 1 else ''}"
    words = f"stage {run.num_finished + 1}/{len(run.stages)} {stage.name}"
    if not stage.pieces:
        return words
    if stage.done is None:
        return f"{words}: {stage.pieces:,} pieces"
    return f"{words}: {stage.done:,} of {stage.pieces:,} pieces done"


def _read(run: RunProgress) -> str:
    of = "" if run.tokens is not None else f"about {run.documents_read:,} of "
    number = run.documents if run.tokens is None else run.documents_read
    tokens = "" if run.tokens is None else f", {run.tokens:,} tokens"
    return f"{of}{number:,} documents{tokens}; the input has {size(run.input_bytes)}"


def _to_go(run: RunProgress) -> str:
    if run.current is None:
        return ""
    if run.to_go_s is not None:
        return f"about {duration(run.to_go_s)} to go"
    if run.stage_to_go_s is not None:
        return f"about {duration(run.stage_to_go_s)} to go in this stage"
    return ""


def _ago(run: RunProgress, at: float) -> str:
    return f"{duration(max(0.0, run.seen - at))} ago"


def _utc(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")
