"""The interface of every stage: list all work, do or read each piece, sum the statistics, write the artifact.

A run is a chain of stages. Recovery from a crash, a new budget and new shards follow one rule: files that are already in
the artifact directory are read, and all others are made. This module does not use Beam: `beam_quad.transforms` runs a
stage on workers, and `run_in_process` runs it in a plain loop.

A stage is a small frozen dataclass. Its fields are options and the stages it reads. Its folder is named by these fields
(`beam_quad.identity`), and its own methods read the files it wrote.
"""

import abc
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from beam_quad import identity
from beam_quad.additive import PairwiseSum, Tally
from beam_quad.artifacts import clock, files, traffic
from beam_quad.artifacts.cache import cached_model
from beam_quad.artifacts.json_files import write_json
from beam_quad.gradients.proxy import require_device
from beam_quad.plan.work import Sizes, Work


@dataclasses.dataclass(frozen=True)
class Stored(abc.ABC):
    """An object with a folder of its own, named by its kind, its version and its fields.

    Attributes:
      kind: First part of the folder's name.
      version: Raised when the files change their meaning, so files of an older version are not read.

    Raises:
      TypeError: On construction, if a field has neither a stable form nor a mark that excludes it from the identity.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        # Fails when the chain is built, not on a worker, if a field cannot be part of the folder's name.
        self.identity()

    @property
    @abc.abstractmethod
    def root(self) -> str:
        """The folder of all artifacts."""

    @functools.cached_property
    def _name(self) -> str:
        # 80 of the digest's 128 bits: no two folders of a run share them, and paths stay short.
        return identity.digest(self.kind, self.version, identity.fields_form(self))[:20]

    def identity(self) -> list[str]:
        """Returns the kind and the digest of the content; both are independent of `root`."""
        return [self.kind, self._name]

    @property
    def folder(self) -> str:
        """Folder of its files."""
        return files.join(self.root, self.kind, self._name)

    def path(self, *names: str) -> str:
        """Path of one of its files."""
        return files.join(self.folder, *names)

    def group_path(self, group: int, ending: str = "parquet") -> str:
        """Path of the file of one group."""
        return self.path("groups", f"group-{group:05d}.{ending}")


@dataclasses.dataclass(frozen=True)
class Finished:
    """A piece whose files exist already; they are read, not made again."""

    piece: Any


@dataclasses.dataclass(frozen=True)
class Counted:
    """A statistic, and the traffic of making it.

    Attributes:
      statistic: The statistic of one or several pieces; None if they have none.
      traffic: What was read, shuffled, stored and passed through models, by `traffic.Kind`.
    """

    statistic: Any
    traffic: Tally = dataclasses.field(default_factory=Tally)

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(add(self.statistic, other.statistic), self.traffic + other.traffic)


# The group of what is no part of a piece: the traffic of the steps before a shuffle. Groups of parts are >= 0.
NO_GROUP = -1


class Stage(Stored):
    """One step of a run: lists its own work, does or reads each piece, and writes the artifact from the sum.

    Attributes:
      artifact_name: Name of the file that exists if and only if the stage is finished.
      num_adders: Number of workers that sum the statistics in parallel before one worker adds up their partial sums. Use
        more than one if a statistic has a size of about a megabyte or grows with the corpus.
    """

    artifact_name: ClassVar[str]
    num_adders: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """Name of the stage in CapWords; also the label of its step."""
        return type(self).__name__

    @property
    def artifact(self) -> str:
        """Path that exists if and only if the stage is finished."""
        return self.path(self.artifact_name)

    @property
    def clock(self) -> str:
        """Path under which the stage's wall-clock times are recorded; no result depends on them."""
        return self.artifact

    def work(self, sizes: Sizes) -> Work:
        """States the work of the stage on a corpus of these sizes, for plans; nothing worth telling by default."""
        return Work("rank, cut")

    @abc.abstractmethod
    def pieces(self) -> Iterable[Any]:
        """Lists all work of the stage in a fixed order. Runs on a worker, after the previous stage."""

    def prefixes(self) -> tuple[str, ...]:
        """Folders of the files of finished pieces."""
        return ()

    def paths(self, piece: Any) -> tuple[str, ...]:
        """Files of one piece; the piece is finished if and only if all of them exist."""
        return ()

    def size_of(self, piece: Any) -> int:
        """Relative amount of work of a piece. The largest start first, so no worker starts a long one at the end."""
        return 0

    @abc.abstractmethod
    def do(self, piece: Any, model: Any) -> Any:
        """Does one piece, writes its files and returns its statistic. May run more than once for one piece."""

    def statistic(self, piece: Any) -> Any:
        """Returns the statistic of a finished piece from its files."""
        raise TypeError(f"{self.name} keeps no files by piece, so that none can be finished")

    def finish(self, total: Any) -> None:
        """Writes the artifact from the sum over all pieces, None if there were none. By default it holds the counts."""
        write_json(self.artifact, (total or Tally()).counts)

    def progress(self, total: Any) -> Mapping[str, int]:
        """Returns what the finished stage adds to the progress of the run; called once, after `finish`.

        Returns:
          Any of `documents` read, `tokens` read, examples `scored`, and tokens of the budget `accepted` so far.
        """
        return {}


