"""What all tests share."""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

# Set before torch is imported: threads that spin while they wait starve the other processes of a test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis  # noqa: F401  Imported by its plugin at the very end otherwise, which CPython 3.11 can fail at.
import pytest

if TYPE_CHECKING:
    from tests.pipelines.world import World
    from tests.storage.servers import Server


@pytest.fixture
def lacking() -> Callable[[str], None]:
    """Skips a test for want of something that a user may lack; where all must be there, fails it."""

    def skip(reason: str) -> None:
        if os.environ.get("BEAM_QUAD_SKIP_NOTHING"):
            pytest.fail(f"{reason}, which must not be lacking here")
        pytest.skip(reason)

    return skip


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> "World":
    """A small world that pipelines are run on; see `tests.pipelines.world`."""
    # Imported here: torch and Beam take seconds, which tests of pure functions need not wait for.
    from tests.pipelines.world import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: "World", tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One finished run in this process, that many tests look at and none changes."""
    output = tmp_path_factory.mktemp("finished") / "out"
    world.launch(output)
    return output


@pytest.fixture(scope="session")
def targets(world: "World") -> list[str]:
    """Query groups of three kinds, as values of `--query_group`."""
    return [f"{kind}={world.query_of(kind)}" for kind in ("biology", "law", "code")]


@pytest.fixture(scope="session")
def distilled(
    world: "World", targets: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """One finished run of Influence Distillation for three targets, weighted, that many tests look at and none changes."""
    output = tmp_path_factory.mktemp("distilled") / "out"
    world.launch_distillation(output, query=None, query_group=targets, weighted=True)
    return output


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], "Server"]]:
    """Starts the server of an object store's scheme, each once; all are stopped at the end."""
    from tests.storage.servers import serving

    running: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def start(scheme: str) -> "Server":
            if scheme not in running:
                folder = tmp_path_factory.mktemp(scheme)
                running[scheme] = stack.enter_context(serving(scheme, folder))
            return running[scheme]

        yield start


@pytest.fixture
def reach(
    start: Callable[[str], "Server"],
    lacking: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], "Server"]:
    """Gives the server of a scheme, and points the clients of this process and its children at it."""
    from beam_quad.artifacts import buckets, cloud_storage
    from tests.storage.servers import lacks

    def reach(scheme: str) -> "Server":
        if reason := lacks(scheme):
            lacking(reason)
        server = start(scheme)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(cloud_storage, "_PER_THREAD", threading.local())
        buckets._client_of.cache_clear()
        return server

    return reach


@pytest.fixture
def upload(world: "World") -> Callable[[str], None]:
    """Copies corpus and query of the world to a folder of a store."""
    from beam_quad.artifacts import files

    def upload(target: str) -> None:
        for folder in ("corpus", "query"):
            for path in (world.root / folder).iterdir():
                files.write_once(f"{target}/{folder}/{path.name}", path.read_bytes())

    return upload
