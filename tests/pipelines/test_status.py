"""How a run stands, asked of its output: complete, killed, running, or none."""

import dataclasses
import html
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest

from beam_quad.artifacts import files
from beam_quad.artifacts.lock import OutputLock
from beam_quad.artifacts.owners import Owner
from beam_quad.stages.write.selection import WriteSelection
from pipelines import progress, quad, status
from tests.pipelines.world import manifest_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")

PAGES = ("README.md", "croissant.json", "report.html")


@pytest.fixture
def stopped(finished, tmp_path) -> pathlib.Path:
    """A run that was killed in its third round: all that it had left was moved here since."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    for name in ("selected", "rejected"):
        shutil.rmtree(output / name)
    for path in (
        *(output / name for name in ("COMPLETE", "manifest.json", *PAGES)),
        *output.glob("_run/rounds/*/*-0[34].*"),
        *output.glob("_run/rounds/*/decision-02*"),
        *output.glob("_run/accepted/*/*"),
    ):
        path.unlink()
    return output


def ask(capsys, output, *flags) -> tuple[int, dict]:
    """Asks for JSON; returns the exit code and what was said last."""
    capsys.readouterr()
    code = status.main([str(output), "--json", *flags])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_finished_run_is_complete_with_the_counts_of_its_manifest(finished, capsys):
    code, found = ask(capsys, finished)
    assert (code, found["state"], found["stage"], found["stages"]) == (0, "complete", None, 25)
    manifest = manifest_of(finished)
    assert found["documents"]["read"] == manifest["counts"]["read"]
    assert found["tokens"] == manifest["tokens"]["read"]
    assert found["scored"] == manifest["counts"]["scored"]
    assert found["accepted"] == manifest["tokens"]["selected"]
    assert found["budget"] == manifest["budget"]
    assert found["bytes"]["input"] == manifest["input"]["bytes"]
    written = sum(path.stat().st_size for path in finished.rglob("*.*") if path.is_file())
    written -= sum((finished / name).stat().st_size for name in PAGES)
    # Not counted: what the launcher writes, and the few embeddings that are set aside for centers.
    for name in ("leaks", "points"):
        written -= sum(path.stat().st_size for path in (finished / "_run" / name).rglob("*.*"))
    assert 0.95 * written < found["bytes"]["stored"] <= written
    assert 0 < found["seconds"] < 600
    assert (found["seconds_to_go"], found["held_by"], found["failed"]) == (0, None, None)


def test_status_and_page_say_what_the_manifest_was_judged_to_be(finished, capsys):
    manifest, page = manifest_of(finished), (finished / "report.html").read_text()
    _, found = ask(capsys, finished)
    assert (found["verdict"], found["notices"]) == (manifest["verdict"], manifest["notices"])
    assert manifest["verdict"] in html.unescape(page)
    for notice in manifest["notices"]:
        assert notice["message"][1:] in html.unescape(page)
    # What the launcher planned is beside what was taken.
    assert ">Time, planned</th>" in page


def test_a_finished_selection_is_complete_when_its_artifacts_are_deleted(
    finished, tmp_path, capsys
):
    _, before = ask(capsys, finished)
    shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "_run")
    code, found = ask(capsys, tmp_path / "out")
    assert (code, found["state"], found["seconds"]) == (0, "complete", None)
    for name in ("tokens", "scored", "accepted", "budget"):
        assert found[name] == before[name]


def test_a_killed_run_has_stopped_where_it_was(stopped, capsys):
    dead = dataclasses.replace(Owner.here(), process_start="another boot:1")
    files.write(f"{stopped}/_run/lock", dead.dump())
    code, found = ask(capsys, stopped)
    assert (code, found["state"], found["held_by"]) == (4, "stopped", None)
    assert (found["stage"]["number"], found["stage"]["name"]) == (18, "Round2")
    assert 0 < found["accepted"] < found["budget"]["amount"]
    assert status.main([str(stopped)]) == 4
    assert capsys.readouterr().out.startswith("stopped   stage 18/25 Round2")


def test_finished_pieces_are_counted_of_all(stopped, capsys):
    embeddings = sorted(stopped.glob("_run/embeddings/*/*"))
    for path in (embeddings[0], *stopped.glob("_run/corpus/*/totals.json")):
        path.unlink()
    _, found = ask(capsys, stopped)
    pieces = len(embeddings)
    assert found["stage"] == {
        "number": 1,
        "name": "EmbedExamples",
        "pieces": pieces,
        "pieces_done": pieces - 1,
        "seconds_to_go": None,
    }


def test_a_run_that_is_locked_is_running_and_is_watched_until_it_ends(stopped, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_POLL_S", 0.05)
    with OutputLock(str(stopped)) as lock:
        code, found = ask(capsys, stopped)
        assert (code, found["state"]) == (3, "running")
        assert f"process {Owner.here().pid} " in found["held_by"]
        threading.Timer(0.5, lock.release).start()
        assert status.main([str(stopped), "--watch"]) == 4
    said = capsys.readouterr().out.splitlines()
    first, last = said.index(next(x for x in said if x.startswith("running "))), said[-7:]
    assert first == 0
    assert any(line.startswith("stage 18/25 Round2") for line in said[1:-1])
    assert any(line.startswith("stopped ") for line in last)


def test_a_run_is_watched_until_all_is_done_though_its_job_may_never_be_heard_of(
    stopped, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "_POLL_S", 0.05)
    late = dataclasses.replace(Owner.here(), process_start="", job="SparkRunner/q")
    files.write(f"{stopped}/_run/lock", late.dump())
    artifacts = [stage["artifact"] for stage in _stages(stopped)]
    timer = threading.Timer(0.5, lambda: [files.write(f"{stopped}/{a}", b"") for a in artifacts])
    timer.start()
    code, found = ask(capsys, stopped, "--watch")
    assert (code, found["state"], found["stage"]) == (0, "complete", None)
    assert "job SparkRunner/q" in found["held_by"]


def _stages(output: pathlib.Path) -> list[dict]:
    return json.loads((output / "_run" / "stages.json").read_text())["stages"]


def test_what_failed_last_is_told_until_the_run_is_complete(world, stopped, capsys, monkeypatch):
    arguments = world.arguments(stopped)
    with monkeypatch.context() as patched:
        patched.setattr(WriteSelection, "finish", _fail)
        with pytest.raises(Exception, match="no room"):
            quad.main(arguments)
    assert "] stage 25/25 WriteSelection" in capsys.readouterr().err
    code, found = ask(capsys, stopped)
    assert (code, found["stage"]["name"]) == (4, "WriteSelection")
    assert "no room" in found["failed"]["error"]
    # A run that is started again tells of its own failures only.
    record = stopped / "_run" / "stages.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"started": time.time()}))
    assert ask(capsys, stopped)[1]["failed"] is None
    assert quad.main(arguments) == 0
    code, found = ask(capsys, stopped)
    assert (code, found["failed"]) == (0, None)


def test_of_a_folder_of_dated_outputs_the_newest_is_told(finished, tmp_path, capsys):
    for name in ("2026-01", "2026-02", "latest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "COMPLETE").touch()
    shutil.copytree(finished / "_run", tmp_path / "2026-01" / "_run")
    shutil.copytree(finished, tmp_path / "2026-02", dirs_exist_ok=True)
    assert status.main([str(tmp_path)]) == 0
    assert f"the newest in {tmp_path}: {tmp_path}/2026-02" in capsys.readouterr().err


def _fail(*_: object) -> None:
    raise ValueError("no room")


@pytest.mark.parametrize("output", ["empty", "missing"])
def test_a_folder_without_a_run_is_refused_in_a_line(tmp_path, capsys, output):
    (tmp_path / "empty").mkdir()
    assert status.main([str(tmp_path / output)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / output} holds no run of beam-quad; pass the --output of one\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_who_asks_waits_for_no_model_library(finished):
    code = (
        "import sys\nfrom pipelines import status\n"
        "code = status.main(sys.argv[1:])\nprint(code, {'torch', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(finished)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n0 set()\n")