class ModelStage(Stage):
    """A stage with a model. It runs as a RunInference step, with one model per process.

    Attributes:
      pieces_at_once: Number of pieces that the threads of a process may do at the same time. Use more than one if `do`
        takes turns with the model: one piece then reads and writes while another has the device.
    """

    pieces_at_once: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def model_key(self) -> str:
        """Key of the model; stages with the same key share it."""

    @property
    @abc.abstractmethod
    def device(self) -> str:
        """Torch device of the model: "cpu", "cuda" or "cuda:N"."""

    @abc.abstractmethod
    def load(self) -> Any:
        """Loads the model; called at most once per key and process."""

    def model(self) -> Any:
        """Returns the process's model, loaded on the first call."""
        return cached_model(("model", self.model_key), self.load)


class GroupedStage(Stage):
    """A stage in two steps: packed rows of each piece cross a shuffle and are put together by group."""

    @abc.abstractmethod
    def draw(self, piece: Any) -> Iterator[tuple[int, bytes]]:
        """Yields packed parts of a piece, each with the number of its group, >= 0."""

    @abc.abstractmethod
    def put_together(self, group: int, parts: Iterable[bytes]) -> Any:
        """Writes the file of a group from its parts, in any order, and returns the group's statistic."""

    def do(self, piece: Any, model: Any) -> Any:
        raise TypeError(f"{self.name} works in two steps: draw and put_together")


