"""The console command, as a user's project sees it."""

import pathlib
import subprocess
import sys
import tomllib

import apache_beam as beam
import cloudpickle
import pytest

from pipelines import chain as chains
from pipelines import launch
from pipelines import options as flags
from pipelines.inputs import look
from tests.pipelines.world import World

ROOT = pathlib.Path(__file__).parents[1]


def run(folder: pathlib.Path, *arguments: str, **settings) -> subprocess.CompletedProcess:
    """Runs the command in a folder that stands first on Python's path, as with PYTHONPATH=."""
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; from beam_quad.__main__ import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=200, **settings
    )


@pytest.fixture
def project(tmp_path) -> pathlib.Path:
    """A project with a package `pipelines` of its own."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise ImportError('not ours')")
    return tmp_path


@pytest.mark.parametrize("command", ["select", "distill"])
def test_a_package_pipelines_of_the_user_hides_nothing(project, command):
    done = run(project, command, "--input=i", "--output=o", "--budget_tokens=0", "--proxy_model=p")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --budget_tokens must be at least 1")


def test_help_lists_the_commands_without_loading_a_library(project):
    code = (
        "import sys; sys.argv = ['beam-quad', '--help']; from beam_quad import __main__ as m\n"
        "try:\n    m.main()\nfinally:\n    print({'torch', 'numpy', 'apache_beam'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0
    assert all(
        f"\n  {name} " in done.stdout for name in ("select", "distill", "prove", "status", "demo")
    )
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("arguments", [[], ["selct"]])
def test_a_command_that_is_none_is_refused_with_those_that_are(tmp_path, arguments):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert "beam-quad {select,distill,prove,status,demo}" in done.stderr


def test_the_package_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"beam-quad": "beam_quad.__main__:main"}


def test_nothing_of_pipelines_is_sent_to_workers_which_may_find_another_package(
    world: World, tmp_path
):
    options, _ = flags.parse(world.arguments(tmp_path, id_column="n"))
    pipeline = beam.Pipeline()
    launch.wire(pipeline, chains.build(options, look(options)))
    sent = _Functions()
    pipeline.visit(sent)
    assert len(sent.pickled) > 20
    assert not [name for name, data in sent.pickled.items() if b"pipelines." in data]


class _Functions(beam.pipeline.PipelineVisitor):
    """Pickles the function of every step, as Beam does."""

    def __init__(self) -> None:
        self.pickled: dict[str, bytes] = {}

    def visit_transform(self, node) -> None:
        if isinstance(node.transform, beam.ParDo):
            self.pickled[node.full_label] = cloudpickle.dumps(node.transform.fn)
