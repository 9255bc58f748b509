"""Object stores to run on."""

import pytest

from tests.storage.servers import Server


@pytest.fixture(params=["gs", "s3", "abfs"])
def server(request, reach) -> Server:
    return reach(request.param)


@pytest.fixture
def root(server: Server, request) -> str:
    """A folder of the store for one test."""
    return f"{server.bucket}/{request.node.originalname}"
