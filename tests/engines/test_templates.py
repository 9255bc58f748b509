"""What is handed to users of Flink holds together."""

import pathlib
import re
import unittest.mock

import apache_beam as beam
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import command, flags, launch, parsing, runners
from pipelines.options import QuadOptions
from templates.flink import local_cluster

_FLINK = pathlib.Path(local_cluster.__file__).parent


def test_the_manifest_has_the_settings_that_the_local_cluster_runs_with():
    settings = yaml.safe_load((_FLINK / "config.yaml").read_text())
    spec = yaml.safe_load((_FLINK / "cluster.yaml").read_text())["spec"]
    configured = spec["flinkConfiguration"]
    assert all(isinstance(value, str) for value in configured.values())
    assert {name: str(value) for name, value in settings.items()}.items() <= configured.items()
    version = local_cluster.FLINK_VERSION
    assert spec["image"].startswith(f"flink:{version}-")
    assert spec["flinkVersion"] == "v" + version.replace(".", "_")
    assert version == runners.FLINK_VERSION


def test_a_job_that_fails_on_another_flink_says_so(monkeypatch):
    def fail(*_):
        raise RuntimeError("StackMapFrame error")

    monkeypatch.setattr(beam.Pipeline, "run", fail)
    for version, is_told in ((local_cluster.FLINK_VERSION, False), ("2.2", True)):
        flags = ["--runner=FlinkRunner", f"--flink_version={version}"]
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        with pytest.raises(RuntimeError) as raised:
            launch._run(pipeline, unittest.mock.Mock(), wait=True)
        said = command._unexpected(raised.value)
        assert ("never on 2.2: pass the --flink_version of your cluster" in said) == is_told


def test_the_pool_of_the_manifest_is_where_the_launch_command_looks_for_it():
    spec = yaml.safe_load((_FLINK / "cluster.yaml").read_text())["spec"]
    pod = spec["taskManager"]["podTemplate"]["spec"]
    (pool,) = pod["containers"]
    (port,) = pool["ports"]
    assert f"--service_port={port['containerPort']}" in pool["command"]
    assert pool["readinessProbe"]["tcpSocket"]["port"] == port["name"]
    assert {mount["name"] for mount in pool["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert f"--environment_config=localhost:{port['containerPort']}" in _launch_flags()


def test_every_flag_of_the_readme_is_one():
    parsing.refuse_unknown(
        [flag for flag in _launch_flags() if "environment_config" not in flag],
        flags.parser(QuadOptions),
    )


def _launch_flags() -> list[str]:
    """Beam's flags in the README's command for a cluster."""
    readme = (_FLINK / "README.md").read_text()
    (command,) = re.findall(r"--runner=FlinkRunner.*?```", readme, re.DOTALL)
    return [word for word in command.split() if word.startswith("--")]
