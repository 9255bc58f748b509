import pytest
import torch

from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import write_json
from beam_quad.gradients.proxy import ProxySpec
from beam_quad.scoring import CovarianceSum
from beam_quad.stages.influence.covariances import SumCovariances
from beam_quad.stages.influence.eigenvalues import Eigendecompose
from beam_quad.stages.influence.proxy import ProxyModel, TrackedProxy
from beam_quad.stages.read.texts import NUM_GROUPS, SampleTexts


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_bases_are_those_of_the_runs_threads_on_any_machine(corpus, threads):
    torch.manual_seed(0)
    size = 576  # at 64 a decomposition has the same bits with any number
    rows = torch.randn(2 * size, size)
    total = CovarianceSum(rows.T @ rows, {}, len(rows), 1)
    covariances = SumCovariances(
        TrackedProxy(ProxyModel(ProxySpec("nowhere", num_threads=1), "print"), "attention"),
        SampleTexts(corpus, 100),
        "sampled",
        seed=0,
    )
    for group in range(NUM_GROUPS):
        files.write_once(covariances.part_path("q", group), total.save())
    write_json(covariances.artifact, {"inputs": ["q"]})
    written = []
    for cores in (1, 2):
        threads(cores)
        stage = Eigendecompose(covariances)
        (path,) = stage.paths("q")
        stage.do("q", None)
        written.append(files.read_bytes(path))
        files.delete([path])
    assert written[0] == written[1]
