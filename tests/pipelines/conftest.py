import pathlib

import pytest

from tests.pipelines.world import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One finished run that several tests look at and none changes."""
    output = tmp_path_factory.mktemp("finished") / "out"
    world.run(output)
    return output
