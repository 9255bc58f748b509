import numpy as np
import pytest
import torch
from torch.nn import functional

from beam_quad import seeding
from beam_quad.gradients import losses, windows
from tests.gradients.tiny import CLOSE, EXACT


@pytest.fixture
def problem():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 11, dtype=torch.float64) * 3
    weights = torch.rand(2, 5, dtype=torch.float64)
    weights[:, -1] = 0
    return logits, torch.randint(0, 11, (2, 5)), weights


def test_losses_and_gradient_are_autograds(problem, monkeypatch):
    monkeypatch.setitem(losses._PIECE_ENTRIES, "cpu", 3 * 11)
    logits, labels, weights = problem
    logits.requires_grad_()
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    expected = (each.view(2, 5) * weights).sum(1)
    expected.sum().backward()
    torch.testing.assert_close(losses.weighted_losses(logits, labels, weights), expected, **EXACT)
    torch.testing.assert_close(losses.loss_gradient(logits, labels, weights), logits.grad, **EXACT)


def test_bfloat16_logits_are_summed_in_float32(problem):
    logits, labels, weights = problem
    rounded = logits.bfloat16()
    found = losses.weighted_losses(rounded, labels, weights.float())
    assert found.dtype == torch.float32
    expected = losses.weighted_losses(rounded.double(), labels, weights)
    torch.testing.assert_close(found.double(), expected, **CLOSE)


@pytest.mark.parametrize("vocabulary", [2, 9, 10, 1000])
def test_labels_are_the_inverse_cdf(vocabulary):
    draws = np.random.default_rng(0)
    probabilities = draws.dirichlet(np.full(vocabulary, 0.3), size=200)
    uniforms = draws.random(200)
    expected = [
        np.searchsorted(np.cumsum(p), u, "right")
        for p, u in zip(probabilities, uniforms, strict=True)
    ]
    found = losses.sample_labels(torch.from_numpy(probabilities), torch.from_numpy(uniforms))
    assert found.tolist() == expected


def test_a_label_without_probability_is_never_drawn():
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(3, -1)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert losses.sample_labels(probabilities, uniforms).tolist() == [1, 3, 3]


def test_sampled_gradients_are_those_of_the_drawn_labels(problem):
    logits, labels, weights = problem
    uniforms = torch.rand(2, 5, dtype=torch.float64)
    drawn = losses.sample_labels(logits.softmax(2).flatten(0, 1), uniforms.flatten()).view(2, 5)
    expected = losses.loss_gradient(logits, drawn, weights)
    torch.testing.assert_close(
        losses.loss_gradient(logits, labels, weights, uniforms), expected, **EXACT
    )


def test_draws_depend_on_the_example_and_not_on_its_batch():
    def draws(ids, lengths):
        pieces = windows.windows_of(map(windows.Tokens, [range(n) for n in lengths]), 8, 4)
        found = {}
        for batch in windows.micro_batches(pieces, 8, 16):
            uniforms = losses.label_uniforms(7, seeding.keys(ids), batch)
            for row, (document, index) in enumerate(
                zip(batch.documents, batch.indices, strict=True)
            ):
                found[ids[document], int(index)] = uniforms[row, : batch.lengths[row]].tolist()
        return found

    together, alone = draws(["a", "b"], [12, 5]), draws(["b"], [5])
    assert together["b", 0] == alone["b", 0]
    assert len({u for row in together.values() for u in row}) == 17
