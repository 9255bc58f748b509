import shutil

import pytest
import torch

from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import ProxySpec
from beam_quad.scoring import CovarianceSum, slices
from beam_quad.stages import run_in_process
from beam_quad.stages.influence.covariances import SumCovariances
from beam_quad.stages.influence.eigenvalues import Eigendecompose
from beam_quad.stages.influence.proxy import ProxyModel, TrackedProxy
from beam_quad.stages.influence.query_vectors import FitQueryVectors
from beam_quad.stages.read.texts import NUM_GROUPS, SampleTexts
from pipelines import chain
from pipelines import options as quad_options
from pipelines.inputs import look


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
        with files.writing(covariances.part_path("q", group)) as file:
            total.save(file)
    write_json(covariances.artifact, {"inputs": {"q": ["q"]}})
    written = []
    for cores in (1, 2):
        threads(cores)
        stage = Eigendecompose(covariances)
        (path,) = stage.paths("q")
        stage.do("q", None)
        written.append(files.read_bytes(path))
        files.delete([path])
    assert written[0] == written[1]


def fit(world, output, proxy, layers, curvature="ekfac"):
    """Runs the stages up to the query vectors."""
    queries = [f"bio={world.query}", f"law={world.query_of('law')}"]
    flags = {"proxy_model": proxy, "layers": layers, "curvature": curvature}
    flags |= {"query": None, "query_group": queries}
    options, _ = quad_options.parse(world.arguments(output, **flags))
    built = chain.build(options, look(options))
    built.write_plans()
    at = next(i for i, own in enumerate(built.stages) if isinstance(own, FitQueryVectors))
    run_in_process(built.stages[: at + 1])
    return built.stages[at]


@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
def test_vectors_fitted_layer_by_layer_have_the_bits_of_those_fitted_at_once(
    world, tmp_path, monkeypatch, curvature
):
    whole = fit(world, tmp_path / "whole", world.proxy, "all+head", curvature)
    # Slices are known for each place of a model.
    proxy = shutil.copytree(world.proxy, tmp_path / "proxy")
    monkeypatch.setattr(slices, "_SLICE_BYTES", 0)
    sliced = fit(world, tmp_path / "sliced", proxy, "all+head", curvature)
    assert (len(whole.pieces()), len(sliced.pieces())) == (1, 3)
    assert whole.groups() == sliced.groups()
    for name in ("vectors", "halves"):
        expected, found = (getattr(stage, name).load() for stage in (whole, sliced))
        assert list(found) == list(expected)
        for group, vector in expected.items():
            assert found[group].keys() == vector.keys()
            assert all(torch.equal(found[group][block], own) for block, own in vector.items())
    if curvature != "identity":
        fitted = [read_json(stage.curvature.covariances.artifact) for stage in (whole, sliced)]
        assert fitted[0] == fitted[1]
