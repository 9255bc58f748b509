"""Stages that only count letters, for the tests of what runs a stage."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from beam_quad.additive import Tally
from beam_quad.stages.base import ModelStage, RegroupedStage, Stage


@dataclasses.dataclass(frozen=True)
class CountLetters(Stage):
    """Counts the letters of words, one file a word, and logs what it did."""

    kind = "letters"
    artifact_name = "total.json"
    num_adders = 2

    place: str
    words: tuple[str, ...]

    @property
    def root(self) -> str:
        return self.place

    @property
    def folder(self) -> str:
        return self.place

    def pieces(self) -> tuple[str, ...]:
        return self.words

    def prefixes(self) -> tuple[str, ...]:
        return (f"{self.folder}/words",)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (f"{self.folder}/words/{piece}.json",)

    def size_of(self, piece: str) -> int:
        return len(piece)

    def do(self, piece: str, model: Any) -> Tally:
        path = pathlib.Path(self.paths(piece)[0])
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps({"letters": len(piece)}))
        with open(f"{self.folder}/log", "a") as log:
            log.write(piece + "\n")
        return Tally({"letters": len(piece)})

    def statistic(self, piece: str) -> Tally:
        return Tally(json.loads(pathlib.Path(self.paths(piece)[0]).read_text()))

    def finish(self, total: Tally | None) -> None:
        counts = total.counts if total else {}
        pathlib.Path(self.artifact).write_text(json.dumps(counts))


@dataclasses.dataclass(frozen=True)
class CountInitials(CountLetters, RegroupedStage):
    """Counts words by length and then by initial, in two shuffles."""

    def draw(self, piece: str) -> Iterator[tuple[int, bytes]]:
        yield len(piece), piece.encode()

    def regroup(self, group: int, parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        for part in sorted(parts):
            assert len(part) == group
            yield part[0], b"%d" % group

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        lengths = sorted(int(part) for part in parts)
        return Tally({f"{chr(group)}{length}": 1 for length in lengths})


@dataclasses.dataclass(frozen=True)
class ListsFirst(CountLetters):
    """Counts the letters of what an earlier stage counted, which it reads as it lists its work."""

    first: str

    def pieces(self) -> tuple[str, ...]:
        return tuple(total_of(pathlib.Path(self.first)))


@dataclasses.dataclass(frozen=True)
class NeedsDevice(CountLetters, ModelStage):
    """The same, on a device that is not there."""

    @property
    def model_key(self) -> str:
        return "model"

    @property
    def device(self) -> str:
        return "cuda:99"

    def load(self) -> None:
        raise AssertionError("a missing device is found before the model is loaded")


def total_of(folder: pathlib.Path) -> dict[str, int]:
    return json.loads((folder / "total.json").read_text())
