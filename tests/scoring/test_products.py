import pytest
import torch

from beam_quad.scoring import products
from tests.gradients.tiny import EXACT


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)


def test_sequence_gradients_are_sums_of_outer_products(tokens, monkeypatch):
    monkeypatch.setattr(products, "_GRADIENT_ENTRIES", 60)
    a, g = tokens
    pieces = list(products.sequence_gradients(a, g))
    assert [len(piece) for piece in pieces] == [2, 1]
    torch.testing.assert_close(torch.cat(pieces), torch.einsum("bto,bti->boi", g, a), **EXACT)


def test_inner_products_are_those_of_the_gradients(tokens):
    a, g = tokens
    v = torch.randn(5, 7, dtype=torch.float64)
    gradients = torch.einsum("bto,bti->boi", g, products.with_bias(a, True))
    expected = (gradients * v).sum((1, 2))
    torch.testing.assert_close(products.inner_products(a, g, v), expected, **EXACT)


@pytest.mark.parametrize("length", [2, 4])
def test_norms_are_those_of_the_gradients_by_either_way(tokens, length):
    a, g = (t[:, :length] for t in tokens)  # 2 (5 + 6) < 5 * 6 <= 4 (5 + 6)
    expected = torch.einsum("bto,bti->boi", g, a).square().sum((1, 2))
    torch.testing.assert_close(products.squared_norms(a, g), expected, **EXACT)
