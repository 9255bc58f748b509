"""What is planned: the artifacts that pipelines share, and `--plan` next to what a run counts."""

import collections
import dataclasses
import gzip
import json
import re
import shutil

import pytest

from beam_quad.artifacts import traffic
from beam_quad.stages import run_in_process
from beam_quad.stages.base import ModelStage
from beam_quad.stages.influence.score import ScoreExamples
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.embedder import EmbedderStage
from beam_quad.stages.read.texts import SampleTexts
from pipelines import (
    chain,
    distillation_chain,
    distillation_options,
    influence_distillation,
    plan,
    progress,
    quad,
)
from pipelines import options as quad_options
from pipelines.inputs import look

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def test_a_plan_is_of_the_size_of_what_a_run_counts(world, tmp_path, capsys):
    # How many texts are close enough to a query text to be read once more is known only at the run.
    flags = {"embedder": "jvp", "curvature": "identity", "keep_query_copies": True}
    world.launch_distillation(tmp_path / "out", **flags)
    (counted,) = _lines(capsys, "this run read")
    planned = _sizes(_plan(world, tmp_path / "other", capsys, **flags)["total"])
    assert planned[0] == _sizes(counted)[0]
    for size, count in zip(planned[1:], _sizes(counted)[1:], strict=True):
        assert count / 4 < size < 4 * count


_STORES_BY_SHAPE = (
    "CountTokenNgrams", "LookAhead", "SumCovariances", "Eigendecompose", "SumEigenvalues", "AddEigenvalues", "SumQueryGradients",
    "FitQueryVectors",
)  # fmt: skip
_PRICES = (
    "core_hour", "memory_gb_hour", "shuffled_gb", "stored_gb_month", "thousand_reads", "thousand_writes",
)  # fmt: skip


@pytest.mark.parametrize(
    ("order", "also"), [(1, set()), (2, {"interactions"})], ids=["first", "second"]
)
def test_a_plan_tells_what_would_be_done_and_starts_nothing(world, tmp_path, capsys, order, also):
    lines = _plan(world, tmp_path / "out", capsys, order=order, num_landmarks=5000)
    assert "912 rows" in lines["input"]
    assert "912 landmarks (all there are, of 5,000 asked for)" in lines["policy"]
    assert "FitPropagation" in lines["stages"]
    assert "one forward pass of every example" in lines["selection:"]
    priced = {"embed", "curvature", "landmarks", "fit", "propagate", "rank,", "write"}
    assert lines.keys() >= priced | also
    assert "interactions" in also or "interactions" not in lines
    assert not (tmp_path / "out").exists()


_POLICIES = (
    {}, {"acceptance": "shortlist", "share": "kind=law >= 0.1"}, {"policy": "random"}, {"policy": "perplexity"},
    {"policy": "influence_top_k"}, {"policy": "cluster_uniform"}, {"policy": "cluster_histogram"}, {"policy": "dsir"},
    {"policy": "ngram"}, {"policy": "similarity"}, {"policy": "loss_drop"},
    {"policy": "score_column", "score_column": "n", "query": None},
    {"order": 2, "num_landmarks": 200}, {"weighted": True, "num_landmarks": 200, "curvature": "identity"},
)  # fmt: skip


@pytest.mark.parametrize("flags", _POLICIES, ids=str)
def test_every_stage_of_every_policy_has_a_price_and_every_model_has_work(world, tmp_path, flags):
    if "num_landmarks" in flags:
        options, _ = distillation_options.parse(world.distillation_arguments(tmp_path, **flags))
        build = distillation_chain.build
    else:
        options, _ = quad_options.parse(world.arguments(tmp_path, **flags))
        build = chain.build
    inputs = look(options)
    built = build(options, inputs)
    costs = plan.price(options, inputs, built)
    assert [cost.name for cost in costs.stages] == [stage.name for stage in built.stages]
    assert sum(line.hours for line in costs.lines) == pytest.approx(costs.total.hours)
    for stage, cost in zip(built.stages, costs.stages, strict=True):
        # The embedder of these tests hashes words.
        runs_model = isinstance(stage, ModelStage) and not isinstance(
            stage, (EmbedExamples, EmbedderStage)
        )
        scores_on_cpu = isinstance(stage, ScoreExamples) and cost.line == "n-grams"
        assert cost.is_model is (runs_model and not scores_on_cpu), stage.name
        size = inputs.corpus.size_bytes if reads_input(stage) else 0
        assert cost.bytes_read == size, stage.name


