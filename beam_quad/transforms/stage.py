"""The one shape of every stage: list all work, do or read each piece, sum, write the artifact.

    token -> List -> Reshuffle -> Do -> Sum -> Finish -> token

The job is a chain of such stages, so that a crash, a new budget and new shards are all the same rule: what lies
finished in the artifact directory is read, and everything else is made.
"""

import abc
import dataclasses
import functools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import PCollection

from beam_quad.gradients.proxy import require_device
from beam_quad.io import files, traffic
from beam_quad.transforms.cache import cached_model


@dataclasses.dataclass(frozen=True)
class Token:
    """What flows between two stages: the name of the stage that is finished, and where its artifact lies."""

    stage: str
    artifact: str


@dataclasses.dataclass(frozen=True)
class Sentinel:
    """Goes through every stage beside its pieces, so that the chain goes on when there is no work."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A piece whose file lies there already: it is read, not made again."""

    piece: Any


class Task(beam.PTransform, abc.ABC):
    """What one stage does: a transform from pieces to statistics, with the rules that make it a stage.

    Alone it takes a PCollection of pieces and gives one statistic each, in any order. Inside `Stage` it also lists its
    own work, reads what is finished and writes the artifact. A task is a small picklable dataclass: paths and options,
    never payloads.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """CapWords name of the stage; the label of its step."""

    @property
    @abc.abstractmethod
    def artifact(self) -> str:
        """Path that exists if and only if the stage is finished."""

    @property
    def clock(self) -> str:
        """Where the wall-clock times of the stage are kept; no result depends on them."""
        return self.artifact

    @abc.abstractmethod
    def pieces(self) -> Iterable[Any]:
        """Lists all work of the stage, in a fixed order. Runs on a worker, after the stage before."""

    def prefixes(self) -> tuple[str, ...]:
        """The folders in which the files of finished pieces lie."""
        return ()

    def paths(self, piece: Any) -> tuple[str, ...]:
        """The files of one piece; it is finished if and only if all of them exist."""
        return ()

    @abc.abstractmethod
    def do(self, piece: Any, model: Any) -> Any:
        """Does one piece, writes its files and returns its statistic. May run twice for one piece."""

    def read(self, piece: Any) -> Any:
        """Returns the statistic of a finished piece from its files."""
        raise TypeError(f"{self.name} keeps no files by piece, so that none can be finished")

    @abc.abstractmethod
    def finish(self, total: Any) -> None:
        """Writes the artifact from the sum over all pieces, which is None where there were none."""

    def expand(self, pieces: PCollection[Any]) -> PCollection[Any]:
        # A fresh copy: Beam hangs the pipeline itself on a transform that it applies, which cannot be pickled.
        return pieces | "Piece" >> beam.ParDo(DoPiece(dataclasses.replace(self)))


class ModelTask(Task):
    """A task that needs a model: it runs as a RunInference step, with one model per process."""

    @property
    @abc.abstractmethod
    def model_key(self) -> str:
        """Names the model: two tasks with one key share it."""

    @property
    @abc.abstractmethod
    def device(self) -> str:
        """Torch device of the model: "cpu", "cuda" or "cuda:N"."""

    @abc.abstractmethod
    def load(self) -> Any:
        """Loads the model; called at most once per key and process."""

    def model(self) -> Any:
        """The process's model."""
        return cached_model(("model", self.model_key), self.load)

    def expand(self, pieces: PCollection[Any]) -> PCollection[Any]:
        task = dataclasses.replace(self)
        handler = PieceHandler(task, has_accelerator=bool(self.get_resource_hints()))
        return pieces | "Infer" >> RunInference(
            handler, model_identifier=f"{task.name}/{task.model_key}"
        )


class GroupedTask(Task):
    """A task in two steps: what is drawn from each piece crosses a shuffle, packed, and is put together by group."""

    @abc.abstractmethod
    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        """Yields packed parts of a piece with the number of their group, >= 0."""

    @abc.abstractmethod
    def put_together(self, group: int, parts: Iterable[bytes]) -> Any:
        """Writes the file of a group from its parts, which come in any order, and returns its statistic."""

    def do(self, piece: Any, model: Any) -> Any:
        raise TypeError(f"{self.name} works in two steps: draw and put_together")

    def expand(self, pieces: PCollection[Any]) -> PCollection[Any]:
        task = dataclasses.replace(self)
        return (
            pieces
            | "Draw" >> beam.FlatMap(_draw, task)
            | "ByGroup" >> beam.GroupByKey()
            | "PutTogether" >> beam.Map(_put_together, task)
        )


_NO_GROUP = -1


def _draw(element: Any, task: GroupedTask) -> Iterator[tuple[int, bytes]]:
    if isinstance(element, Sentinel):
        yield _NO_GROUP, b""
        return
    for group, part in task.draw(element):
        traffic.count("bytes_shuffled", len(part))
        yield group, part


def _put_together(element: tuple[int, Iterable[bytes]], task: GroupedTask) -> Any:
    group, parts = element
    return None if group == _NO_GROUP else task.put_together(group, parts)


class SumCombineFn(beam.CombineFn):
    """Sums statistics that know how to add themselves (see `beam_quad.additive`).

    None is the sum of none: how many clusters a statistic counts is known on the workers only.
    """

    def create_accumulator(self) -> Any:
        return None

    def add_input(self, accumulator: Any, statistic: Any) -> Any:
        if accumulator is None or statistic is None:
            return statistic if accumulator is None else accumulator
        return accumulator + statistic

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        return functools.reduce(self.add_input, accumulators, None)

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator


