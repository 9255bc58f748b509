import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import find_blocks, parameters
from beam_quad.gradients.hessian import CURVATURES, curvature_products
from tests.gradients import tiny
from tests.gradients.tiny import EXACT

# Norms of most families work in float32 inside a float64 model.
ROUNDED = {"rtol": 1e-4, "atol": 1e-8}
LAYERS = {"llama": r"regex:1.*k_proj", "gpt2": r"regex:h\.1\.attn\.c_proj"}
TEXTS = tiny.texts((5, 20, 1, 9))  # the second has two windows, the third predicts nothing


def _basis(block):
    size = block.shape[0] * block.shape[1]
    return [{block.name: row.view(block.shape)} for row in torch.eye(size, dtype=torch.float64)]


def _logits_of(proxy, block, ids):
    """The logits as a function of the block's flattened entries, and where these are now."""
    names = parameters.parameter_names([block])
    own = {name: proxy.model.get_parameter(name).detach() for name in names}
    start = parameters.to_blocks(proxy.model, [block], own)[block.name].flatten()

    def logits(entries):
        vectors = {block.name: entries.view(block.shape)}
        moved = parameters.to_parameters(proxy.model, [block], vectors)
        arguments = {"input_ids": torch.tensor([ids]), "use_cache": False}
        return torch.func.functional_call(proxy.model, moved, (), arguments).logits[0, :-1]

    return logits, start


def _dense(proxy, block, curvature):
    """Adds up the documents' matrices, each forward over backward."""
    documents = proxy.read(TEXTS)
    proxy.model.set_attn_implementation("eager")  # fused kernels have no second derivative
    total = 0
    for window in documents.windows:
        ids = list(window.tokens)
        logits, start = _logits_of(proxy, block, ids)
        weight = 1 / documents.loss_tokens[window.document]
        if curvature == "hessian":

            def loss(entries, logits=logits, ids=ids):
                labels = torch.tensor(ids[1:])
                return torch.nn.functional.cross_entropy(logits(entries), labels, reduction="sum")

            total = total + weight * torch.func.jacfwd(torch.func.jacrev(loss))(start)
        else:
            jacobian = torch.func.jacfwd(logits)(start)
            p = logits(start).softmax(1)
            curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            halves = jacobian.flatten(0, 1), (curved @ jacobian).flatten(0, 1)
            total = total + weight * halves[0].T @ halves[1]
    return total.detach()


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize(
    ("family", "layers"), [*LAYERS.items(), ("llama", "head"), ("gpt2", "head")]
)
def test_products_are_those_with_the_dense_matrix(family, layers, curvature):
    proxy = tiny.proxy(family)
    (block,) = find_blocks(proxy.model, layers)
    basis = _basis(block)[::7]
    found = curvature_products(proxy, [block], TEXTS, basis, curvature)
    assert found.num_examples == 3
    columns = torch.stack([product[block.name].flatten() for product in found.products])
    expected = _dense(proxy, block, curvature)[::7]
    torch.testing.assert_close(columns, expected, **(EXACT if family == "gpt2" else ROUNDED))


def _vectors(blocks, num=3):
    torch.manual_seed(0)
    return [{b.name: torch.randn(b.shape, dtype=torch.float64) for b in blocks} for _ in range(num)]


def _dot(one, other):
    return sum((one[name] * other[name]).sum() for name in one)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_products_across_blocks_are_symmetric(family, curvature):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    one, other, _ = _vectors(blocks)
    found = curvature_products(proxy, blocks, TEXTS, [one, other], curvature).products
    torch.testing.assert_close(_dot(found[0], other), _dot(found[1], one), **ROUNDED)


def test_gauss_newton_is_never_negative_where_the_hessian_is():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    vectors = _vectors(blocks, num=12)
    curved = {
        curvature: [
            _dot(vector, product)
            for vector, product in zip(
                vectors,
                curvature_products(proxy, blocks, TEXTS, vectors, curvature).products,
                strict=True,
            )
        ]
        for curvature in CURVATURES
    }
    assert min(curved["gauss_newton"]) > 0
    assert min(curved["hessian"]) < 0


def test_sums_are_additive_over_documents_and_batches():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    vectors = _vectors(blocks, num=2)
    whole = curvature_products(proxy, blocks, TEXTS, vectors)
    parts = curvature_products(proxy, blocks, TEXTS[:2], vectors) + curvature_products(
        proxy, blocks, TEXTS[2:], vectors
    )
    assert parts.num_examples == whole.num_examples
    for part, expected in zip(parts.mean(), whole.mean(), strict=True):
        for name in expected:
            torch.testing.assert_close(part[name], expected[name], **ROUNDED)


def test_the_model_is_left_as_it_was():
    proxy = tiny.proxy()
    before = proxy.model.config._attn_implementation
    blocks = find_blocks(proxy.model)
    curvature_products(proxy, blocks, TEXTS, _vectors(blocks, num=1))
    assert not any(p.requires_grad or p.grad is not None for p in proxy.model.parameters())
    assert proxy.model.config._attn_implementation == before


def test_refusals_say_what_to_do():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    with pytest.raises(errors.UsageError, match="curvature must be one of"):
        curvature_products(proxy, blocks, TEXTS, [], "fisher")
    with pytest.raises(errors.UsageError, match="pass other query files"):
        curvature_products(proxy, blocks, ["3"], _vectors(blocks, num=1)).mean()
    low = tiny.proxy(dtype=torch.bfloat16)
    with pytest.raises(errors.UsageError, match=r"second derivatives drown in torch\.bfloat16"):
        curvature_products(low, blocks, TEXTS, [])
    attention = proxy.model.model.layers[1].self_attn
    attention.v_proj.weight = attention.k_proj.weight
    with pytest.raises(errors.UsageError, match="some share one"):
        curvature_products(proxy, blocks, TEXTS, [])
