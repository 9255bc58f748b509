"""The whole pipeline on engines of other makers, by the command that a user types."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from templates.flink import local_cluster
from tests.engines.deciding import contents, deciding
from tests.pipelines.world import output_bytes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("engine", "scheme"), [("two_processes", None), ("prism", "abfs"), ("flink", "s3")]
)
def test_every_engine_on_every_store_decides_the_same_by_the_same_artifacts(
    world, finished, tmp_path, request, reach, upload, engine, scheme
):
    flags = request.getfixturevalue(engine)
    root = str(tmp_path)
    where = {}
    if scheme is not None:
        root = f"{reach(scheme).bucket}/{engine}"
        upload(root)
        where = {"input": f"{root}/corpus", "query": f"{root}/query"}
    output = f"{root}/out"
    command = _command(world, output, *flags, **where)
    done = subprocess.run(command, check=True, capture_output=True)
    # Whoever waits for a cluster is told how it goes on, too.
    assert b"] stage 25/25 WriteSelection" in done.stderr
    if scheme is None:
        assert deciding(output) == deciding(str(finished))
    assert contents(output) == contents(str(finished))


@pytest.mark.timeout(600)
def test_influence_distillation_decides_the_same_by_the_same_artifacts(
    world, targets, tmp_path, prism
):
    output, loop = tmp_path / "out", tmp_path / "loop"
    shares = ["kind=law >= 0.3", "n > 400 <= 0.4"]
    flags = {"query": None, "query_group": targets, "weighted": True, "share": shares}
    world.distill(loop, **flags)
    arguments = world.distillation_arguments(output, **flags)
    command = [sys.executable, "-m", "pipelines.influence_distillation", *arguments, *prism]
    subprocess.run(command, check=True, capture_output=True)
    assert deciding(str(output)) == deciding(str(loop))


@pytest.mark.flink
@pytest.mark.timeout(900)
def test_after_a_killed_worker_and_a_killed_task_manager_the_output_is_the_same(
    world, finished, tmp_path, cluster, flink
):
    output = tmp_path / "out"
    command = _command(world, output, *flink)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _watch(process, output, finished, lambda: _num_rounds(output) >= 2)
            assert process.poll() is None
            _kill_workers(cluster)
            _watch(process, output, finished, lambda: _num_rounds(output) >= 3)
            assert process.poll() is None
            os.kill(cluster.pid("task_manager"), signal.SIGKILL)
            cluster.up(cluster.ports)
            _watch(process, output, finished, lambda: False)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        assert "failed" in (tmp_path / "log").read_text()
        subprocess.run(command, check=True, capture_output=True)
    assert output_bytes(output) == output_bytes(finished)
    assert deciding(str(output)) == deciding(str(finished))


@pytest.mark.flink
@pytest.mark.timeout(300)
def test_a_cluster_comes_up_and_goes_down_twice_and_leaves_no_process(cluster, tmp_path):
    ports = local_cluster.Ports(*local_cluster.free_ports(3))
    other = local_cluster.Cluster(tmp_path / "other", cluster.parts)
    try:
        other.up(ports)
        parts = {name: other.pid(name) for name in ("job_manager", "task_manager", "worker_pool")}
        other.up(ports)
        assert parts == {name: other.pid(name) for name in parts}
    finally:
        other.down()
    other.down()
    assert not any(_group(pid) for pid in parts.values())


def _command(world: Any, output: Any, *flags: str, **where: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.quad", *world.arguments(output, **where), *flags]


def _num_rounds(output: pathlib.Path) -> int:
    return len(list(output.glob("_run/rounds/*/round-*.parquet")))


def _watch(
    process: subprocess.Popen[bytes],
    output: pathlib.Path,
    finished: pathlib.Path,
    is_over: Callable[[], bool],
) -> None:
    """Waits for a moment of a run; all that is visible under its output until then is whole."""
    expected = output_bytes(finished)
    while process.poll() is None and not is_over():
        for path in [*output.glob("selected/part-*"), *output.glob("rejected/part-*")]:
            assert path.read_bytes() == expected[str(path.relative_to(output))]
        if (output / "COMPLETE").exists():
            assert output_bytes(output) == expected
        time.sleep(0.01)


def _kill_workers(cluster: Any) -> None:
    """Kills the Python workers that the pool has started, and leaves the pool."""
    pool = cluster.pid("worker_pool")
    workers = _group(pool) - {pool}
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def _group(leader: int) -> set[int]:
    ps = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)  # fmt: skip
    rows = [line.split() for line in ps.stdout.splitlines()]
    return {int(pid) for pid, group, state in rows if int(group) == leader and state[0] != "Z"}
