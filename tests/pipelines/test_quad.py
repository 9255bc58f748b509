"""The whole pipeline on the local runner."""

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

from beam_quad.scoring import calibration
from pipelines import quad
from tests.pipelines.pages import hold_to_quad
from tests.pipelines.world import (
    World,
    manifest_of,
    output_bytes,
    selected,
    selected_ids,
    selected_rows,
    text_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def test_the_pipeline_selects_what_the_page_selects(world, finished):
    hold_to_quad(world, selected_rows(finished))


def test_every_row_is_accounted_for_and_the_budget_is_met_to_within_one_example(finished):
    manifest = manifest_of(finished)
    counts, tokens = manifest["counts"], manifest["tokens"]
    assert counts["read"] == 912
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    assert manifest["rejected"] == {
        "empty_text": 2, "invalid_utf8": 2, "malformed_json": 4, "not_a_string": 2, "null_text": 2
    }  # fmt: skip
    rows = selected(finished)
    assert len(rows) == counts["selected"] == len({row["example_id"] for row in rows})
    assert sum(row["tokens"] for row in rows) == tokens["selected"]
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40


def test_the_selection_prefers_the_kind_of_the_query(finished):
    tables = [pq.read_table(p) for p in (finished / "selected").glob("*.parquet")]
    kinds = [kind for table in tables for kind in table.column("kind").to_pylist()]
    assert np.mean(np.array(kinds) == "biology") > 0.4  # a fifth of the corpus is


@pytest.mark.parametrize(
    "change",
    ["order", "split_size", "bundles_twice"],
)
def test_the_selected_ids_do_not_depend_on_how_it_is_run(world, finished, tmp_path, change):
    names = sorted(os.listdir(world.corpus))
    beam, flags = {
        "order": ([], {"input": [f"{world.corpus}/{name}" for name in reversed(names)]}),
        "split_size": ([], {"input": _with_large_row_groups(world, tmp_path), "split_mb": 1}),
        "bundles_twice": (["--direct_runner_bundle_repeat=1"], {}),
    }[change]  # fmt: skip
    if change == "split_size":
        whole = tmp_path / "whole"
        world.run(whole, **(flags | {"split_mb": 256}))
        expected = selected_ids(whole)
    else:
        expected = selected_ids(finished)
    world.launch(tmp_path / "out", *beam, **flags)
    assert selected_ids(tmp_path / "out") == expected


def test_two_runs_of_one_configuration_write_the_same_bytes(world, finished, tmp_path, capsys):
    output = tmp_path / "out"
    world.launch(output)
    assert output_bytes(output) == output_bytes(finished)
    (counted,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("this run read")]
    read, shuffled, stored = _sizes(counted)
    corpus = sum(path.stat().st_size for path in pathlib.Path(world.corpus).iterdir())
    assert read == pytest.approx(2 * corpus, rel=0.01)  # to embed and to write
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert stored == pytest.approx(written, rel=0.05)  # the launcher's few files are not counted
    assert quad.main([*world.arguments(tmp_path / "other"), "--plan"]) == 0
    (planned,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("total")]
    assert _sizes(planned)[0] == read
    for plan, count in zip(_sizes(planned)[1:], (shuffled, stored), strict=True):
        assert count / 4 < plan < 4 * count


def _sizes(line: str) -> list[float]:
    units = {"KiB": 2**10, "MiB": 2**20}
    return [float(n) * units[unit] for n, unit in re.findall(r"([0-9.]+) ([KM]iB)", line)]


def test_another_budget_on_the_same_artifacts_scores_only_what_is_new(world, tmp_path):
    artifacts = tmp_path / "artifacts"
    world.run(tmp_path / "a", artifacts=artifacts)
    before = _files(artifacts)
    manifest = world.run(tmp_path / "b", artifacts=artifacts, budget_tokens=6000)
    made = {path.split("/")[0] for path in _files(artifacts) - before}
    assert made == {"accepted", "passed_over", "rounds", "scores"}
    rescored = [
        table.num_rows
        for path in _files(artifacts) - before
        if path.startswith("scores/")
        for table in [pq.read_table(artifacts / path)]
    ]
    assert sum(rescored) < manifest["counts"]["scored"]
    fresh = world.run(tmp_path / "c", budget_tokens=6000)
    assert manifest == fresh


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["embeddings", "covariances", "rounds", "selected"])
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
    world.run(output)
    assert output_bytes(output) == output_bytes(finished)
    assert all(path.stat().st_mtime_ns == made for path, made in embedded.items())


