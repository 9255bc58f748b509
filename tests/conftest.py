"""What all tests share."""

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

# Set before torch is imported: threads that spin while they wait starve the other processes of a test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis  # noqa: F401  Imported by its plugin at the very end otherwise, which CPython 3.11 can fail at.
import pytest

if TYPE_CHECKING:
    from tests.pipelines.world import World


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
    world.run(output)
    return output
