"""Whether the memory of the fit is that of a slice of the layers, in a process of its own."""

import pathlib

import pytest

from tests.benchmarks.fit import Case, measure


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_fitting_holds_a_slice_of_the_layers_and_not_all_of_them(tmp_path):
    case = Case("attention", hidden_size=512, num_layers=9, slice_bytes=32_000_000)
    found = measure(case, tmp_path)
    assert found.num_slices == 3
    # Activations of a micro-batch, and what libraries allocate at the first use of large tensors, come on top.
    assert 0.5 * found.priced < found.measured < 0.8 * found.at_once, found
