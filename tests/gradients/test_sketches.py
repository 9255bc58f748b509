import numpy as np
import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import find_blocks, parameters
from beam_quad.gradients.entries import Entries
from beam_quad.gradients.sketches import GradientSketcher
from tests.gradients import tiny
from tests.gradients.tiny import CLOSE

LENGTHS = (5, 16, 33, 9, 2)


def _explicit_gradient(proxy, blocks, text):
    """One backward through the parameters: the mean loss over the tokens that the windows predict."""
    names = parameters.parameter_names(blocks)
    values = [proxy.model.get_parameter(name).requires_grad_() for name in names]
    documents = proxy.read([text])
    total = 0.0
    for window in documents.windows:
        ids = torch.tensor([list(window.tokens)])
        losses = torch.nn.functional.cross_entropy(
            proxy.model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum"
        )
        total = total + losses / documents.loss_tokens[0]
    gradients = torch.autograd.grad(total, values)
    for value in values:
        value.requires_grad_(False)
    return parameters.to_blocks(proxy.model, blocks, dict(zip(names, gradients, strict=True)))


def _flat(by_block):
    return torch.cat([values.flatten() for values in by_block.values()])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3", "gemma3", "phi"])
def test_gradients_are_those_of_one_backward_per_example(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    texts = tiny.texts(LENGTHS)
    sketches = GradientSketcher(proxy, blocks).sketch(texts)  # of all entries, not compressed
    for row, text in zip(sketches, texts, strict=True):
        explicit = _flat(_explicit_gradient(proxy, blocks, text))
        np.testing.assert_allclose(row, explicit / explicit.norm(), **CLOSE)


def test_a_subset_is_scaled_multiplied_and_then_normalised():
    proxy = tiny.proxy("gpt2")
    blocks = find_blocks(proxy.model)
    multipliers = {b.name: torch.rand(b.shape, dtype=torch.float64) + 0.1 for b in blocks}
    sketcher = GradientSketcher(proxy, blocks, max_entries=300, seed=5, multipliers=multipliers)
    texts = tiny.texts(LENGTHS)
    for row, text in zip(sketcher.sketch(texts), texts, strict=True):
        gradient = _explicit_gradient(proxy, blocks, text)
        explicit = sketcher.entries.keep({n: gradient[n] * multipliers[n] for n in gradient})
        np.testing.assert_allclose(row, explicit / explicit.norm(), **CLOSE)


def test_a_target_is_restricted_and_normalised_but_not_multiplied():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    doubled = {b.name: torch.full(b.shape, 2.0) * (1 + i) for i, b in enumerate(blocks)}
    sketcher = GradientSketcher(proxy, blocks, dim=64, max_entries=200, multipliers=doubled)
    (text,) = tiny.texts([20])
    gradient = _explicit_gradient(proxy, blocks, text)
    sketch, norm = sketcher.sketch_vector(gradient)
    kept = sketcher.entries.keep(gradient)
    assert norm == pytest.approx(float(kept.norm()))
    expected = sketcher.compress((kept / kept.norm())[None])[0]
    np.testing.assert_allclose(sketch, expected.numpy(), **CLOSE)


def test_products_of_sketches_are_cosines():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model, "all")
    texts = tiny.texts((5, 16, 33, 9, 12, 30))
    exact = GradientSketcher(proxy, blocks).sketch(texts)
    sketcher = GradientSketcher(proxy, blocks, dim=512)
    sketches = sketcher.sketch(texts)
    assert exact.dtype == sketches.dtype == np.float32
    assert sketches.shape == (6, 512) == (6, sketcher.dim)
    assert np.abs(sketches @ sketches.T - exact @ exact.T).max() < 5 / 512**0.5


def test_batch_order_and_pieces_change_nothing(monkeypatch):
    texts = tiny.texts(LENGTHS)
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    sketcher = GradientSketcher(proxy, blocks, dim=128, max_entries=500)
    whole = sketcher.sketch(texts)
    np.testing.assert_allclose(sketcher.sketch(texts[::-1])[::-1], whole, **CLOSE)
    alone = np.concatenate([sketcher.sketch([text]) for text in texts])
    np.testing.assert_allclose(alone, whole, **CLOSE)
    monkeypatch.setattr("beam_quad.gradients.sketches._HELD_ENTRIES", 1000)
    monkeypatch.setattr("beam_quad.gradients.sketches._GRADIENT_ENTRIES", 1)
    np.testing.assert_allclose(sketcher.sketch(texts), whole, **CLOSE)


def test_entries_of_all_blocks_are_drawn_once_and_by_seed():
    blocks = find_blocks(tiny.model("gpt2"), "all")
    drawn, same, other = (Entries.draw(blocks, 1000, seed) for seed in (1, 1, 2))
    assert drawn.num_kept == 1000
    for block in blocks:
        positions = drawn.positions[block.name]
        assert len(positions.unique()) == len(positions) > 0
        assert positions.min() >= 0
        assert positions.max() < block.shape[0] * block.shape[1]
        assert torch.equal(positions, same.positions[block.name])
    assert any(not torch.equal(p, other.positions[n]) for n, p in drawn.positions.items())


def test_entries_keep_inner_products_on_average_over_seeds():
    blocks = find_blocks(tiny.model(), "last:1")
    torch.manual_seed(0)
    one, two = ({b.name: torch.rand(b.shape).double() for b in blocks} for _ in range(2))
    draws = [Entries.draw(blocks, 90, seed) for seed in range(400)]
    products = torch.stack([d.keep(one) @ d.keep(two) for d in draws])
    error = products.std() / 400**0.5
    assert (products.mean() - _flat(one) @ _flat(two)).abs() < 4 * error


def test_an_example_without_a_loss_token_is_refused():
    proxy = tiny.proxy()
    sketcher = GradientSketcher(proxy, find_blocks(proxy.model))
    with pytest.raises(ValueError, match="text 1 of the call predicts no token; reject"):
        sketcher.sketch(["1 2 3", "4", "5 6"])
    assert sketcher.sketch([]).shape == (0, sketcher.dim)


def test_what_is_not_finite_is_an_error_and_never_a_sketch():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    sketcher = GradientSketcher(proxy, blocks)
    zero = {b.name: torch.zeros(b.shape) for b in blocks}
    with pytest.raises(errors.IntegrityError, match="the vector is 0 or not finite"):
        sketcher.sketch_vector(zero)
    with torch.no_grad():
        proxy.model.get_input_embeddings().weight[7] = torch.nan
    with pytest.raises(errors.IntegrityError, match="gradient of an example is 0 or not finite"):
        sketcher.sketch(["1 2 3", "5 7 6"])


def test_a_multiplier_that_does_not_fit_is_refused():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    wrong = {b.name: torch.ones(b.shape) for b in blocks} | {blocks[1].name: torch.ones(3, 3)}
    with pytest.raises(
        ValueError, match=r"multiplier of .*k_proj has shape \(3, 3\), not \(8, 16\)"
    ):
        GradientSketcher(proxy, blocks, multipliers=wrong)
    with pytest.raises(ValueError, match=r"k_proj has shape None"):
        GradientSketcher(proxy, blocks, multipliers={blocks[0].name: torch.ones(16, 16)})
    with pytest.raises(ValueError, match="max_entries=0"):
        GradientSketcher(proxy, blocks, max_entries=0)
