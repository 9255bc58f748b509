"""The one shape of every stage: list all work, do or read each piece, sum, write the artifact.

A run is a chain of such stages. A crash, a new budget and new shards all follow the same rule: what is finished in the
artifact directory is read, and everything else is made. Nothing here knows Beam: `beam_quad.transforms` runs a stage
on workers, and `run_in_process` in a plain loop.

A stage is a small frozen dataclass whose fields are options and the stages that it reads. From these fields its folder
is named (`beam_quad.identity`), and what it wrote is read by its own methods.
"""

import abc
import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from beam_quad import identity
from beam_quad.additive import PairwiseSum, Tally
from beam_quad.artifacts import clock, files
from beam_quad.artifacts.cache import cached_model
from beam_quad.artifacts.json_files import write_json
from beam_quad.gradients.proxy import require_device


@dataclasses.dataclass(frozen=True)
class Stored(abc.ABC):
    """What has a folder of its own, named by its kind, its version and its fields.

    Attributes:
      kind: First part of the folder's name.
      version: Raised when the files change their meaning, so that those of an older version are not read.

    Raises:
      TypeError: When it is made, if a field has no stable form and no mark that says why it does not count.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.identity()

    @property
    @abc.abstractmethod
    def root(self) -> str:
        """The folder of all artifacts."""

    @functools.cached_property
    def _name(self) -> str:
        return identity.digest(self.kind, self.version, identity.fields_form(self))[:20]

    def identity(self) -> list[str]:
        """Names it by kind and content, wherever the artifacts are stored."""
        return [self.kind, self._name]

    @property
    def folder(self) -> str:
        """Where its files are stored."""
        return files.join(self.root, self.kind, self._name)

    def path(self, *names: str) -> str:
        """The path of one of its files."""
        return files.join(self.folder, *names)

    def group_path(self, group: int, ending: str = "parquet") -> str:
        """The path of its file of a group, by the group's number."""
        return self.path("groups", f"group-{group:05d}.{ending}")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A piece whose file is stored already: it is read, not made again."""

    piece: Any


class Stage(Stored):
    """One step of a run: it lists its own work, does or reads each piece, and writes the artifact from the sum.

    Attributes:
      artifact_name: Name of the file that exists if and only if the stage is finished.
      num_adders: Workers that each add up a part of the statistics, before one adds up their sums; more than one if a
        statistic is of a megabyte, or grows with the corpus.
    """

    artifact_name: ClassVar[str]
    num_adders: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """CapWords name of the stage; the label of its step."""
        return type(self).__name__

    @property
    def artifact(self) -> str:
        """Path that exists if and only if the stage is finished."""
        return self.path(self.artifact_name)

    @property
    def clock(self) -> str:
        """Where the wall-clock times of the stage are kept; no result depends on them."""
        return self.artifact

    @abc.abstractmethod
    def pieces(self) -> Iterable[Any]:
        """Lists all work of the stage, in a fixed order. Runs on a worker, after the stage before."""

    def prefixes(self) -> tuple[str, ...]:
        """The folders in which the files of finished pieces are stored."""
        return ()

    def paths(self, piece: Any) -> tuple[str, ...]:
        """The files of one piece; it is finished if and only if all of them exist."""
        return ()

    def size_of(self, piece: Any) -> int:
        """How much work a piece is beside others: a large one that starts last is waited for."""
        return 0

    @abc.abstractmethod
    def do(self, piece: Any, model: Any) -> Any:
        """Does one piece, writes its files and returns its statistic. May run twice for one piece."""

    def statistic(self, piece: Any) -> Any:
        """Returns the statistic of a finished piece from its files."""
        raise TypeError(f"{self.name} keeps no files by piece, so that none can be finished")

    def finish(self, total: Any) -> None:
        """Writes the artifact from the sum over all pieces, which is None if there were none: here its counts."""
        write_json(self.artifact, (total or Tally()).counts)

    def progress(self, total: Any) -> Mapping[str, int]:
        """Gives what the finished stage adds to how a run stands; called once, after `finish`.

        Returns:
          `documents` and `tokens` that were read, how many were `scored`, or what of the budget is `accepted` so far.
        """
        return {}


class ModelStage(Stage):
    """A stage that needs a model: it runs as a RunInference step, with one model per process.

    Attributes:
      pieces_at_once: Pieces that threads of a process may do at the same time. More than one where `do` uses the model
        in turns, so that a piece reads and writes while another has the device.
    """

    pieces_at_once: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def model_key(self) -> str:
        """Names the model: two stages with one key share it."""

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


class GroupedStage(Stage):
    """A stage in two steps: what is drawn from each piece crosses a shuffle, packed, and is put together by group."""

    @abc.abstractmethod
    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        """Yields packed parts of a piece with the number of their group, >= 0."""

    @abc.abstractmethod
    def put_together(self, group: int, parts: Iterable[bytes]) -> Any:
        """Writes the file of a group from its parts, which come in any order, and returns its statistic."""

    def do(self, piece: Any, model: Any) -> Any:
        raise TypeError(f"{self.name} works in two steps: draw and put_together")


class RegroupedStage(GroupedStage):
    """A grouped stage whose groups are read and packed once more, by other groups, before they are put together."""

    @abc.abstractmethod
    def regroup(self, group: int, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yields packed parts of what was drawn for a group, each with the number of its new group, >= 0."""


