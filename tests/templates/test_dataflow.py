"""What reaches Dataflow: the template's parameters, the launch request, and the graph of the largest run, without a cloud."""

import dataclasses
import datetime
import importlib
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from google.cloud import dataflow_v1beta3 as dataflow
from packaging.requirements import Requirement

from beam_quad.artifacts.lock import OutputLock
from beam_quad.errors import LockedError, UsageError
from pipelines import chain as chains
from pipelines import (
    jobs,
    launch,
    prove,
    prove_options,
    quad,
)
from pipelines import options as flags
from pipelines.distillation_options import DistillationOptions
from pipelines.flags import parser
from pipelines.inputs import look
from pipelines.options import QuadOptions
from pipelines.prove_options import ProveOptions
from templates.dataflow.metadata import template_metadata
from tests.pipelines.world import World, output_bytes
from tests.templates.launchable import assert_launchable

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "templates" / "dataflow"
ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"
DATAFLOW = (
    "--runner=DataflowRunner", "--dry_run=True", "--project=project", "--region=us-central1",
    "--job_name=quad", "--temp_location=gs://bucket/temporary", "--sdk_container_image=registry/quad:1",
)  # fmt: skip
REQUIRED = ["--input=gs://b/c", "--output=gs://b/o", "--budget_tokens=1", "--policy=random"]


@pytest.fixture(scope="module")
def metadata() -> Any:
    return _metadata("quad")


@pytest.mark.parametrize(
    ("pipeline", "own"),
    [
        ("quad", QuadOptions),
        ("influence_distillation", DistillationOptions),
        ("prove", ProveOptions),
    ],
)
def test_a_template_names_the_flags_of_its_pipeline_and_nothing_else(pipeline, own):
    assert json.loads((FOLDER / f"{pipeline}.json").read_text()) == template_metadata(pipeline)
    metadata = _metadata(pipeline)
    actions = {a.dest: a for a in parser(own)._actions if a.dest != "help"}
    assert [p.name for p in metadata.parameters] == list(actions)
    for parameter in metadata.parameters:
        action = actions[parameter.name]
        assert parameter.is_optional is not action.required
        assert [o.value for o in parameter.enum_options] == [
            str(choice) for choice in action.choices or []
        ]
        assert parameter.label
        assert parameter.help_text


def test_the_defaults_of_the_template_are_those_of_the_pipeline(metadata):
    defaults = {p.name: p.default_value for p in metadata.parameters if p.default_value}
    launched = [*REQUIRED, *(f"--{k}={v}" for k, v in defaults.items() if k != "policy")]
    # Whatever has no default in the template has none in the pipeline.
    bare = parser(QuadOptions).parse_args(["--input=i", "--output=o", "--budget_tokens=1"])
    assert {k for k, v in vars(bare).items() if v not in (None, [])} == {
        *defaults, "input", "output", "budget_tokens"
    }  # fmt: skip
    with_all = [*launched, "--tokens_column=n"]
    assert flags.parse(with_all)[0] == flags.parse([*REQUIRED, "--tokens_column=n"])[0]


def test_a_pattern_takes_what_the_pipeline_takes(metadata):
    patterns = {p.name: p.regexes[0] for p in metadata.parameters if p.regexes}
    for parameter in metadata.parameters:
        if parameter.default_value and parameter.regexes:
            assert re.fullmatch(parameter.regexes[0], parameter.default_value), parameter.name
    good = {
        "input": "gs://b/a b/{1,2{3,4}}/*[,].parquet,s3://c/**", "query_group": "code=gs://b/c,gs://b/d,law=gs://b/l",
        "query_weight": "code=2,law=0.5", "accelerator": ACCELERATOR, "layers": "last:4", "tau": "-1e-3",
        "normalize": "true", "device": "cuda:1", "output": "gs://b/{date}", "budget_tokens": "1.5T",
    }  # fmt: skip
    bad = {
        "input": "corpus/*.parquet", "query_group": "gs://b/c", "query_weight": "code", "accelerator": "l4",
        "layers": "last", "tau": "high", "normalize": "1", "device": "gpu", "budget_tokens": "1e-9",
    }  # fmt: skip
    assert all(re.fullmatch(patterns[name], value) for name, value in good.items())
    assert not any(re.fullmatch(patterns[name], value) for name, value in bad.items())