def reads_input(stage):
    """Whether a stage opens the files of the input, other than for a row here and there."""
    names = ("EmbedExamples", "ScoreExamples", "ReadScoreColumn", "CountNgrams", "ReadPatterns", "WriteSelection")  # fmt: skip
    return type(stage).__name__ in names


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_what_only_weights_tell_is_left_to_the_run_which_refuses_it_before_it_writes(
    world, tmp_path, capsys, mode
):
    proxy, output = tmp_path / "proxy", tmp_path / "out"
    shutil.copytree(world.proxy, proxy)
    config = json.loads((proxy / "config.json").read_text())
    (proxy / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    command = [
        *world.arguments(output, proxy_model=proxy),
        "--runner=DirectRunner",
        f"--direct_running_mode={mode}",
        "--direct_num_workers=1",
    ]
    assert quad.main([*command, "--plan"]) == 0
    assert quad.main(command) == 2
    assert "sees the tokens that it is to predict" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("num_rows", [10**4, 10**7, 10**9])
def test_pipelines_read_a_corpus_once_and_fit_on_the_same_texts(world, tmp_path, num_rows):
    flags = {"blocks_per_cluster": None, "num_clusters": None, "artifacts": tmp_path / "artifacts"}
    shared = []
    for options, build in (
        (quad_options.parse(world.arguments(tmp_path, **flags))[0], chain.build),
        (
            distillation_options.parse(world.distillation_arguments(tmp_path, **flags))[0],
            distillation_chain.build,
        ),
    ):
        inputs = look(options)
        corpus = dataclasses.replace(inputs.corpus, num_rows=num_rows)
        stages = build(options, dataclasses.replace(inputs, corpus=corpus)).stages
        shared.append(next(stage for stage in stages if isinstance(stage, SampleTexts)))
    assert shared[0].folder == shared[1].folder
    assert shared[0].corpus.reserve_rate == {10**4: 1, 10**7: 1 / 2, 10**9: 1 / 64}[num_rows]


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        ({"policy": "similarity"}, "EmbedExamples, SignTexts, FindLeaks, EmbedQuery, ScoreSimilarity, CutCompared0"),
        ({"policy": "cluster_histogram"}, "AssignClusters, EmbedQuery, CountQueryClusters, CutCompared0"),
        ({"policy": "loss_drop"}, "EmbedExamples, SignTexts, FindLeaks, TuneProxy, ScoreExamples, CutCompared0"),
        (
            {"policy": "score_column", "score_column": "n", "query": None},
            "EmbedExamples, SignTexts, ReadScoreColumn, CutCompared0",
        ),
    ],
)  # fmt: skip
def test_a_plan_of_a_rival_lists_its_stages(world, tmp_path, capsys, flags, stages):
    assert quad.main(world.arguments(tmp_path / "out", plan=True, **flags)) == 0
    (line,) = _lines(capsys, "stages")
    assert stages in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "words"),
    [("kind", "the score column 'kind' is string, not a number"), ("m", "no column 'm'")],
)
def test_a_score_that_cannot_be_one_is_refused_when_it_is_planned(
    world, tmp_path, capsys, column, words
):
    flags = {"policy": "score_column", "score_column": column, "query": None}
    assert quad.main(world.arguments(tmp_path / "out", plan=True, **flags)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert words in told
    assert "--score_column" in told


def _plan(world, output, capsys, **flags):
    """Prints a plan, and returns its lines by their first words."""
    capsys.readouterr()
    arguments = world.distillation_arguments(output, plan=True, **flags)
    assert influence_distillation.main(arguments) == 0
    return {line.split(maxsplit=1)[0]: line for line in _lines(capsys) if line}


def _lines(capsys, start=""):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(start)]


