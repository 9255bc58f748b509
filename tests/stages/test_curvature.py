import pytest
import torch

from beam_quad.artifacts import files
from beam_quad.scoring import CovarianceSum
from beam_quad.stages.influence.eigenvalues import Eigendecompose
from beam_quad.stages.read.corpus import write_json
from beam_quad.stages.read.texts import NUM_GROUPS


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_bases_are_those_of_the_runs_threads_on_any_machine(tmp_path, threads):
    torch.manual_seed(0)
    size = 576  # at 64 a decomposition has the same bits with any number
    rows = torch.randn(2 * size, size)
    total = CovarianceSum(rows.T @ rows, {}, len(rows), 1)
    for group in range(NUM_GROUPS):
        files.write_once(str(tmp_path / "covariances" / f"q-{group:02d}.safetensors"), total.save())
    write_json(str(tmp_path / "covariances.json"), {"inputs": ["q"]})
    written = []
    for cores in (1, 2):
        threads(cores)
        task = Eigendecompose(str(tmp_path), num_threads=1)
        (path,) = task.paths("q")
        task.do("q", None)
        written.append(files.read_bytes(path))
        files.delete([path])
    assert written[0] == written[1]
