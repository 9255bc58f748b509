"""What all tests share."""

import os
from collections.abc import Callable

# Set before torch is imported: threads that spin while they wait starve the other processes of a test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis  # noqa: F401  Imported by its plugin at the very end otherwise, which CPython 3.11 can fail at.
import pytest


@pytest.fixture
def lacking() -> Callable[[str], None]:
    """Skips a test for want of something that a user may lack; where all must be there, fails it."""

    def skip(reason: str) -> None:
        if os.environ.get("BEAM_QUAD_SKIP_NOTHING"):
            pytest.fail(f"{reason}, which must not be lacking here")
        pytest.skip(reason)

    return skip
