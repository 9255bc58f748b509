"""Engines to run on: each fixture gives the flags that a user would add to the command."""

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from templates.flink import local_cluster
from tests.storage.servers import Server


@pytest.fixture
def two_processes() -> list[str]:
    return [
        "--runner=DirectRunner",
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
    ]


@pytest.fixture
def prism(lacking: Callable[[str], None]) -> list[str]:
    path = os.environ.get("BEAM_QUAD_PRISM", "")
    if not os.path.isfile(path):
        lacking(
            "BEAM_QUAD_PRISM names no Prism; make one with "
            "`go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0`"
        )
    return ["--runner=PrismRunner", f"--prism_location={path}"]


@pytest.fixture(scope="module")
def _cluster(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[[str], Server]
) -> Iterator[Any]:
    parts = pathlib.Path(os.environ["BEAM_QUAD_FLINK"])
    # The workers are not told the launcher's flags: what leads them to a store is in their pool's environment.
    os.environ.update(start("s3").environment)
    cluster = local_cluster.Cluster(tmp_path_factory.mktemp("flink"), parts)
    try:
        cluster.up(local_cluster.Ports(*local_cluster.free_ports(3)))
        yield cluster
    finally:
        cluster.down()
        for name in start("s3").environment:
            os.environ.pop(name, None)


@pytest.fixture
def cluster(lacking: Callable[[str], None], request: pytest.FixtureRequest) -> Any:
    """A Flink cluster that is up."""
    parts = os.environ.get("BEAM_QUAD_FLINK", "")
    if not os.path.isdir(parts) or shutil.which("java") is None:
        lacking(
            "BEAM_QUAD_FLINK names no folder with Flink, or there is no Java; make it with "
            "`python templates/flink/local_cluster.py fetch FOLDER`"
        )
    return request.getfixturevalue("_cluster")


@pytest.fixture
def flink(cluster: Any) -> list[str]:
    return [*cluster.flags, "--parallelism=2"]
