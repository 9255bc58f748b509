import numpy as np
import pytest
import torch

from beam_quad import errors
from beam_quad.embedding.jvp import JvpEmbedder
from beam_quad.gradients.jvp import LowerBlocks
from beam_quad.gradients.windows import Window
from tests.gradients import tiny
from tests.gradients.tiny import CLOSE, EXACT

IDS = [4, 8, 15, 16, 23]
# Norms of most families work in float32 inside a float64 model.
ROUNDED = {"rtol": 1e-4, "atol": 1e-5}


def _batch(proxy, ids=IDS):
    (batch,) = proxy.micro_batches([Window(0, 0, ids)], 64)
    return batch


def _hidden(model, parameters, ids=IDS):
    """What the first block makes of a text, read at its last token after the final norm; not through a cut model."""
    every_layer = model.base_model.config.num_hidden_layers
    assert every_layer == 2
    ids = torch.tensor([ids])
    output = torch.func.functional_call(
        model.base_model, parameters, (), {"input_ids": ids, "use_cache": False}
    )
    return output.last_hidden_state[0, -1]


def _parameters(proxy, lower):
    return {n: proxy.model.base_model.get_parameter(n).detach() for n in lower.tangents}


@pytest.mark.parametrize(
    ("family", "step", "close"), [("gpt2", 1e-5, CLOSE), ("llama", 1e-3, None)]
)
def test_products_are_finite_differences(family, step, close):
    proxy = tiny.proxy(family)
    lower = LowerBlocks.of(proxy, num_blocks=2, num_tangents=2, seed=0)
    parameters = _parameters(proxy, lower)
    (products,) = lower.products(proxy, _batch(proxy))
    for k, product in enumerate(products):
        up, down = (
            _hidden(proxy.model, {n: p + e * lower.tangents[n][k] for n, p in parameters.items()})
            for e in (step, -step)
        )
        tolerance = close or {"rtol": 0.0, "atol": 2e-3 * float(product.abs().max())}
        torch.testing.assert_close(product, (up - down) / (2 * step), **tolerance)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_products_are_the_transpose_of_a_backward(family):
    proxy = tiny.proxy(family)
    lower = LowerBlocks.of(proxy, num_blocks=2, num_tangents=2, seed=0)
    parameters = _parameters(proxy, lower)
    (products,) = lower.products(proxy, _batch(proxy))
    torch.manual_seed(1)
    u = torch.randn(16, dtype=torch.float64)
    values = {name: value.requires_grad_() for name, value in parameters.items()}
    back = torch.autograd.grad(_hidden(proxy.model, values) @ u, list(values.values()))
    expected = [
        sum((t[k] * g).sum() for t, g in zip(lower.tangents.values(), back, strict=True))
        for k in range(2)
    ]
    torch.testing.assert_close(products @ u, torch.stack(expected), **ROUNDED)


def test_only_the_first_blocks_are_passed_and_the_model_is_left_alone():
    proxy = tiny.proxy()
    before = [name for name, _ in proxy.model.named_parameters()]
    attention = proxy.model.config._attn_implementation
    lower = LowerBlocks.of(proxy, num_blocks=1, num_tangents=1, seed=0)
    assert {name.split(".")[1] for name in lower.tangents} == {"0"}
    expected = lower.products(proxy, _batch(proxy))
    with torch.no_grad():
        for parameter in proxy.model.model.layers[1].parameters():
            parameter.fill_(torch.nan)
    torch.testing.assert_close(lower.products(proxy, _batch(proxy)), expected, **EXACT)
    assert [name for name, _ in proxy.model.named_parameters()] == before
    assert len(proxy.model.model.layers) == 2
    assert proxy.model.config._attn_implementation == attention


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_mlp_of_most_families_sees_the_last_tokens_alone(family):
    proxy = tiny.proxy(family)
    lower = LowerBlocks.of(proxy, num_blocks=1, num_tangents=2, seed=0)
    assert (lower.last_mlp is None) == (family in ("opt", "mpt"))
    whole = LowerBlocks(lower.model, lower.tangents)
    batch = _batch(proxy, list(range(11)))
    expected = whole.products(proxy, batch)
    torch.testing.assert_close(lower.products(proxy, batch), expected, **ROUNDED)


