import numpy as np
import pytest
import scipy.linalg
import torch

from beam_quad.gradients import hadamard
from beam_quad.gradients.hadamard import HadamardTransform
from tests.gradients.tiny import EXACT


def _vectors(num, length, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num, length)))


def _unit(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("bits", [0, 1, 2, 5, 8])
def test_the_fast_transform_is_the_dense_matrix(bits):
    dense = torch.from_numpy(scipy.linalg.hadamard(1 << bits)).double()
    vectors = _vectors(3, 1 << bits)
    torch.testing.assert_close(hadamard.walsh_hadamard(vectors), vectors @ dense.T, **EXACT)


def test_a_sketch_is_signed_padded_mixed_and_sampled():
    transform = HadamardTransform(37, 20, seed=3)
    signed = _vectors(4, 37) * hadamard.random_signs(3, "hadamard signs", 37)
    mixed = hadamard.walsh_hadamard(torch.nn.functional.pad(signed, (0, 64 - 37))) / 20**0.5
    sketch = transform(_vectors(4, 37))
    # Every sketched column is one of the transform's, each taken once.
    is_same = (sketch[:, :, None] - mixed[:, None, :]).abs().amax(0) < 1e-12
    assert is_same.any(1).all()
    assert len(is_same.int().argmax(1).unique()) == 20


def test_all_rows_are_an_isometry():
    vectors = _vectors(5, 100)
    sketches = HadamardTransform(100, 128, seed=0)(vectors)
    torch.testing.assert_close(sketches @ sketches.T, vectors @ vectors.T, **EXACT)


def test_inner_products_are_kept_within_the_bound():
    dense = _vectors(20, 3000)
    similar = dense + 0.3 * _vectors(20, 3000, seed=1)
    spikes = torch.eye(3000, dtype=torch.float64)[:20]
    unit = _unit(torch.cat([dense, similar, spikes]))
    sketches = HadamardTransform(3000, 1024, seed=0)(unit)
    errors = (sketches @ sketches.T - unit @ unit.T).abs()
    assert errors.max() < 5 / 1024**0.5


def test_inner_products_are_right_on_average_over_seeds():
    unit = _unit(_vectors(2, 50) + 1)
    sketches = torch.stack([HadamardTransform(50, 8, seed)(unit) for seed in range(400)])
    products = (sketches[:, 0] * sketches[:, 1]).sum(1)
    error = products.std() / 400**0.5
    assert (products.mean() - unit[0] @ unit[1]).abs() < 4 * error


def test_a_row_is_the_same_bits_in_any_batch():
    vectors = _vectors(7, 5000).float()
    transform = HadamardTransform(5000, 600, seed=1)
    whole = transform(vectors)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, torch.cat([transform(vectors[:3]), transform(vectors[3:])]))


def test_the_seed_decides():
    vectors = _vectors(2, 64)
    one, same, other = (HadamardTransform(64, 16, seed)(vectors) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_signs_are_fair_and_independent_of_how_many_are_drawn():
    signs = hadamard.random_signs(0, "test", 10_001)
    assert set(signs.tolist()) == {-1, 1}
    assert abs(signs.double().mean()) < 4 / 100
    assert torch.equal(signs[:77], hadamard.random_signs(0, "test", 77))


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="37 entries cannot be compressed to 65"):
        HadamardTransform(37, 65, seed=0)
    with pytest.raises(ValueError, match="must be positive"):
        HadamardTransform(37, 0, seed=0)
    with pytest.raises(ValueError, match=r"expected \[n, 37\], got \(2, 36\)"):
        HadamardTransform(37, 8, seed=0)(_vectors(2, 36))
    with pytest.raises(ValueError, match="power of two, got 12"):
        hadamard.walsh_hadamard(_vectors(1, 12))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    vectors = _vectors(3, 100_000).float()
    transform = HadamardTransform(100_000, 4096, seed=1)
    on_cpu = transform(vectors)
    assert torch.equal(transform(vectors.cuda()).cpu(), on_cpu)