def test_a_pattern_of_a_proof_takes_what_the_pipeline_takes():
    patterns = {p.name: p.regexes[0] for p in _metadata("prove").parameters if p.regexes}
    good = {
        "output": "gs://b/{date}", "against": "gs://b/a,gs://b/c", "policies": "random,influence_top_k",
        "heldout": "gs://b/{1,2}.jsonl,s3://c/*", "heldout_group": "law=gs://b/l,gs://b/m,code=gs://b/c",
        "learning_rate": "1e-3", "proof_tokens": "2M", "seeds": "5", "accelerator": ACCELERATOR,
    }  # fmt: skip
    bad = {
        "output": "selection", "against": "other", "policies": "random dsir", "heldout": "texts.jsonl",
        "heldout_group": "gs://b/l", "learning_rate": "low", "proof_tokens": "1e-9", "seeds": "three",
    }  # fmt: skip
    assert all(re.fullmatch(patterns[name], value) for name, value in good.items())
    assert not any(re.fullmatch(patterns[name], value) for name, value in bad.items())


def test_parameters_of_a_proof_s_template_reach_the_pipeline(world, tmp_path, monkeypatch):
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    others = [tmp_path / name for name in ("first", "second")]
    world.run(tmp_path / today, policy="random", prove=True)
    for other in others:
        shutil.copytree(tmp_path / today, other)
    defaults = {p.name: p.default_value for p in _metadata("prove").parameters if p.default_value}
    given = {
        "output": f"{tmp_path}/{{date}}",
        "against": f"{others[0]},{others[1]}",
        "take_over": "true",
    }
    options, _ = prove_options.parse([f"--{k}={v}" for k, v in (defaults | given).items()])
    bare, _ = prove_options.parse([f"--output={tmp_path / today}", "--take_over"])
    assert list(options.against) == ["first", "second"]
    assert dataclasses.replace(options, against={}) == bare


def test_a_dry_run_of_a_proof_builds_the_job_and_leaves_the_selection_as_it_is(
    world, tmp_path, capsys
):
    output = tmp_path / "out"
    world.run(output, policy="random", prove=True)
    before = output_bytes(output)
    arguments = [f"--output={output}", "--policies=random", "--seeds=1"]
    assert prove.main([*arguments, *DATAFLOW]) == 0
    assert "nothing was started" in capsys.readouterr().out
    assert output_bytes(output) == before
    assert not (output / "_run" / "lock").exists()