def test_an_mlp_that_needs_every_token_is_shown_every_token():
    proxy = tiny.proxy()
    mlp = proxy.model.model.layers[1].mlp
    feed = mlp.forward
    mlp.forward = lambda x: feed(x.cumsum(1))
    assert LowerBlocks.of(proxy, num_blocks=1, num_tangents=1, seed=0).last_mlp is not None
    assert LowerBlocks.of(proxy, num_blocks=2, num_tangents=1, seed=0).last_mlp is None


def test_both_tangents_stand_one_after_the_other():
    proxy = tiny.proxy(dtype=torch.float32)
    text = " ".join(map(str, IDS))
    lower = LowerBlocks.of(proxy, 2, 2, seed=3)
    both = lower.products(proxy, _batch(proxy)).flatten()
    (embedded,) = JvpEmbedder(proxy, num_blocks=2, seed=3).embed([text])
    np.testing.assert_allclose(embedded, (both / both.norm()).numpy(), **CLOSE)
    one = LowerBlocks.of(proxy, 2, 1, seed=3).products(proxy, _batch(proxy)).flatten()
    torch.testing.assert_close(both[:16], one, **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batch_order_padding_and_tail_change_nothing(family):
    embedder = JvpEmbedder(tiny.proxy(family, torch.float32), dim=24)
    texts = tiny.texts((5, 16, 9, 3, 12))
    whole = embedder.embed(texts)
    np.testing.assert_allclose(embedder.embed(texts[::-1])[::-1], whole, **CLOSE)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(alone, whole, **CLOSE)
    # The context is 16 tokens.
    np.testing.assert_allclose(embedder.embed([texts[1] + " 1 2 3"])[0], whole[1], **CLOSE)


def test_vectors_are_unit_float32_of_the_dimension():
    proxy = tiny.proxy(dtype=torch.float32)
    texts = tiny.texts((5, 16, 9))
    for dim, expected in ((4096, 32), (20, 20)):
        embedder = JvpEmbedder(proxy, dim=dim)
        vectors = embedder.embed(texts)
        assert vectors.dtype == np.float32
        assert vectors.shape == (3, expected) == (3, embedder.dim)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert JvpEmbedder(proxy).embed([]).shape == (0, 32)
    assert JvpEmbedder(proxy).num_halvings == 0


def test_the_projection_keeps_cosines_within_its_bound():
    proxy = tiny.proxy(dtype=torch.float32)
    texts = tiny.texts([16] * 8)
    wide = JvpEmbedder(proxy, num_tangents=40).embed(texts)
    narrow = JvpEmbedder(proxy, num_tangents=40, dim=400).embed(texts)
    assert np.abs(wide @ wide.T - narrow @ narrow.T).max() < 5 / 400**0.5


def test_the_seed_decides():
    proxy = tiny.proxy(dtype=torch.float32)
    texts = tiny.texts((5, 9))
    one, same, other = (JvpEmbedder(proxy, dim=20, seed=s).embed(texts) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.05


def test_an_empty_text_is_a_text_like_any_other():
    vectors = JvpEmbedder(tiny.proxy(dtype=torch.float32)).embed(["", "1 2 3"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_a_text_without_a_finite_product_has_zeros_and_leaves_the_others_alone():
    proxy = tiny.proxy(dtype=torch.float32)
    embedder = JvpEmbedder(proxy)
    with torch.no_grad():
        proxy.model.get_input_embeddings().weight[7] = torch.nan
    vectors = embedder.embed(["1 2 3", "5 7 6"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0], rtol=1e-5)


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_a_model_without_a_forward_derivative_is_refused(family):
    with pytest.raises(errors.UsageError, match=r"have no forward derivative.*another embedder"):
        JvpEmbedder(tiny.proxy(family, torch.float32))


def test_numbers_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0, 2 and 4096"):
        JvpEmbedder(tiny.proxy(dtype=torch.float32), num_blocks=0)