def test_two_forwards_select_like_the_exact_scores(world, finished, tmp_path):
    artifacts = tmp_path / "artifacts"
    world.run(tmp_path / "exact", scoring="exact", artifacts=artifacts)
    manifest = world.run(tmp_path / "out", scoring="two_forwards", artifacts=artifacts)
    scoring = manifest["scoring"]
    assert scoring["way"] == "two forwards"
    assert scoring["rank_correlation"] > 0.999
    exact, found = (
        {row["example_id"]: row["influence"] for row in selected(output)}
        for output in (finished, tmp_path / "out")
    )
    common = [i for i in exact.keys() & found.keys() if exact[i] is not None]
    assert len(exact.keys() & found.keys()) > 0.9 * len(exact)
    np.testing.assert_allclose([found[i] for i in common], [exact[i] for i in common], rtol=0.02)
    # Those of the rounds are its own, though the artifacts hold exact ones.
    assert any(found[i] != exact[i] for i in common)


def test_where_two_forwards_disagree_the_exact_way_is_taken(
    world, finished, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(calibration, "_LEAST_CORRELATION", 1.1)
    manifest = world.run(tmp_path / "out", scoring="two_forwards")
    assert manifest["scoring"]["way"] == "exact"
    assert "do not reproduce" in caplog.text
    assert selected_ids(tmp_path / "out") == selected_ids(finished)


def test_the_halves_of_the_query_set_agree(finished):
    # Four of the five kinds have nothing to do with the query, and the order among them is chance.
    assert 0.1 < manifest_of(finished)["scoring"]["halves"]["query"] < 1


@pytest.mark.parametrize(
    "policy", ["random", "perplexity", "influence_top_k", "cluster_uniform", "dsir"]
)
def test_a_baseline_meets_the_budget(world, tmp_path, policy):
    manifest = world.run(tmp_path / "out", policy=policy)
    tokens = manifest["tokens"]
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40
    tables = [pq.read_table(p) for p in (tmp_path / "out" / "selected").glob("*.parquet")]
    kinds = np.array([kind for table in tables for kind in table.column("kind").to_pylist()])
    share = np.mean(kinds == "biology")
    if policy in ("influence_top_k", "dsir"):
        assert share > 0.5
    if policy in ("random", "cluster_uniform"):
        assert share < 0.4
    clusters = {row["cluster"] for row in selected(tmp_path / "out")}
    assert clusters == set(range(12)) if policy == "cluster_uniform" else clusters == {None}


def test_instance_acceptance_takes_only_what_it_scored(world, tmp_path):
    manifest = world.run(tmp_path / "out", acceptance="instance")
    rows = selected(tmp_path / "out")
    assert all(row["influence"] is not None for row in rows)
    assert manifest["tokens"]["selected"] == sum(row["tokens"] for row in rows)
    assert manifest["influence"]["selected_mean"] > manifest["influence"]["random_mean"]


@pytest.fixture(scope="module")
def by_groups(world, tmp_path_factory):
    """A finished run for two query groups, one of twice the other's weight."""
    output = tmp_path_factory.mktemp("groups") / "out"
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("biology", "law")]
    world.run(output, query=None, query_group=groups, query_weight=["law=2"])
    return output


def test_several_query_groups_are_weighed_by_their_spread(by_groups):
    kinds = [row["kind"] for row in selected_rows(by_groups)]
    assert np.mean(np.isin(kinds, ["biology", "law"])) > 0.6
    assert "law" in (by_groups / "report.html").read_text()


