"""The shape of every stage, on a task that only counts."""

import dataclasses
import json
import pathlib
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing import util as testing

from beam_quad.additive import Tally
from beam_quad.transforms.stage import ModelTask, Stage, Task, Token


@dataclasses.dataclass
class CountLetters(Task):
    """Counts the letters of words, one file a word, and logs what it did."""

    folder: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return "CountLetters"

    @property
    def artifact(self) -> str:
        return f"{self.folder}/total.json"

    def pieces(self) -> tuple[str, ...]:
        return self.words

    def prefixes(self) -> tuple[str, ...]:
        return (f"{self.folder}/words",)

    def paths(self, piece: str) -> tuple[str, ...]:
        return (f"{self.folder}/words/{piece}.json",)

    def do(self, piece: str, model: Any) -> Tally:
        path = pathlib.Path(self.paths(piece)[0])
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps({"letters": len(piece)}))
        with open(f"{self.folder}/log", "a") as log:
            log.write(piece + "\n")
        return Tally({"letters": len(piece)})

    def read(self, piece: str) -> Tally:
        return Tally(json.loads(pathlib.Path(self.paths(piece)[0]).read_text()))

    def finish(self, total: Tally | None) -> None:
        counts = total.counts if total else {}
        pathlib.Path(self.artifact).write_text(json.dumps(counts))


def _run(task: Task) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        start = pipeline | beam.Create([Token("Plan", "nowhere")], reshuffle=False)
        _ = start | "First" >> Stage(task)


def _total(folder: pathlib.Path) -> dict[str, int]:
    return json.loads((folder / "total.json").read_text())


def test_a_stage_does_each_piece_once_and_reads_what_is_finished(tmp_path):
    words = ("alpha", "be", "gamma")
    _run(CountLetters(str(tmp_path), words))
    assert _total(tmp_path) == {"letters": 12}
    (tmp_path / "total.json").unlink()
    (tmp_path / "words" / "be.json").unlink()
    _run(CountLetters(str(tmp_path), words))
    assert _total(tmp_path) == {"letters": 12}
    assert sorted((tmp_path / "log").read_text().split()) == ["alpha", "be", "be", "gamma"]


def test_a_finished_stage_lists_nothing(tmp_path):
    (tmp_path / "total.json").write_text("{}")
    _run(CountLetters(str(tmp_path), ("alpha",)))
    assert not (tmp_path / "log").exists()


def test_a_stage_without_work_still_writes_its_artifact(tmp_path):
    _run(CountLetters(str(tmp_path), ()))
    assert _total(tmp_path) == {}


def test_alone_a_task_is_a_transform_from_pieces_to_statistics(tmp_path):
    with beam.Pipeline("FnApiRunner") as pipeline:
        counts = pipeline | beam.Create(["a", "bcd"]) | CountLetters(str(tmp_path), ())
        testing.assert_that(
            counts | beam.Map(lambda tally: tally["letters"]),
            testing.equal_to([1, 3]),
        )


@dataclasses.dataclass
class NeedsDevice(ModelTask, CountLetters):
    """The same, on a device that is not there."""

    @property
    def model_key(self) -> str:
        return "model"

    @property
    def device(self) -> str:
        return "cuda:99"

    def load(self) -> None:
        raise AssertionError("a missing device is found before the model is loaded")


def test_a_device_that_is_not_there_fails_the_job(tmp_path):
    with pytest.raises(Exception, match="cuda:99"):
        _run(NeedsDevice(str(tmp_path), ("alpha",)))
