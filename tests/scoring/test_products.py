import pytest
import torch

from beam_quad.scoring import products
from tests.gradients.tiny import EXACT


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)


def test_sequence_gradients_are_sums_of_outer_products(tokens, monkeypatch):
    monkeypatch.setattr(products, "GRADIENT_ENTRIES", 60)
    a, g = tokens
    pieces = list(products.sequence_gradients(a, g))
    assert [len(piece) for piece in pieces] == [2, 1]
    torch.testing.assert_close(torch.cat(pieces), torch.einsum("bto,bti->boi", g, a), **EXACT)


def test_inner_products_are_those_of_the_gradients(tokens):
    a, g = tokens
    v = torch.randn(2, 5, 7, dtype=torch.float64)
    gradients = torch.einsum("bto,bti->boi", g, products.with_bias(a, True))
    expected = torch.einsum("boi,voi->bv", gradients, v)
    torch.testing.assert_close(products.formed_products(gradients, v), expected, **EXACT)
    torch.testing.assert_close(products.inner_products(a, g, v), expected, **EXACT)


def test_norms_are_those_of_the_gradients(tokens):
    a, g = tokens
    expected = torch.einsum("bto,bti->boi", g, a).square().sum((1, 2))
    torch.testing.assert_close(products.squared_norms(a, g), expected, **EXACT)


def test_gradients_of_long_sequences_are_formed():
    assert not products.is_formed((576, 576), 64)
    assert products.is_formed((576, 576), 256)


def test_inner_products_go_through_the_narrower_side(tokens):
    g, a = tokens  # 6 outputs, 5 inputs
    v = torch.randn(2, 6, 6, dtype=torch.float64)
    gradients = torch.einsum("bto,bti->boi", g, products.with_bias(a, True))
    expected = torch.einsum("boi,voi->bv", gradients, v)
    torch.testing.assert_close(products.inner_products(a, g, v), expected, **EXACT)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_bits_of_a_sequence_do_not_depend_on_those_beside_it(num_threads):
    torch.manual_seed(0)
    wide, narrow = torch.randn(5, 144, 300), torch.randn(5, 144, 280)
    vectors, rows = torch.randn(2, 300, 280), torch.randint(0, 300, (5, 144))
    for compute in (
        lambda some: products.inner_products(narrow[some], wide[some], vectors),
        lambda some: products.inner_products(wide[some], narrow[some], vectors.mT.contiguous()),
        lambda some: products.squared_norms(narrow[some], wide[some]),
        lambda some: products.row_products(rows[some], narrow[some], vectors),
        lambda some: products.entry_products(narrow[some], narrow[some]),
        lambda some: products.formed_products(torch.bmm(wide[some].mT, narrow[some]), vectors),
    ):
        threads_before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        try:
            together = compute(slice(None))
            alone = [compute(slice(i, i + 1)) for i in range(5)]
        finally:
            torch.set_num_threads(threads_before)
        torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=0)


def test_wide_output_gradients_are_converted_piece_by_piece(tokens, monkeypatch):
    a, g = tokens
    expected = products.squared_norms(a[:, :2], g[:, :2]), g.square().sum((0, 1))
    monkeypatch.setattr(products, "GRADIENT_ENTRIES", 10)
    found = products.squared_norms(a[:, :2], g[:, :2]), products.token_squares(g, g.dtype)
    torch.testing.assert_close(found, expected, **EXACT)


ROWS = torch.tensor([[3, 1, 3, 3], [0, 2, 4, 2], [1, 1, 1, 1]])


def test_rows_of_a_gradient_are_taken_without_forming_it(tokens):
    a, g = tokens
    gradients = torch.einsum("bto,bti->boi", g, a)
    expected = torch.stack([own[rows] for own, rows in zip(gradients, ROWS, strict=True)])
    torch.testing.assert_close(products.gradient_rows(a, g, ROWS), expected, **EXACT)


def test_what_tokens_add_to_rows_is_summed_row_by_row(tokens):
    deltas, _ = tokens
    totals = torch.zeros(3, 5, 7, dtype=torch.float64)  # with a column for a bias
    for total, rows, own in zip(totals, ROWS, deltas, strict=True):
        products.add_rows(total, rows[None], own[None])
        for row, delta in zip(rows, own, strict=True):
            total[row, :6] -= delta
    torch.testing.assert_close(totals, torch.zeros_like(totals), **EXACT)
    sums = products.sums_by_row(ROWS, deltas)
    torch.testing.assert_close(sums[0, 2], deltas[0, 0] + deltas[0, 2] + deltas[0, 3], **EXACT)
    torch.testing.assert_close(sums[1, 2], deltas[1, 2], **EXACT)
    is_first = [[True, True, False, False], [True, True, True, False], [True, False, False, False]]
    assert products.first_of_rows(ROWS).tolist() == is_first
    vectors = torch.randn(2, 5, 7, dtype=torch.float64)
    expected = [
        torch.stack([(v[r, :6] * d).sum() for r, d in zip(ROWS, deltas, strict=True)])
        for v in vectors
    ]
    found = products.row_products(ROWS, deltas, vectors)
    torch.testing.assert_close(found, torch.stack(expected, dim=1), **EXACT)
