"""The shape of every stage, in a plain loop and on Beam: the same claims hold for both."""

import time
from collections.abc import Callable, Sequence

import apache_beam as beam
import pytest

from beam_quad.artifacts import clock
from beam_quad.stages.base import Stage, run_in_process
from beam_quad.transforms import RunStage, start
from tests.stages.letters import CountInitials, CountLetters, ListsFirst, NeedsDevice, total_of


def run_on_beam(stages: Sequence[Stage]) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        tokens = start(pipeline, "nowhere")
        for stage in stages:
            tokens = tokens | stage.name >> RunStage(stage)


@pytest.fixture(params=[run_in_process, run_on_beam])
def run(request: pytest.FixtureRequest) -> Callable[[Sequence[Stage]], None]:
    return request.param


def test_a_stage_does_each_piece_once_and_reads_what_is_finished(run, tmp_path):
    words = ("alpha", "be", "gamma")
    run([CountLetters(str(tmp_path), words)])
    assert total_of(tmp_path) == {"letters": 12}
    (tmp_path / "total.json").unlink()
    (tmp_path / "words" / "be.json").unlink()
    run([CountLetters(str(tmp_path), words)])
    assert total_of(tmp_path) == {"letters": 12}
    assert sorted((tmp_path / "log").read_text().split()) == ["alpha", "be", "be", "gamma"]


def test_the_largest_pieces_start_first_and_equal_ones_in_their_order(run, tmp_path):
    run([CountLetters(str(tmp_path), ("be", "alpha", "bee", "gamma", "to"))])
    assert (tmp_path / "log").read_text().split() == ["alpha", "gamma", "bee", "be", "to"]


def test_a_finished_stage_lists_nothing(run, tmp_path):
    (tmp_path / "total.json").write_text("{}")
    run([CountLetters(str(tmp_path), ("alpha",))])
    assert not (tmp_path / "log").exists()


def test_a_stage_without_work_still_writes_its_artifact(run, tmp_path):
    run([CountLetters(str(tmp_path), ())])
    assert total_of(tmp_path) == {}


def test_what_is_drawn_is_grouped_and_grouped_again(run, tmp_path):
    run([CountInitials(str(tmp_path), ("alpha", "apple", "be", "gamma", "bee", "be"))])
    assert total_of(tmp_path) == {"a5": 1, "b2": 1, "b3": 1, "g5": 1}


def test_a_grouped_stage_without_work_still_writes_its_artifact(run, tmp_path):
    run([CountInitials(str(tmp_path), ())])
    assert total_of(tmp_path) == {}


def test_a_stage_starts_after_the_one_before(run, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    run(
        [
            CountLetters(str(folders[0]), ("alpha",)),
            ListsFirst(str(folders[1]), (), str(folders[0])),
        ]
    )
    assert total_of(folders[1]) == {"letters": len("letters")}


def test_a_device_that_is_not_there_fails_the_run(run, tmp_path):
    with pytest.raises(Exception, match="cuda:99"):
        run([NeedsDevice(str(tmp_path), ("alpha",))])


def test_the_times_of_a_stage_say_how_many_pieces_it_has_and_found(run, tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "be.json").write_text('{"letters": 2}')
    stage = CountLetters(str(tmp_path), ("alpha", "be", "gamma"))
    before = time.time()
    run([stage])
    started, ended = (clock.read(stage.clock, edge) for edge in ("started", "ended"))
    assert before <= started.pop("at") <= ended.pop("at") <= time.time()
    assert (started, ended) == ({"pieces": 3, "found": 1, "files": 1}, {"traffic": {}})


@pytest.mark.parametrize("method", ["pieces", "do", "draw", "regroup", "put_together", "finish"])
def test_what_fails_in_a_stage_leaves_its_line_beside_the_artifact(
    run, tmp_path, monkeypatch, method
):
    kind = CountLetters if method == "do" else CountInitials
    monkeypatch.setattr(kind, method, fail)
    stage = kind(str(tmp_path), ("alpha", "be"))
    with pytest.raises(Exception, match="no room"):
        run([stage])
    assert clock.read(stage.clock, "failed")["error"] == "ValueError: no room left"


def fail(*_: object) -> None:
    raise ValueError("no room\nleft")
