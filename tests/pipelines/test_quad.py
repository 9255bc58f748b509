"""The command of Quad: how it is launched, refused, killed and told again."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import quad
from tests.pipelines.world import (
    World,
    output_bytes,
    selected_ids,
    text_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def _sizes(line: str) -> list[float]:
    units = {"KiB": 2**10, "MiB": 2**20}
    return [float(n) * units[unit] for n, unit in re.findall(r"([0-9.]+) ([KM]iB)", line)]


def _with_large_row_groups(world: World, tmp_path: pathlib.Path) -> pathlib.Path:
    """Copies a Parquet shard of the world with a column of noise, so that 1 MB splits cut it into several."""
    folder = tmp_path / "in"
    folder.mkdir()
    table = pq.read_table(f"{world.corpus}/part-0.parquet")
    rng = np.random.default_rng(5)
    noise = [rng.bytes(20_000) for _ in range(table.num_rows)]
    pq.write_table(table.append_column("noise", [noise]), folder / "a.parquet", row_group_size=40)
    return folder


def test_the_selected_ids_depend_neither_on_the_order_of_files_nor_on_bundles(
    world, finished, tmp_path
):
    shards = [f"{world.corpus}/{name}" for name in sorted(os.listdir(world.corpus), reverse=True)]
    # Every bundle is done twice.
    world.launch(tmp_path / "out", "--direct_runner_bundle_repeat=1", input=shards)
    assert selected_ids(tmp_path / "out") == selected_ids(finished)


def test_the_selected_ids_do_not_depend_on_the_size_of_splits(world, tmp_path):
    flags = {"input": _with_large_row_groups(world, tmp_path)}
    for megabytes in (1, 256):
        world.run(tmp_path / str(megabytes), split_mb=megabytes, **flags)
    assert selected_ids(tmp_path / "1") == selected_ids(tmp_path / "256")


def test_two_runs_of_one_configuration_write_the_same_bytes(world, finished, tmp_path, capsys):
    output = tmp_path / "out"
    world.launch(output)
    assert output_bytes(output) == output_bytes(finished)
    (counted,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("this run read")]
    read, shuffled, stored = _sizes(counted)
    corpus = sum(path.stat().st_size for path in pathlib.Path(world.corpus).iterdir())
    assert read == pytest.approx(2 * corpus, rel=0.01)  # to embed and to write
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    # Not counted: the launcher's few files, of which its plan is the largest beside so small a corpus.
    written -= (output / "_run" / "stages.json").stat().st_size
    assert stored == pytest.approx(written, rel=0.05)
    assert quad.main([*world.arguments(tmp_path / "other"), "--plan"]) == 0
    (planned,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("total")]
    assert _sizes(planned)[0] == read
    for plan, count in zip(_sizes(planned)[1:], (shuffled, stored), strict=True):
        assert count / 4 < plan < 4 * count


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["rounds", "selected"])
def test_a_killed_run_goes_on_where_it_stopped(world, finished, tmp_path, stage):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "pipelines.quad", *world.arguments(output)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = output / stage if stage == "selected" else output / "_run" / stage
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if any(path.is_file() for path in folder.rglob("*")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()
    assert not (output / "COMPLETE").exists()
    embedded = {p: p.stat().st_mtime_ns for p in output.glob("_run/embeddings/*/*.parquet")}
    world.launch(output)
    assert output_bytes(output) == output_bytes(finished)
    assert all(path.stat().st_mtime_ns == made for path, made in embedded.items())


def test_a_truncated_file_fails_the_run_or_is_left_out_whole(world, tmp_path, capsys):
    import gzip

    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(3)
    lines = [json.dumps({"text": text_of(rng, "law")}) for _ in range(3000)]
    packed = gzip.compress("\n".join(lines).encode())
    (folder / "bad.jsonl.gz").write_bytes(packed[: len(packed) - 400])
    (folder / "good.jsonl").write_text("\n".join(lines[:300]))
    flags = {"input": folder, "policy": "random"}
    assert quad.main(world.arguments(tmp_path / "a", **flags)) == 1
    assert "bad.jsonl.gz" in capsys.readouterr().err
    manifest = world.run(tmp_path / "b", **flags, on_bad_file="reject")
    assert manifest["counts"]["read"] == 300
    assert manifest["counts"]["bad_files"] == 1
    (row,) = pq.read_table(tmp_path / "b" / "rejected").to_pylist()
    assert (row["shard"], row["row"], row["reason"]) == ("bad.jsonl.gz", None, "bad_file")


@pytest.mark.parametrize("flag", ["output", "artifacts"])
@pytest.mark.parametrize("by", ["input", "query", "exclude"])
def test_what_an_input_would_find_is_not_written(world, tmp_path, capsys, flag, by):
    folder = tmp_path / "in"
    shutil.copytree(world.query, folder)
    flags = {"output": tmp_path / "out", by: f"{folder}/**"} | {flag: folder / "new"}
    assert quad.main(world.arguments(**flags)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: --{flag}={folder}/new is where --{by}={folder}/** would")
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"input": "/nowhere/*.parquet"}, "--input: /nowhere/*.parquet matches no file"),
        ({"query": "/nowhere/*.txt"}, "--query: /nowhere/*.txt matches no file"),
        ({"query_group": "law=/nowhere"}, "--query_group=law: /nowhere matches no file"),
        ({"query": None}, "--query"),
        ({"budget_tokens": 0}, "budget_tokens"),
        ({"proxy_model": "/nowhere/model"}, "nowhere"),
        ({"no_such_flag": 1}, "--no_such_flag: neither ours nor Beam's; see --help"),
        ({"num_cluster": 1}, "did you mean --num_clusters?"),
        ({"text_column": "body"}, "body"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"embedder": "/nowhere/encoder"}, "nowhere"),
        ({"artifacts": f"{__file__}/run"}, f"cannot be written: {__file__} is no folder"),
        ({"layers": "regex:nothing_like_it"}, "nothing_like_it"),
        ({"num_rounds": 51}, "num_rounds"),
        ({"query_weight": ["other=1"]}, "other"),
        ({"policy": "best"}, "policy"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_one_line_and_writes_nothing(
    world, tmp_path, capsys, flags, words
):
    assert quad.main(world.arguments(tmp_path / "out", **flags)) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert words in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], [], ["--input=a", "--tau=high"]])
def test_what_needs_no_pipeline_is_answered_before_beam_and_torch_are_imported(arguments):
    program = (
        "import sys\nfrom pipelines import quad\n"
        "try: quad.main(sys.argv[1:])\n"
        "finally: assert not {'apache_beam', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


def test_an_output_of_another_configuration_is_refused(world, finished, capsys):
    before = output_bytes(finished)
    assert quad.main(world.arguments(finished, budget_tokens=4000)) == 2
    assert "another configuration" in capsys.readouterr().err
    assert output_bytes(finished) == before


def test_a_complete_output_is_left_as_it_is(world, finished, capsys):
    made = (finished / "report.html").stat().st_mtime_ns
    assert quad.main(world.arguments(finished)) == 0
    assert "complete already" in capsys.readouterr().out
    assert (finished / "report.html").stat().st_mtime_ns == made


def test_a_plan_tells_what_would_be_done_and_starts_nothing(world, tmp_path, capsys):
    assert quad.main(world.arguments(tmp_path / "out", plan=True)) == 0
    text = capsys.readouterr().out
    assert "912 rows" in text
    assert "Pilot" in text
    assert not (tmp_path / "out").exists()


def test_no_stage_branches_so_that_the_job_is_a_chain(world, tmp_path):
    import apache_beam as beam

    from pipelines import chain, launch, options
    from pipelines.inputs import look

    parsed, _ = options.parse(world.arguments(tmp_path / "out"))
    pipeline = beam.Pipeline(runner="FnApiRunner")
    launch.wire(pipeline, chain.build(parsed, look(parsed)))
    graph = pipeline.to_runner_api()
    consumers: dict[str, int] = {}
    for transform in graph.components.transforms.values():
        if not transform.subtransforms:
            for pcollection in transform.inputs.values():
                consumers[pcollection] = consumers.get(pcollection, 0) + 1
    assert max(consumers.values()) == 1