class DoPiece(beam.DoFn):
    """Does one piece, reads a finished one, and lets the sentinel through as None."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def process(self, element: Any) -> Iterator[Any]:
        yield do_element(self._task, element, None)


def do_element(task: Task, element: Any, model: Any) -> Any:
    """Turns an element of a stage (a piece, a finished piece or the sentinel) into its statistic."""
    if isinstance(element, Sentinel):
        return None
    if isinstance(element, Finished):
        return task.read(element.piece)
    return task.do(element, model)


class LazyModel:
    """The model of a task, loaded by the first piece that needs it and used by one thread at a time."""

    def __init__(self, task: ModelTask) -> None:
        self._task = task
        self._lock = threading.Lock()

    def do(self, element: Any) -> Any:
        """Returns the statistic of an element; the sentinel and a finished piece need no model."""
        if isinstance(element, (Sentinel, Finished)):
            return do_element(self._task, element, None)
        with self._lock:
            return do_element(self._task, element, self._task.model())


# One has the model, which takes one piece at a time, while another reads what it will need.
_BUNDLES_PER_ACCELERATOR = "2"


class PieceHandler(ModelHandler[Any, Any, LazyModel]):
    """Runs a `ModelTask` inside RunInference: one element is one piece, and one batch is one element.

    Pieces are formed by the data and not by the clock, so that the result does not depend on how a runner batches.
    The model is shared through the process-wide cache, by `ModelTask.model_key`.

    Args:
      task: What is done.
      has_accelerator: Whether the step asks for an accelerator, which the pieces of a worker then share.

    Raises:
      DeviceError: In `load_model`, where the device is not there. There is no fallback to another one.
    """

    def __init__(self, task: ModelTask, has_accelerator: bool = False) -> None:
        super().__init__()
        self._task = task
        self._has_accelerator = has_accelerator

    def load_model(self) -> LazyModel:
        """Checks the device; the model itself waits for the first piece."""
        require_device(self._task.device)
        return LazyModel(self._task)

    def run_inference(
        self,
        batch: Sequence[Any],
        model: LazyModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterator[Any]:
        """Yields the statistic of each element of the batch."""
        for element in batch:
            yield model.do(element)

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Counts elements: they are references, whose bytes say nothing."""
        return len(batch)

    def get_resource_hints(self) -> dict[str, str]:
        """Hints of the step that has the model, and of that step alone: Beam adds this one up over nested steps."""
        if not self._has_accelerator:
            return {}
        return {"max_active_bundles_per_worker": _BUNDLES_PER_ACCELERATOR}

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's own counters."""
        return "beam_quad"

    def batch_elements_kwargs(self) -> dict[str, int]:
        """One element a batch."""
        return {"min_batch_size": 1, "max_batch_size": 1}


@dataclasses.dataclass
class Stage(beam.PTransform):
    """Runs a task between two links of the chain.

    Takes the one token of the stage before and emits one token, after every piece is done and the artifact is
    written. A finished piece is read; where the whole artifact lies there, nothing is listed.

    Args:
      task: What the stage does.
      accelerator: Resource hint of the step with the model, where the task has one that is not for the CPU, such as
        `type:nvidia-l4;count:1;install-nvidia-driver`; the other steps run on plain machines.
    """

    task: Task
    accelerator: str | None = None

    def expand(self, tokens: PCollection[Token]) -> PCollection[Token]:
        task = dataclasses.replace(self.task)
        return (
            tokens
            | "List" >> beam.FlatMap(_list_work, task)
            # The list is one element's output: without a shuffle its pieces would all run on the worker that made it.
            | "Spread" >> beam.Reshuffle()
            | "Do" >> self._hinted()
            | "Sum" >> beam.CombineGlobally(SumCombineFn()).without_defaults()
            | "Finish" >> beam.Map(_finish, task)
        )

    def _hinted(self) -> Task:
        # A copy: hints stay on the transform that they are given to.
        task = dataclasses.replace(self.task)
        if self.accelerator is None or not isinstance(task, ModelTask) or task.device == "cpu":
            return task
        return task.with_resource_hints(accelerator=self.accelerator)


def start(pipeline: beam.Pipeline, plan_path: str) -> PCollection[Token]:
    """Starts a chain of stages: emits the token of the plan, which the launcher has written."""
    first = Token("Plan", plan_path)
    return pipeline | beam.Impulse() | "Start" >> beam.Map(_replace, first)


def timing_path(clock: str, edge: str) -> str:
    """Where the time of a stage's start or end is kept, by its `clock`."""
    return f"{clock}.{edge}"


def _replace(_: bytes, token: Token) -> Token:
    return token


def _list_work(token: Token, task: Task) -> Iterator[Any]:
    yield Sentinel()
    if files.exists(task.artifact):
        return
    _write_clock(task, "started")
    there = {info.path for prefix in task.prefixes() for info in files.find(prefix)}
    reused = beam.metrics.Metrics.counter("beam_quad", f"{task.name}_reused")
    for piece in task.pieces():
        paths = task.paths(piece)
        if paths and there.issuperset(paths):
            reused.inc()
            yield Finished(piece)
        else:
            yield piece


def _finish(total: Any, task: Task) -> Token:
    if not files.exists(task.artifact):
        task.finish(total)
        _write_clock(task, "ended")
    return Token(task.name, task.artifact)


def _write_clock(task: Task, edge: str) -> None:
    path = timing_path(task.clock, edge)
    files.write_once(path, str(time.time()).encode(), replace=True)