def test_the_launcher_runs_each_pipeline_that_has_a_template_and_no_other():
    names = [path.stem for path in FOLDER.glob("*.json") if path.stem != "launch"]
    found = runpy.run_path(str(FOLDER / "main.py"))["PIPELINES"]
    assert sorted(found) == sorted(names)
    assert all(callable(importlib.import_module(f"pipelines.{name}").main) for name in found)
    environment = os.environ | {"BEAM_QUAD_PIPELINE": "demo"}
    ended = subprocess.run(
        [sys.executable, FOLDER / "main.py"], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "must be one of quad, influence_distillation, prove" in ended.stderr


def test_parameters_of_a_template_reach_the_pipeline():
    options, rest = flags.parse(
        [
            *REQUIRED,
            "--policy=quad",
            "--proxy_model=m",
            "--normalize=true",
            "--take_over=false",
            "--query_group=code=gs://b/c,gs://b/d,law=gs://b/l",
            "--query_weight=code=2,law=0.5",
            # What the launcher adds.
            "--runner=DataflowRunner",
            "--project=p",
            "--region=r",
            "--job_name=j",
            "--template_location=gs://b/job_object",
            "--staging_location=gs://b/s",
            "--labels={}",
            "--max_num_workers=9",
            "--machine_type=m",
            "--disk_size_gb=100",
            "--sdk_container_image=i",
            "--experiments=no_use_multiple_sdk_containers",
            "--service_account_email=a",
        ]
    )
    assert options.normalize
    assert not options.take_over
    assert options.query == {"code": ("gs://b/c,gs://b/d",), "law": ("gs://b/l",)}
    assert options.query_weights == {"code": 2.0, "law": 0.5}
    assert len(rest) == 13


def test_a_scheduled_request_has_an_output_of_its_own_every_day():
    options, _ = flags.parse([*REQUIRED, "--tokens_column=n", "--output=gs://b/{date}/out"])
    assert re.fullmatch(r"gs://b/\d{4}-\d{2}-\d{2}/out", options.output)


def test_the_launch_request_is_one_that_dataflow_takes():
    assert_launchable(json.loads((FOLDER / "launch.json").read_text()))


def _graph(world: World, output: pathlib.Path, num_rounds: int) -> Any:
    """Builds the graph of a run with everything in it, as it would be sent to Dataflow."""
    arguments = world.arguments(
        output, query=None, num_rounds=num_rounds, id_column="n", device="cuda", accelerator=ACCELERATOR,
        query_group=[f"{name}={world.query}" for name in ("a", "b", "c")],
    )  # fmt: skip
    options, beam_arguments = flags.parse([*arguments, *DATAFLOW])
    chain = chains.build(options, look(options))
    pipeline = beam.Pipeline(options=PipelineOptions(beam_arguments))
    launch.wire(pipeline, chain, options.accelerator)
    return pipeline.run().job.proto_pipeline


@pytest.fixture(scope="module")
def graph(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The largest run that is allowed."""
    return _graph(world, tmp_path_factory.mktemp("graph") / "out", num_rounds=50)


def test_the_largest_graph_is_below_half_of_what_dataflow_takes(graph):
    assert "Round50/Do" in {t.unique_name for t in graph.components.transforms.values()}
    assert len(graph.SerializeToString()) < 5 << 20


def test_steps_have_the_same_names_in_every_build(graph, world, tmp_path):
    names = {t.unique_name for t in graph.components.transforms.values()}
    small = _graph(world, tmp_path / "out", num_rounds=1)
    again = {t.unique_name for t in small.components.transforms.values()}
    assert again == {n for n in names if n.split("/")[0] not in {f"Round{i}" for i in range(2, 51)}}


def test_the_steps_with_a_model_on_a_gpu_and_no_others_ask_for_the_accelerator(graph):
    environments = graph.components.environments
    hints = {
        t.unique_name: dict(environments[t.environment_id].resource_hints)
        for t in graph.components.transforms.values()
        if t.environment_id and not t.subtransforms
    }
    urns = common_urns.resource_hints
    accelerator = {urns.ACCELERATOR.urn: ACCELERATOR.encode()}
    bundles = {urns.MAX_ACTIVE_BUNDLES_PER_WORKER.urn: b"2"}
    hinted = {name for name, hint in hints.items() if hint}
    for name in hinted:
        has_model = name.endswith("/BeamML_RunInference")
        assert hints[name] == accelerator | (bundles if has_model else {}), name
    # Hashing is a model that knows no GPU.
    models = {name for name in hints if "/Do/Infer/" in name}
    assert hinted == {
        name for name in models if not name.startswith(("EmbedExamples/", "EmbedItems/"))
    }
    stages = {name.split("/")[0] for name in hinted}
    assert {"SumCovariances", "SumQueryGradients", "Pilot", "CompareHalves", "Round50"} <= stages
    assert not stages & {"FitCenters", "AssignClusters", "GatherCandidates", "WriteSelection"}


def test_a_dry_run_builds_the_job_and_leaves_no_lock(world, tmp_path, capsys):
    output = tmp_path / "out"
    assert quad.main([*world.arguments(output, policy="random"), *DATAFLOW]) == 0
    assert "nothing was started" in capsys.readouterr().out
    assert not (output / "_run" / "lock").exists()


def test_a_template_s_launcher_leaves_the_lock_to_the_job_by_its_name(tmp_path):
    launched = [flag for flag in DATAFLOW if "dry_run" not in flag]
    lock = OutputLock(str(tmp_path))
    lock.acquire()
    lock.name_job(jobs.name(PipelineOptions(launched)))
    lock.release()
    with pytest.raises(LockedError, match="dataflow:project/us-central1/quad"):
        OutputLock(str(tmp_path)).acquire()
    again = PipelineOptions([*launched, "--template_location=gs://bucket/graph"])
    OutputLock(str(tmp_path), jobs.is_done(again)).acquire()


def test_an_accelerator_is_asked_for_in_one_way_only():
    with pytest.raises(UsageError, match="--device=cuda"):
        flags.parse([*REQUIRED, "--tokens_column=n", f"--accelerator={ACCELERATOR}"])
    options, _ = flags.parse(
        [*REQUIRED, "--tokens_column=n", "--device=cuda", f"--accelerator={ACCELERATOR}"]
    )
    with pytest.raises(UsageError, match="not both"):
        launch.run(
            options,
            [f"--dataflow_service_options=worker_accelerator={ACCELERATOR}"],
            launch.Program(chains.build),
        )


def test_the_image_holds_a_pin_for_all_that_the_package_needs():
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert f"ARG BEAM_VERSION={pins['apache-beam']}\n" in (FOLDER / "Dockerfile").read_text()
    assert not any("://" in line for line in lines)


def test_every_file_that_the_image_copies_is_there():
    for line in (FOLDER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


def _metadata(pipeline: str) -> Any:
    return dataflow.TemplateMetadata.from_json((FOLDER / f"{pipeline}.json").read_text())