def _sizes(line):
    units = {"KiB": 2**10, "MiB": 2**20}
    return [float(n) * units[unit] for n, unit in re.findall(r"([0-9.]+) ([KM]iB)", line)][:3]


@pytest.mark.parametrize(
    ("arguments", "threads", "dtype"),
    [
        ([], 8, "float32"),
        (["--device=cuda"], 8, "bfloat16"),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=3"], 2, "float32"),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=0"], 1, "float32"),
        (["--direct_running_mode=multi_threading", "--direct_num_workers=3"], 8, "float32"),
        (["--runner=PrismRunner"], 8, "float32"),
        (["--runner=DataflowRunner"], None, "float32"),
        (["--threads=5", "--device=cuda:1", "--dtype=float32"], 5, "float32"),
    ],
)
def test_cores_are_shared_among_local_processes_and_a_gpu_computes_in_bfloat16(
    monkeypatch, arguments, threads, dtype
):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    given = ["--input=i", "--query=q", "--output=o", "--budget_tokens=1", "--proxy_model=p"]
    options = quad_options.parse([*given, *arguments])[0]
    assert (options.threads, options.dtype) == (threads, dtype)


def test_a_plan_of_a_shortlist_reads_what_a_run_reads_and_names_what_is_cheaper(
    world, tmp_path, capsys
):
    flags = {"acceptance": "shortlist"}
    world.launch(tmp_path / "out", **flags)
    (counted,) = _lines(capsys, "this run read")
    assert quad.main([*world.arguments(tmp_path / "other", **flags), "--plan"]) == 0
    lines = {line.split(maxsplit=1)[0]: line for line in _lines(capsys) if line}
    (read, *sizes), (read_by_run, *counts) = _sizes(lines["total"]), _sizes(counted)
    assert read == pytest.approx(read_by_run, rel=0.01)
    for size, count in zip(sizes, counts, strict=True):
        assert count / 4 < size < 4 * count
    assert "--acceptance=block scores some 96 (" in lines["cheaper:"]
    # What the stages counted for the report adds up to what Beam did; clocks are of no stage, and take a few bytes.
    stages = json.loads((tmp_path / "out" / "_run" / "stages.json").read_text())["stages"]
    clocks = [tmp_path / "out" / f"{stage['clock']}.ended" for stage in stages]
    totals = collections.Counter()
    for path in clocks:
        totals.update(json.loads(path.read_text())["traffic"])
    kinds = [totals[f"bytes_{kind}"] for kind in ("read", "shuffled", "stored")]
    assert kinds[:2] == pytest.approx([read_by_run, counts[0]], rel=0.005)
    assert kinds[2] == pytest.approx(counts[1], rel=0.1)
    # What these store follows from shapes alone, and the headers of so small files come on top.
    counted = {
        stage["name"]: json.loads(path.read_text())["traffic"].get("bytes_stored", 0)
        for stage, path in zip(stages, clocks, strict=True)
    }
    planned = {stage["name"]: stage["planned"]["bytes_stored"] for stage in stages}
    for name in _STORES_BY_SHAPE:
        assert planned[name] < counted[name] < 1.2 * planned[name], name


