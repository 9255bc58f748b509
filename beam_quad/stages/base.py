"""The one shape of every stage: list all work, do or read each piece, sum, write the artifact.

A run is a chain of such stages. A crash, a new budget and new shards all follow the same rule: what is finished in the
artifact directory is read, and everything else is made. Nothing here knows Beam: `beam_quad.transforms` runs a stage
on workers, and `run_in_process` in a plain loop.
"""

import abc
import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached_model
from beam_quad.gradients.proxy import require_device


@dataclasses.dataclass(frozen=True)
class Finished:
    """A piece whose file lies there already: it is read, not made again."""

    piece: Any


class Task(abc.ABC):
    """What one stage does: it lists its own work, does or reads each piece, and writes the artifact from the sum.

    A task is a small picklable dataclass: paths and options, never payloads.
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


class RegroupedTask(GroupedTask):
    """A grouped task whose groups are read and packed once more, by other groups, before they are put together."""

    @abc.abstractmethod
    def regroup(self, group: int, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yields packed parts of what was drawn for a group, each with the number of its new group, >= 0."""


def list_work(task: Task) -> Iterator[Any]:
    """Yields every piece of a stage, as `Finished` if its files are stored; nothing if the whole stage is finished."""
    if files.exists(task.artifact):
        return
    _write_clock(task, "started")
    there = {info.path for prefix in task.prefixes() for info in files.find(prefix)}
    for piece in task.pieces():
        paths = task.paths(piece)
        yield Finished(piece) if paths and there.issuperset(paths) else piece


def do_element(task: Task, element: Any) -> Any:
    """Turns an element of `list_work` into its statistic; a finished piece is read, and needs no model."""
    if isinstance(element, Finished):
        return task.read(element.piece)
    return task.do(element, task.model() if isinstance(task, ModelTask) else None)


def add(total: Any, statistic: Any) -> Any:
    """Adds two statistics (see `beam_quad.additive`), of which None is the sum of no pieces."""
    if total is None or statistic is None:
        return statistic if total is None else total
    return total + statistic


def finish(task: Task, total: Any) -> None:
    """Writes the artifact of a stage, unless it is stored already."""
    if not files.exists(task.artifact):
        task.finish(total)
        _write_clock(task, "ended")


def run_in_process(tasks: Sequence[Task]) -> None:
    """Runs a chain of stages in this thread, one piece after another; leaves the same files as a Beam runner.

    Raises:
      DeviceError: If the device of a model is missing. There is no fallback to another one.
    """
    for task in tasks:
        work = list(list_work(task))
        if isinstance(task, ModelTask):
            require_device(task.device)
        finish(task, functools.reduce(add, _statistics(task, work), None))


def timing_path(clock: str, edge: str) -> str:
    """Where the time of a stage's start or end is kept, by its `clock`."""
    return f"{clock}.{edge}"


def _statistics(task: Task, work: Sequence[Any]) -> Iterator[Any]:
    if not isinstance(task, GroupedTask):
        yield from (do_element(task, element) for element in work)
        return
    groups = _by_group(drawn for piece in work for drawn in task.draw(piece))
    if isinstance(task, RegroupedTask):
        groups = _by_group(
            part for group, parts in groups.items() for part in task.regroup(group, parts)
        )
    yield from (task.put_together(group, parts) for group, parts in groups.items())


def _by_group(drawn: Iterable[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    groups: dict[int, list[bytes]] = {}
    for group, part in drawn:
        groups.setdefault(group, []).append(part)
    return groups


def _write_clock(task: Task, edge: str) -> None:
    path = timing_path(task.clock, edge)
    files.write_once(path, str(time.time()).encode(), replace=True)