def test_the_pipeline_selects_for_several_query_groups_what_the_page_selects(world, by_groups):
    queries = {kind: world.query_of(kind) for kind in ("biology", "law")}
    hold_to_quad(world, selected_rows(by_groups), queries, query_weights={"law": 2})


def test_a_repeated_or_missing_id_is_rejected_and_the_first_stays(world, tmp_path):
    rng = np.random.default_rng(2)
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(2):
        rows = [{"text": text_of(rng, "law"), "id": f"id-{i}"} for i in range(120)]
        rows[7]["id"] = "id-3"
        rows[9]["id"] = None
        (folder / f"{shard}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = world.run(tmp_path / "out", input=folder, id_column="id", policy="random")
    assert manifest["rejected"] == {"duplicate_id": 120, "null_id": 2}
    table = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    duplicates = {(r["shard"], r["row"]) for r in table if r["reason"] == "duplicate_id"}
    assert ("0.jsonl", 7) in duplicates
    assert ("0.jsonl", 3) not in duplicates
    assert all(row["example_id"].startswith("id-") for row in selected(tmp_path / "out"))


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


def test_bad_files_when_planning_and_names_that_are_not_utf8_do_not_stop_a_run(world, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    rng = np.random.default_rng(3)
    lines = [json.dumps({"text": text_of(rng, "law")}) for _ in range(300)]
    (folder / os.fsdecode(b"\xe9.jsonl")).write_text("\n".join(lines))
    (folder / "page.jsonl").write_text("<html>\n")
    (folder / "cut.parquet").write_bytes(b"PAR1")
    (folder / "README.md").write_text("# Texts\n")
    output = tmp_path / "out"
    manifest = world.run(output, input=folder, policy="random", on_bad_file="reject")
    counts = manifest["counts"]
    assert (counts["read"], counts["bad_files"], counts["rejected"]) == (300, 2, 0)
    assert manifest["input"]["root"] == str(folder)
    refused = pq.read_table(output / "rejected").to_pylist()
    assert {row["shard"]: (row["row"], row["reason"]) for row in refused} == {
        "page.jsonl": (None, "bad_file"),
        "cut.parquet": (None, "bad_file"),
    }
    assert all(name.startswith("\\xe9.jsonl#") for name in selected_ids(output))


@pytest.mark.parametrize("flag", ["output", "artifacts"])
@pytest.mark.parametrize("by", ["input", "query"])
def test_what_an_input_would_find_is_not_written(world, tmp_path, capsys, flag, by):
    folder = tmp_path / "in"
    shutil.copytree(world.query, folder)
    flags = {"output": tmp_path / "out", by: f"{folder}/**"} | {flag: folder / "new"}
    assert quad.main(world.arguments(**flags)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: --{flag}={folder}/new is where --{by}={folder}/** would")
    assert not (folder / "new").exists()


def test_jsonl_output_carries_the_rows_as_they_were(world, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(4)
    lines = [f'{{"text": "{text_of(rng, "law")}",  "x": 1.50, "i": {i}}}' for i in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    world.run(tmp_path / "out", input=folder, policy="random", output_format="jsonl")
    (part,) = (tmp_path / "out" / "selected").glob("*.jsonl")
    for line in part.read_text().splitlines():
        number = json.loads(line)["i"]
        assert line.startswith(lines[number][:-1])
        assert json.loads(line)["beam_quad"]["example_id"] == f"a.jsonl#{number}"


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
        ({"scoring": "two_forwards", "normalize": True}, "--scoring"),
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


def _files(folder: pathlib.Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".started", ".ended")
    }


def _with_large_row_groups(world: World, tmp_path: pathlib.Path) -> pathlib.Path:
    """Copies a Parquet shard of the world with a column of noise, so that 1 MB splits cut it into several."""
    folder = tmp_path / "in"
    folder.mkdir()
    table = pq.read_table(f"{world.corpus}/part-0.parquet")
    rng = np.random.default_rng(5)
    noise = [rng.bytes(20_000) for _ in range(table.num_rows)]
    pq.write_table(table.append_column("noise", [noise]), folder / "a.parquet", row_group_size=40)
    return folder
