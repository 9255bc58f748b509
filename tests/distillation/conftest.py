from collections.abc import Callable

import numpy as np
import pytest

from beam_quad import seeding


@pytest.fixture
def keys() -> Callable[[int], np.ndarray]:
    return lambda count: seeding.keys(f"part-0#{i}" for i in range(count))
