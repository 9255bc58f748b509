import pytest
import torch

from beam_quad.scoring import Curvature, Eigenbasis, EigenvalueSum
from tests.gradients.tiny import EXACT
from tests.scoring.saved import saved

OUT, IN, TOKENS = 3, 4, 7.5


def covariance(size, seed):
    root = torch.randn(
        size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return root @ root.T / size


@pytest.fixture
def gradient():
    draws = torch.Generator().manual_seed(9)
    return torch.randn(OUT, IN, generator=draws, dtype=torch.float64)


@pytest.fixture
def factors():
    return covariance(IN, 1), covariance(OUT, 2)


@pytest.fixture
def basis(factors):
    (s_a, u_a), (s_g, u_g) = (torch.linalg.eigh(factor) for factor in factors)
    return Eigenbasis(s_a, u_a, {"block": s_g}, {"block": u_g}, TOKENS)


def solve(dense, damping, gradient):
    """Solves on the row-major flattening of [out, in]."""
    damped = dense + damping * torch.eye(len(dense), dtype=dense.dtype)
    return torch.linalg.solve(damped, gradient.flatten()).view_as(gradient)


def test_kfac_solves_the_dense_system(basis, factors, gradient):
    a, g = factors
    dense = TOKENS * torch.kron(g, a)
    expected = solve(dense, dense.diagonal().mean(), gradient)
    found = Curvature.from_parts({"module": basis}).precondition({"block": gradient})
    torch.testing.assert_close(found["block"], expected, **EXACT)


def test_ekfac_solves_the_dense_system(basis, gradient):
    squares = torch.rand(OUT, IN, dtype=torch.float64)
    u = torch.kron(basis.gradient_vectors["block"], basis.activation_vectors)
    eigenvalues = squares / 5
    expected = solve(u @ eigenvalues.flatten().diag() @ u.T, 0.3 * eigenvalues.mean(), gradient)
    curvature = Curvature.from_parts(
        {"module": basis}, {"module": EigenvalueSum({"block": squares}, 5)}, damping_ratio=0.3
    )
    torch.testing.assert_close(
        curvature.precondition({"block": gradient})["block"], expected, **EXACT
    )


@pytest.mark.parametrize("is_corrected", [True, False])
def test_a_heads_curvature_solves_the_dense_system_in_the_basis_of_the_tokens(
    factors, gradient, is_corrected
):
    s_a, u_a = torch.linalg.eigh(factors[0])
    s_g = torch.rand(OUT, dtype=torch.float64)
    basis = Eigenbasis(s_a, u_a, {"head": s_g}, {"head": torch.ones_like(s_g)}, TOKENS)
    eigenvalues, sums = TOKENS * torch.outer(s_g, s_a), None
    if is_corrected:
        eigenvalues = torch.rand(OUT, IN, dtype=torch.float64)
        sums = {"module": EigenvalueSum({"head": 5 * eigenvalues}, 5)}
    u = torch.kron(torch.eye(OUT, dtype=torch.float64), u_a.contiguous())
    expected = solve(u @ eigenvalues.flatten().diag() @ u.T, eigenvalues.mean(), gradient)
    found = Curvature.from_parts({"module": basis}, sums).precondition({"head": gradient})
    torch.testing.assert_close(found["head"], expected, **EXACT)


def test_eigenvalue_sums_add_and_survive_bytes():
    total = EigenvalueSum({"b": torch.ones(2, 2)}, 3) + EigenvalueSum({"b": torch.ones(2, 2)}, 4)
    loaded = EigenvalueSum.load(saved(total))
    assert loaded.num_sequences == 7
    assert loaded.squares["b"].tolist() == [[2, 2], [2, 2]]
    with pytest.raises(ValueError, match="cannot add"):
        total + EigenvalueSum({"c": torch.ones(2, 2)}, 1)


def test_a_block_without_curvature_has_no_influence(basis, gradient):
    none = EigenvalueSum({"block": torch.zeros(OUT, IN, dtype=torch.float64)}, 1)
    found = Curvature.from_parts({"module": basis}, {"module": none}).precondition(
        {"block": gradient}
    )
    assert not found["block"].any()


def test_a_large_head_without_curvature_has_no_influence(basis, gradient):
    sums = EigenvalueSum({}, 1, {"block": torch.zeros(OUT)}, {"block": torch.zeros(IN)})
    curvature = Curvature.from_parts({"module": basis}, {"module": sums})
    assert not curvature.precondition({"block": gradient})["block"].any()


def test_refuses_parts_that_do_not_fit(basis, gradient):
    with pytest.raises(ValueError, match="damping_ratio must be positive"):
        Curvature.from_parts({"module": basis}, damping_ratio=0)
    with pytest.raises(ValueError, match="no eigenvalues for module"):
        Curvature.from_parts({"module": basis}, {})
    with pytest.raises(ValueError, match="no curvature for"):
        Curvature.from_parts({"module": basis}).precondition({"other": gradient})