def test_what_is_made_already_is_in_no_plan_that_the_report_shows(world, tmp_path, capsys):
    flags = {"policy": "random", "query": None, "artifacts": tmp_path / "artifacts"}
    world.run(tmp_path / "first", **flags)
    world.launch(tmp_path / "second", budget_tokens=2000, **flags)
    stages = json.loads((tmp_path / "second" / "_run" / "stages.json").read_text())["stages"]
    planned = {stage["name"]: stage["planned"]["bytes_read"] for stage in stages}
    assert planned["EmbedExamples"] == 0
    (counted,) = _lines(capsys, "this run read")
    assert _sizes(counted)[0] == pytest.approx(sum(planned.values()), rel=0.01)


def test_the_report_counts_what_this_run_passed_through_a_model(world, tmp_path, monkeypatch):
    flags = {"acceptance": "block", "artifacts": tmp_path / "artifacts"}
    world.run(tmp_path / "first", **flags)
    arguments = world.arguments(tmp_path / "second", budget_tokens=4500, **flags)
    options, _ = quad_options.parse(arguments)
    inputs = look(options)
    built = chain.build(options, inputs)
    costs = plan.left(plan.price(options, inputs, built), built)
    progress.record(options.output, built.stages, inputs.corpus.num_rows, 1, None, costs)
    built.write_plans()
    counted = collections.Counter()
    monkeypatch.setattr(traffic, "_counters", [lambda kind, n: counted.update({kind: n})])
    run_in_process(built.stages)
    page = (tmp_path / "second" / "report.html").read_text()
    section = page[page.index('id="timing"') :].partition("</table>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>" * 3, section)
    found = {line: (planned, documents) for line, planned, documents in cells}
    assert found["embed"] == found["fit centers"] == ("0", "–")
    # The pilot is the first run's, and so are some of the rounds.
    assert found["pilot"][1] == "0"
    assert int(found["rounds, at most"][1]) == counted["documents_scored"] > 0


def test_a_plan_of_a_refresh_prices_what_is_new_and_names_what_only_the_run_knows(
    world, tmp_path, capsys
):
    flags = {"acceptance": "shortlist"}
    world.run(tmp_path / "first", **flags)
    base = world.arguments(tmp_path / "second", base=tmp_path / "first", plan=True, **flags)
    capsys.readouterr()
    assert quad.main(base) == 0
    told = [line.rstrip() for line in _lines(capsys) if line]
    lines = {line.split(maxsplit=1)[0]: line for line in told}
    assert "known only at the run" in lines["leaves"]
    assert "compare" in lines
    (line,) = [line for line in told if line.startswith("curvature")]
    assert line.endswith("already made")
    assert "cheaper:" not in lines


def test_a_bad_file_is_no_reason_to_have_no_plan(world, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    shutil.copytree(world.corpus, corpus)
    (corpus / "part-0.jsonl.gz").write_bytes(gzip.compress(b'{"text": "cut off"}')[:-9])
    flags = {"policy": "random", "input": corpus, "on_bad_file": "reject", "plan": True}
    assert quad.main(world.arguments(tmp_path / "out", **flags)) == 0
    assert _lines(capsys, "total")


def test_dollars_are_told_at_the_prices_of_a_file(world, tmp_path, capsys):
    prices = tmp_path / "prices.json"
    told = []
    for dollars in (1e3, 1e4):
        prices.write_text(json.dumps(dict.fromkeys(_PRICES, dollars)))
        capsys.readouterr()
        assert quad.main(world.arguments(tmp_path / "out", plan=True, prices=prices)) == 0
        (total,) = _lines(capsys, "total")
        told.append(float(total.split()[-1].replace(",", "")))
    assert told[1] == pytest.approx(10 * told[0], rel=0.01)


def test_a_file_of_prices_that_is_not_there_is_refused_in_a_line(world, tmp_path, capsys):
    arguments = world.arguments(tmp_path / "out", plan=True, prices=tmp_path / "none.json")
    assert quad.main(arguments) == 2
    told = capsys.readouterr().err
    assert f"--prices={tmp_path / 'none.json'} is not there" in told
    assert not (tmp_path / "out").exists()