class RegroupedStage(GroupedStage):
    """A grouped stage with a second shuffle: its groups are regrouped before they are put together."""

    @abc.abstractmethod
    def regroup(self, group: int, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yields packed parts of a drawn group, each with the number of its new group, >= 0."""


class NumberedStage(Stage):
    """A stage whose pieces are group numbers, with one file each.

    Attributes:
      ending: File extension, without the dot.
    """

    ending: ClassVar[str] = "parquet"

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("groups"),)

    def paths(self, piece: int) -> tuple[str, ...]:
        return (self.group_path(piece, self.ending),)


def list_work(stage: Stage) -> Iterator[Any]:
    """Yields every piece of a stage, largest first, as `Finished` if its files exist; nothing if the artifact exists."""
    with clock.noting_failure(stage.clock):
        yield from () if files.exists(stage.artifact) else _list_work(stage)


def _list_work(stage: Stage) -> list[Any]:
    # Before the listing, which may itself take minutes.
    at = time.time()
    # One listing of a prefix instead of a request per file: a corpus has thousands of pieces.
    stored = {info.path for prefix in stage.prefixes() for info in files.find(prefix)}
    pieces = sorted(stage.pieces(), key=stage.size_of, reverse=True)
    paths = [stage.paths(piece) for piece in pieces]
    # A piece without files of its own is never finished: it is done again whenever the artifact is missing.
    is_finished = [bool(own) and stored.issuperset(own) for own in paths]
    # Written here because the number of pieces is unknown before they are listed.
    facts = {
        "pieces": len(pieces),
        "found": sum(is_finished),
        "files": len(paths[0]) if paths else 0,
    }
    clock.write(stage.clock, "started", **facts | {"at": at})
    return [
        Finished(piece) if done else piece for piece, done in zip(pieces, is_finished, strict=True)
    ]


def do_element(stage: Stage, element: Any) -> Counted:
    """Returns the statistic of an element of `list_work`. A finished piece is read, without the model."""
    with clock.noting_failure(stage.clock):
        if isinstance(element, Finished):
            # No traffic: what the piece cost was counted by the run that made it.
            return Counted(stage.statistic(element.piece))
        model = stage.model() if isinstance(stage, ModelStage) else None
        with traffic.collected() as amounts:
            statistic = stage.do(element, model)
        return Counted(statistic, Tally(amounts))


def draw_parts(stage: GroupedStage, piece: Any) -> Iterator[tuple[int, bytes]]:
    """Yields the parts of a piece for their groups, and last the traffic of drawing them, for `NO_GROUP`."""
    return _with_traffic(stage, lambda: stage.draw(piece))


def regroup_parts(
    stage: RegroupedStage, group: int, parts: Iterable[bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yields the parts of a group for their new groups, and last the traffic of regrouping them, for `NO_GROUP`."""
    # The traffic of drawing is JSON, not a packed part; it only passes through.
    if group == NO_GROUP:
        return ((group, part) for part in parts)
    return _with_traffic(stage, lambda: stage.regroup(group, parts))


def put_parts_together(stage: GroupedStage, group: int, parts: Iterable[bytes]) -> Counted:
    """Returns the statistic of a group or, for `NO_GROUP`, the traffic of the steps before."""
    if group == NO_GROUP:
        amounts = (Tally(json.loads(part)) for part in parts)
        return Counted(None, functools.reduce(Tally.__add__, amounts, Tally()))
    with clock.noting_failure(stage.clock), traffic.collected() as own:
        statistic = stage.put_together(group, parts)
    return Counted(statistic, Tally(own))


def _with_traffic(
    stage: Stage, draw: Callable[[], Iterator[tuple[int, bytes]]]
) -> Iterator[tuple[int, bytes]]:
    # The block stays open while the caller has a part. That is safe because a shuffle follows, which collects nothing.
    with clock.noting_failure(stage.clock), traffic.collected() as amounts:
        for group, part in draw():
            traffic.count("bytes_shuffled", len(part))
            yield group, part
    yield NO_GROUP, json.dumps(amounts).encode()


def add(total: Any, statistic: Any) -> Any:
    """Adds two statistics (see `beam_quad.additive`); None is the sum of no pieces."""
    if total is None or statistic is None:
        return statistic if total is None else total
    return total + statistic


def finish(stage: Stage, total: Counted | None) -> None:
    """Writes the artifact of a stage, unless it exists already.

    Args:
      stage: The stage.
      total: The sum over its elements; None if there were none.
    """
    total = total or Counted(None)
    with clock.noting_failure(stage.clock):
        # Nothing was listed, so `total` is no sum. The recorded end stays that of the run that finished the stage.
        if files.exists(stage.artifact):
            return
        with traffic.collected() as own:
            stage.finish(total.statistic)
        counted = (total.traffic + Tally(own)).counts
        clock.write(stage.clock, "ended", traffic=counted, **stage.progress(total.statistic))


def run_in_process(stages: Sequence[Stage]) -> None:
    """Runs a chain of stages in this thread, piece by piece, and writes the same files as a Beam runner.

    Raises:
      DeviceError: If the device of a model is missing. There is no fallback to another device.
    """
    for stage in stages:
        work = list(list_work(stage))
        if isinstance(stage, ModelStage):
            require_device(stage.device)
        total = PairwiseSum[Counted]()
        for statistic in _statistics(stage, work):
            total.add(statistic)
        finish(stage, total.total())


def _statistics(stage: Stage, work: Sequence[Any]) -> Iterator[Counted]:
    if not isinstance(stage, GroupedStage):
        yield from (do_element(stage, element) for element in work)
        return
    groups = _by_group(part for piece in work for part in draw_parts(stage, piece))
    if isinstance(stage, RegroupedStage):
        groups = _by_group(
            part for group, parts in groups.items() for part in regroup_parts(stage, group, parts)
        )
    yield from (put_parts_together(stage, group, parts) for group, parts in groups.items())


def _by_group(drawn: Iterable[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    groups: dict[int, list[bytes]] = {}
    for group, part in drawn:
        groups.setdefault(group, []).append(part)
    return groups
