import collections
import copy

import numpy as np
import pytest
import torch
from torch import nn

from beam_quad.gradients import Proxy, find_blocks
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    products,
    query_gradient,
)
from tests.gradients import tiny
from tests.gradients.tiny import EXACT
from tests.launches import count_launches
from tests.scoring import reference

TEXTS = tiny.texts([6, 15, 1, 3, 40, 100])
USABLE = [0, 1, 3, 4, 5]


def score(proxy, blocks, vectors, texts=TEXTS, normalize=False):
    return InfluenceScorer(proxy, blocks, {"query": vectors}, normalize).score(texts)[:, 0]


def preconditioned_query(proxy, blocks, query, corpus):
    ids = [f"id-{i}" for i in range(len(corpus))]
    sums = covariance_sums(proxy, blocks, ids, corpus, 0)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    eigenvalues = eigenvalue_sums(proxy, blocks, bases, ids, corpus, 0)
    curvature = Curvature.from_parts(bases, eigenvalues)
    return curvature.precondition(query_gradient(proxy, blocks, query).mean())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_are_products_with_gradients_from_backward(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    v = preconditioned_query(proxy, blocks, TEXTS[:2], TEXTS)
    expected = [
        reference.inner(v, reference.document_gradient(proxy, blocks, TEXTS[i])) for i in USABLE
    ]
    found = score(proxy, blocks, v)
    # Most families compute norms and softmaxes in float32, whatever their dtype.
    np.testing.assert_allclose(found[USABLE], expected, rtol=1e-5)
    assert np.isnan(found[2])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_head_scores_by_the_gradient_of_its_weight(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "head")
    v = reference.random_vectors(blocks)
    gradients = [reference.document_gradient(proxy, blocks, TEXTS[i]) for i in USABLE]
    expected = [reference.inner(v, gradient) for gradient in gradients]
    np.testing.assert_allclose(score(proxy, blocks, v)[USABLE], expected, rtol=1e-5)


@pytest.mark.parametrize("formed_tokens", [0, 1_000_000])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_unit_gradients_span_all_layers_and_the_head(family, formed_tokens, monkeypatch):
    monkeypatch.setattr(products, "_FORMED_TOKENS", formed_tokens)  # all are formed, or none
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    v = preconditioned_query(proxy, blocks, TEXTS[:2], TEXTS)
    gradients = [reference.document_gradient(proxy, blocks, TEXTS[i]) for i in USABLE]
    expected = [reference.inner(v, g) / reference.inner(g, g) ** 0.5 for g in gradients]
    vectors = {"query": v, "negative": {name: -own for name, own in v.items()}}
    found = InfluenceScorer(proxy, blocks, vectors, normalize=True).score(TEXTS)
    np.testing.assert_allclose(found[USABLE, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], -found[:, 0], rtol=1e-12)


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_scores_of_a_mixtures_attention(family):
    proxy = tiny.proxy(family, torch.float32)  # torch multiplies experts in at most float32
    blocks = find_blocks(proxy.model, "attention+head")
    v = reference.random_vectors(blocks)
    expected = [
        reference.inner(v, reference.document_gradient(proxy, blocks, TEXTS[i])) for i in USABLE
    ]
    np.testing.assert_allclose(score(proxy, blocks, v)[USABLE], expected, rtol=1e-4, atol=1e-5)


def test_scores_are_directional_derivatives():
    proxy = tiny.proxy("gpt2")  # of the families, the one that computes in float64 throughout
    blocks = find_blocks(proxy.model, "all+head", cut_fused=False)
    v = reference.random_vectors(blocks)
    step = 1e-5
    losses = []
    for sign in (1, -1):
        moved = Proxy(copy.deepcopy(proxy.model), proxy.tokenizer, 16)
        for block in blocks:
            module = moved.model.get_submodule(block.module)
            if block.is_head:  # and with it the embedding
                module.weight += sign * step * v[block.name]
                continue
            module.weight += sign * step * v[block.name][:, :-1].T
            module.bias += sign * step * v[block.name][:, -1]
        losses.append([reference.document_loss(moved, TEXTS[i]).item() for i in USABLE])
    expected = (np.array(losses[0]) - losses[1]) / (2 * step)
    np.testing.assert_allclose(score(proxy, blocks, v)[USABLE], expected, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_normalised_scores_divide_by_the_documents_gradient_norm(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "attention")
    v = reference.random_vectors(blocks)
    expected = []
    for i in USABLE:
        gradient = reference.document_gradient(proxy, blocks, TEXTS[i])
        norm = reference.inner(gradient, gradient) ** 0.5
        expected.append(reference.inner(v, gradient) / norm)
    found = score(proxy, blocks, v, normalize=True)
    np.testing.assert_allclose(found[USABLE], expected, rtol=1e-7)
    assert np.isnan(found[2])


def test_groups_share_a_pass_and_blocks_add_up():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    vectors = {name: reference.random_vectors(blocks, seed) for seed, name in enumerate("ab")}
    scorer = InfluenceScorer(proxy, blocks, vectors)
    together = scorer.score(TEXTS)
    assert together.shape == (len(TEXTS), 2)
    for column, name in enumerate("ab"):
        np.testing.assert_allclose(
            together[:, column], score(proxy, blocks, vectors[name]), **EXACT
        )
    np.testing.assert_allclose(scorer.score_stacks(TEXTS).sum(2), together, **EXACT)


@pytest.mark.parametrize(
    ("family", "layers", "normalize"), [("llama", "all", False), ("gpt2", "all+head", True)]
)
def test_scores_do_not_depend_on_order_company_or_batch_size(family, layers, normalize):
    blocks = find_blocks(tiny.model(family), layers)
    v = reference.random_vectors(blocks)
    expected = score(tiny.proxy(family), blocks, v, normalize=normalize)
    backwards = score(tiny.proxy(family), blocks, v, TEXTS[::-1], normalize)[::-1]
    alone = [score(tiny.proxy(family), blocks, v, [text], normalize)[0] for text in TEXTS]
    small = score(tiny.proxy(family, max_batch_tokens=1), blocks, v, normalize=normalize)
    for found in (backwards, alone, small):
        np.testing.assert_allclose(found, expected, **EXACT)


COMPANY = tiny.texts([6, 15, 1, 3, 40, 100, 15, 64, 64, 33, 129, 7, 150, 64, 9], seed=1)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("layers", "normalize", "num_groups"),
    [("attention", False, 1), ("all+head", True, 1), ("all+head", True, 3), ("all", False, 3)],
)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_score_has_the_same_bits_in_any_company(
    family, layers, normalize, num_groups, num_threads
):
    proxy = tiny.proxy(family, torch.float32, context_length=64, max_batch_tokens=256)
    blocks = find_blocks(proxy.model, layers)
    vectors = {f"{i}": reference.random_vectors(blocks, i) for i in range(num_groups)}
    scorer = InfluenceScorer(proxy, blocks, vectors, normalize)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        together = scorer.score(COMPANY)
        backwards = scorer.score(COMPANY[::-1])[::-1]
        alone = np.concatenate([scorer.score([text]) for text in COMPANY])
        proxy.max_batch_tokens = 1024
        in_larger_batches = scorer.score(COMPANY)
    finally:
        torch.set_num_threads(threads_before)
    for found in (backwards, alone, in_larger_batches):
        np.testing.assert_array_equal(found, together)


@pytest.mark.parametrize(
    ("layers", "normalize", "num_groups"),
    [
        ("attention", False, 1),
        ("attention", False, 8),
        ("all+head", True, 1),
        ("all+head", True, 8),
    ],
)
def test_a_micro_batch_launches_less_than_twice_what_training_does(layers, normalize, num_groups):
    proxy = tiny.proxy("llama", torch.float32, context_length=64, max_batch_tokens=256)
    blocks = find_blocks(proxy.model, layers)
    vectors = {f"{i}": reference.random_vectors(blocks, i) for i in range(num_groups)}
    scorer = InfluenceScorer(proxy, blocks, vectors, normalize)
    documents = proxy.read(tiny.texts([64] * 4))
    found = count_launches(lambda: scorer.score(documents))
    tokens = torch.tensor([window.tokens for window in documents.windows])
    proxy.model.requires_grad_(True)
    plain = count_launches(
        lambda: proxy.model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    )
    assert found < 2 * plain


def test_micro_batches_do_not_wait_for_one_another(monkeypatch):
    proxy = tiny.proxy(max_batch_tokens=16)
    blocks = find_blocks(proxy.model, "all+head")
    vectors = {"query": reference.random_vectors(blocks)}
    scorer = InfluenceScorer(proxy, blocks, vectors, normalize=True)
    few, many = (proxy.read(tiny.texts([16] * n)) for n in (1, 8))
    waits = collections.Counter()

    def count_calls(name):
        plain = getattr(torch.Tensor, name)

        def call(self, *args, **kwargs):
            waits[name] += 1
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, call)

    # Not `__bool__`: transformers asks at the start of every forward whether windows are packed.
    for name in ("cpu", "item", "tolist", "numpy", "__float__", "__int__"):
        count_calls(name)
    scorer.score(few)
    of_few = waits.copy()
    waits.clear()
    scorer.score(many)
    assert waits == of_few
    assert waits["cpu"] > 0


