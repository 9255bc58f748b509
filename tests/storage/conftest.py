"""Object stores to run on."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from apache_beam.io.filesystems import FileSystems

from beam_quad.io import files
from tests.pipelines.world import World
from tests.storage.servers import Server, lacks, serving

Start = Callable[[str], Server]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts the server of a scheme, each once; all are stopped at the end."""
    running: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def start(scheme: str) -> Server:
            if scheme not in running:
                folder = tmp_path_factory.mktemp(scheme)
                running[scheme] = stack.enter_context(serving(scheme, folder))
            return running[scheme]

        yield start


@pytest.fixture
def reach(start: Start, lacking, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Gives the server of a scheme, and points this process's clients at it."""

    def reach(scheme: str) -> Server:
        if reason := lacks(scheme):
            lacking(reason)
        server = start(scheme)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(FileSystems, "_pipeline_options", None)
        return server

    return reach


@pytest.fixture(params=["gs", "s3"])
def server(request, reach: Start) -> Server:
    return reach(request.param)


@pytest.fixture
def root(server: Server, request) -> str:
    """A folder of the store for one test."""
    return f"{server.bucket}/{request.node.originalname}"


@pytest.fixture
def upload(world: World) -> Callable[[str], None]:
    """Copies corpus and query of the world to a folder of a store."""

    def upload(target: str) -> None:
        for path in world.root.glob("*/*"):
            if path.parent.name != "proxy":
                files.write_once(f"{target}/{path.relative_to(world.root)}", path.read_bytes())

    return upload