class NumberedStage(Stage):
    """A stage whose pieces are the numbers of groups, with one file each.

    Attributes:
      ending: Ending of the files' names.
    """

    ending: ClassVar[str] = "parquet"

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (self.group_path(piece, self.ending),)


def list_work(stage: Stage) -> Iterator[Any]:
    """Yields every piece of a stage, the largest first, as `Finished` if its files are stored; nothing if all is finished."""
    with clock.noting_failure(stage.clock):
        yield from () if files.exists(stage.artifact) else _list_work(stage)


def _list_work(stage: Stage) -> list[Any]:
    at = time.time()
    stored = {info.path for prefix in stage.prefixes() for info in files.find(prefix)}
    pieces = sorted(stage.pieces(), key=stage.size_of, reverse=True)
    paths = [stage.paths(piece) for piece in pieces]
    is_finished = [bool(own) and stored.issuperset(own) for own in paths]
    # Only here is it known how many pieces there are.
    facts = {
        "pieces": len(pieces),
        "found": sum(is_finished),
        "files": len(paths[0]) if paths else 0,
    }
    clock.write(stage.clock, "started", **facts | {"at": at})
    return [
        Finished(piece) if done else piece for piece, done in zip(pieces, is_finished, strict=True)
    ]


def do_element(stage: Stage, element: Any) -> Any:
    """Turns an element of `list_work` into its statistic; a finished piece is read, and needs no model."""
    with clock.noting_failure(stage.clock):
        if isinstance(element, Finished):
            return stage.statistic(element.piece)
        return stage.do(element, stage.model() if isinstance(stage, ModelStage) else None)


def add(total: Any, statistic: Any) -> Any:
    """Adds two statistics (see `beam_quad.additive`), of which None is the sum of no pieces."""
    if total is None or statistic is None:
        return statistic if total is None else total
    return total + statistic


def finish(stage: Stage, total: Any) -> None:
    """Writes the artifact of a stage, unless it is stored already."""
    with clock.noting_failure(stage.clock):
        if not files.exists(stage.artifact):
            stage.finish(total)
            clock.write(stage.clock, "ended", **stage.progress(total))


def run_in_process(stages: Sequence[Stage]) -> None:
    """Runs a chain of stages in this thread, one piece after another; leaves the same files as a Beam runner.

    Raises:
      DeviceError: If the device of a model is missing. There is no fallback to another one.
    """
    for stage in stages:
        work = list(list_work(stage))
        if isinstance(stage, ModelStage):
            require_device(stage.device)
        total = PairwiseSum[Any]()
        for statistic in _statistics(stage, work):
            total.add(statistic)
        finish(stage, total.total())


def _statistics(stage: Stage, work: Sequence[Any]) -> Iterator[Any]:
    if not isinstance(stage, GroupedStage):
        yield from (do_element(stage, element) for element in work)
        return
    with clock.noting_failure(stage.clock):
        groups = _by_group(drawn for piece in work for drawn in stage.draw(piece))
        if isinstance(stage, RegroupedStage):
            groups = _by_group(
                part for group, parts in groups.items() for part in stage.regroup(group, parts)
            )
        yield from (stage.put_together(group, parts) for group, parts in groups.items())


def _by_group(drawn: Iterable[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    groups: dict[int, list[bytes]] = {}
    for group, part in drawn:
        groups.setdefault(group, []).append(part)
    return groups
