"""Tolerances and fixtures that all tests share."""

import os
from collections.abc import Callable

import hypothesis  # noqa: F401  Imported by its plugin at the very end otherwise, which CPython 3.11 can fail at.
import pytest
import torch

# One place for every tolerance: EXACT compares float64 against float64 of another order of summation, CLOSE a
# float32 computation against a float64 one.
EXACT = {"rtol": 1e-9, "atol": 1e-12}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _lacking(reason: str) -> None:
    if os.environ.get("BEAM_QUAD_SKIP_NOTHING"):
        pytest.fail(f"{reason}, which must not be lacking here")
    pytest.skip(reason)


@pytest.fixture
def lacking() -> Callable[[str], None]:
    """Skips a test for want of something that a user may lack; where all must be there, fails it."""
    return _lacking


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param