@pytest.mark.parametrize("family", tiny.FAMILIES + tiny.MIXTURES)
def test_scores_do_not_depend_on_the_amount_of_padding(family):
    dtype = torch.float32 if family in tiny.MIXTURES else torch.float64
    proxy = tiny.proxy(family, dtype, context_length=64, max_batch_tokens=128)
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    short, long = tiny.texts([33, 64])  # padded to 40 alone, and to 64 together
    (alone,), (_, together) = (score(proxy, blocks, v, t) for t in ([short], [long, short]))
    np.testing.assert_allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_do_not_depend_on_how_the_tokenizer_pads_and_truncates(side):
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    expected = score(proxy, blocks, v)
    proxy.tokenizer.pad_token = "7"
    proxy.tokenizer.padding_side = proxy.tokenizer.truncation_side = side
    proxy.tokenizer.model_max_length = 4
    proxy.tokenizer.backend_tokenizer.enable_padding(direction=side, pad_id=7, pad_token="7")
    proxy.tokenizer.backend_tokenizer.enable_truncation(4, direction=side)
    np.testing.assert_array_equal(score(proxy, blocks, v), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_gpu_scores_like_the_cpu(family):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    on_device = {}
    for device in ("cpu", "cuda"):
        proxy = tiny.proxy(family, torch.float32)
        proxy.model.to(device)
        blocks = find_blocks(proxy.model, "all+head")
        v = preconditioned_query(proxy, blocks, TEXTS[:2], TEXTS)
        on_device[device] = score(proxy, blocks, v)
    scale = np.nanmax(np.abs(on_device["cpu"]))
    np.testing.assert_allclose(on_device["cuda"], on_device["cpu"], rtol=1e-4, atol=1e-4 * scale)


def test_the_same_call_gives_the_same_bits():
    proxy = tiny.proxy(dtype=torch.float32)
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    first = score(proxy, blocks, v)
    score(proxy, blocks, v, TEXTS[:2])
    np.testing.assert_array_equal(score(proxy, blocks, v), first)


class SplitProjection(nn.Module):
    """q, k and v as three linear layers that give what a fused one gives, in its layout."""

    def __init__(self, weight, bias, heads):
        super().__init__()
        width = weight.shape[1]
        self.heads = heads
        self.parts = nn.ModuleDict({name: nn.Linear(width, width) for name in "qkv"})
        if heads is None:
            rows = torch.arange(3 * width).view(3, width)
        else:
            rows = torch.arange(3 * width).view(heads, 3, -1).transpose(0, 1).reshape(3, width)
        for part, chosen in zip(self.parts.values(), rows, strict=True):
            part.weight.data, part.bias.data = weight[chosen], bias[chosen]

    def forward(self, x):
        parts = [part(x) for part in self.parts.values()]
        if self.heads is None:
            return torch.cat(parts, -1)
        by_head = [p.unflatten(-1, (self.heads, -1)) for p in parts]
        return torch.stack(by_head, -2).flatten(-3)


@pytest.mark.parametrize(
    ("family", "name", "heads"), [("gpt2", "c_attn", None), ("gpt_neox", "query_key_value", 4)]
)
def test_fused_projections_score_like_split_ones(family, name, heads):
    fused = tiny.proxy(family)
    split_model = copy.deepcopy(fused.model)
    for path, module in list(split_model.named_modules()):
        if path.endswith(name):
            weight = module.weight if heads else module.weight.T
            split = SplitProjection(weight.data, module.bias.data, heads)
            split_model.set_submodule(path, split)
    split = Proxy(split_model, fused.tokenizer, 16, 4, 64)
    found = []
    for proxy in (fused, split):
        blocks = find_blocks(proxy.model, "attention")
        assert len(blocks) == 8
        found.append(score(proxy, blocks, preconditioned_query(proxy, blocks, TEXTS[:2], TEXTS)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7)


def test_phi3_scores_like_a_llama_of_the_same_weights():
    phi, llama = tiny.proxy("phi3"), tiny.proxy("llama")
    state = phi.model.state_dict()
    renamed = {}
    for name, tensor in state.items():
        if "qkv_proj" in name:
            for part, rows in zip("qkv", tensor.split([16, 8, 8]), strict=True):
                renamed[name.replace("qkv_proj", f"{part}_proj")] = rows
        elif "gate_up_proj" in name:
            for part, rows in zip(("gate", "up"), tensor.split([24, 24]), strict=True):
                renamed[name.replace("gate_up", part)] = rows
        else:
            renamed[name] = tensor
    llama.model.load_state_dict(renamed)
    found = []
    for proxy in (phi, llama):
        blocks = find_blocks(proxy.model, "all")
        found.append(score(proxy, blocks, preconditioned_query(proxy, blocks, TEXTS[:2], TEXTS)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-7)


def test_bfloat16_ranks_like_float64():
    texts = tiny.texts([12] * 40)
    blocks = find_blocks(tiny.model("gpt2"), "all+head")
    v = reference.random_vectors(blocks)
    exact = score(tiny.proxy("gpt2"), blocks, v, texts)
    rounded = score(tiny.proxy("gpt2", torch.bfloat16), blocks, v, texts)
    assert np.corrcoef(exact, rounded)[0, 1] > 0.999


def test_documents_of_no_token_and_of_one_are_nan_and_of_two_are_scored():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    found = score(proxy, blocks, v, ["", "5", "5 9"])
    expected = reference.inner(v, reference.document_gradient(proxy, blocks, "5 9"))
    np.testing.assert_allclose(found, [np.nan, np.nan, expected], rtol=1e-7)
    assert np.isnan(score(proxy, blocks, v, ["", "5"])).all()
    assert score(proxy, blocks, v, []).shape == (0,)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_last_window_of_one_token_counts_for_nothing(normalize):
    proxy = tiny.proxy(context_length=16)
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    (longer,) = tiny.texts([33])
    found = score(proxy, blocks, v, [longer, longer.rsplit(" ", 1)[0]], normalize)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], found[1], **EXACT)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_score_that_is_not_finite_is_nan_and_spoils_no_other(dtype, normalize):
    proxy = tiny.proxy(dtype=dtype)
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    proxy.model.get_input_embeddings().weight[7] = torch.inf
    found = score(proxy, blocks, v, ["1 2 3", "1 7 3"], normalize)
    (alone,) = score(proxy, blocks, v, ["1 2 3"], normalize)
    np.testing.assert_allclose(found, [alone, np.nan], rtol=1e-5)
    assert np.isfinite(alone)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_overflows_scores_nan(dtype, normalize):
    proxy = tiny.proxy(dtype=dtype)
    for layer in proxy.model.model.layers:
        layer.mlp.gate_proj.weight *= 1e38
        layer.mlp.up_proj.weight *= 1e38
    blocks = find_blocks(proxy.model)
    assert np.isnan(
        score(proxy, blocks, reference.random_vectors(blocks), normalize=normalize)
    ).all()


def test_a_norm_that_overflows_is_no_norm():
    proxy = tiny.proxy(dtype=torch.float32)
    proxy.model.lm_head.weight.mul_(1e30)
    blocks = find_blocks(proxy.model)
    v = reference.random_vectors(blocks)
    assert np.isfinite(score(proxy, blocks, v, ["3 4 5 6"])).all()
    assert np.isnan(score(proxy, blocks, v, ["3 4 5 6"], normalize=True)).all()


def test_blocks_of_opposite_infinities_score_nan_without_a_warning(monkeypatch):
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    scorer = InfluenceScorer(proxy, blocks, {"query": reference.random_vectors(blocks)})
    by_block = np.array([[[np.inf, -np.inf]], [[1.0, 2.0]]])
    monkeypatch.setattr(scorer, "score_stacks", lambda texts: by_block)
    np.testing.assert_array_equal(scorer.score(["3 4", "5 6"]), [[np.nan], [3]])


def counting(start, step, length=14):
    return " ".join(str((start + step * i) % tiny.VOCABULARY) for i in range(length))


def train(model, proxy, texts, steps, rate):
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(reference.document_loss(proxy, text) for text in texts).div(len(texts)).backward()
        optimizer.step()
    model.requires_grad_(False)


def test_what_scores_high_lowers_the_query_loss():
    """Plants a helpful cluster that counts up like the query, and a harmful one that counts down."""
    query = [counting(start, 1) for start in (3, 14, 25)]
    helpful = [counting(start, 1) for start in range(8)]
    harmful = [counting(start, -1) for start in range(8)]
    noise = tiny.texts([14] * 8)
    proxy = tiny.proxy()
    mixed = [counting(start, step) for start in (9, 20) for step in (1, -1)]
    train(proxy.model, proxy, mixed + tiny.texts([14] * 4, seed=1), steps=5, rate=0.3)
    blocks = find_blocks(proxy.model, "all")
    corpus = helpful + harmful + noise
    scores = score(proxy, blocks, preconditioned_query(proxy, blocks, query, corpus), corpus)
    up, down, rest = scores[:8], scores[8:16], scores[16:]
    assert up.min() > max(0, down.max(), rest.max())
    assert down.mean() < 0

    def query_loss(model):
        own = Proxy(model, proxy.tokenizer, 16)
        return np.mean([reference.document_loss(own, text).item() for text in query])

    def loss_after_a_step(texts):
        model = copy.deepcopy(proxy.model)
        train(model, Proxy(model, proxy.tokenizer, 16), texts, steps=1, rate=0.05)
        return query_loss(model)

    assert loss_after_a_step(helpful) < query_loss(proxy.model) < loss_after_a_step(harmful)


def test_refuses_vectors_of_another_model():
    blocks = find_blocks(tiny.model())
    good = reference.random_vectors(blocks)
    with pytest.raises(ValueError, match="at least one"):
        InfluenceScorer(tiny.proxy(), blocks, {})
    with pytest.raises(ValueError, match="no vector for block"):
        InfluenceScorer(tiny.proxy(), blocks, {"query": {}})
    wrong = {**good, blocks[0].name: torch.zeros(2, 2)}
    with pytest.raises(ValueError, match="made with another model"):
        InfluenceScorer(tiny.proxy(), blocks, {"query": wrong})
