import numpy as np
import pytest
import torch
from torch import nn

from beam_quad import errors
from beam_quad.gradients import find_blocks, passes, windows
from beam_quad.gradients import proxy as gradients_proxy
from beam_quad.scoring import InfluenceScorer, query_gradient
from tests.gradients import tiny
from tests.gradients.tiny import EXACT


def _record_pass(proxy, modules, ids, length):
    seen = {}
    (batch,) = windows.micro_batches([windows.Window(0, 0, ids)], length, 64)
    weights = passes.token_weights(batch, torch.ones(1, dtype=torch.float64), proxy)
    passes.backward(proxy, modules, batch, weights, lambda name, a, g: seen.update({name: (a, g)}))
    return seen


def test_padding_changes_nothing_and_gets_no_gradient():
    proxy = tiny.proxy()
    name = "model.layers.0.self_attn.v_proj"
    ids = [4, 8, 15, 16, 23]
    bare, padded = (_record_pass(proxy, [name], ids, length)[name] for length in (5, 16))
    for exact, loose in zip(bare, padded, strict=True):
        assert loose.shape[1] == 8
        torch.testing.assert_close(loose[:, :5], exact, **EXACT)
    assert not padded[1][:, 4:].any()  # nor does the last token, which predicts nothing


def test_nothing_below_the_lowest_tracked_layer_is_differentiated():
    proxy = tiny.proxy()
    graphs = []
    low = proxy.model.get_submodule("model.layers.0.mlp.down_proj")
    low.register_forward_hook(lambda m, i, output: graphs.append(output.requires_grad))
    _record_pass(proxy, ["model.layers.1.self_attn.q_proj"], [1, 2, 3], 16)
    _record_pass(proxy, ["model.layers.0.self_attn.q_proj"], [1, 2, 3], 16)
    assert graphs == [False, True]
    assert all(p.grad is None for p in proxy.model.parameters())


def _groups(proxy, layers="regex:layers.1"):
    groups = passes.input_groups(proxy, find_blocks(proxy.model, layers))
    assert all(group[0].module == name for name, group in groups.items())
    return [[block.name.rpartition(".")[2] for block in group] for group in groups.values()]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", "q_proj k_proj v_proj, o_proj, gate_proj up_proj, down_proj"),
        ("qwen2", "q_proj k_proj v_proj, o_proj, gate_proj up_proj, down_proj"),
        ("phi3", "o_proj, q k v, gate up, down_proj"),
        ("cohere", "q_proj k_proj v_proj gate_proj up_proj, o_proj, down_proj"),
    ],
)
def test_modules_that_are_given_the_same_tensor_are_one_group(family, expected):
    assert _groups(tiny.proxy(family)) == [group.split() for group in expected.split(", ")]


def test_a_bias_or_a_change_in_place_is_another_input():
    proxy = tiny.proxy()
    attention = proxy.model.model.layers[1].self_attn
    attention.v_proj = nn.Linear(16, 8, dtype=torch.float64)
    assert _groups(proxy, "last:1") == [["q_proj", "k_proj"], ["v_proj"], ["o_proj"]]

    def double(module, inputs):
        inputs[0].mul_(2)

    attention.k_proj.register_forward_pre_hook(double)
    assert _groups(proxy, "last:1") == [["q_proj"], ["k_proj"], ["v_proj"], ["o_proj"]]


@pytest.mark.parametrize(
    ("is_called", "reason"),
    [
        (False, "texts do not pass through it"),
        (True, r"is called with \(1, 1, 16\) for 1 x 2 tokens"),
    ],
)
def test_a_module_that_does_not_see_every_token_is_refused(is_called, reason):
    proxy = tiny.proxy()
    attention = proxy.model.model.layers[1].self_attn
    attention.spare_proj = nn.Linear(16, 16, dtype=torch.float64)

    def call(module, inputs):
        attention.spare_proj(inputs[0][:, 1:])

    if is_called:
        attention.o_proj.register_forward_pre_hook(call)
    blocks = find_blocks(proxy.model, "last:1")
    message = rf"spare_proj is tracked, but {reason}.*; choose other layers with --layers regex:"
    with pytest.raises(errors.UsageError, match=message):
        passes.input_groups(proxy, blocks)
    with pytest.raises(errors.UsageError, match="spare_proj is tracked"):
        _record_pass(proxy, [block.module for block in blocks], [1, 2, 3], 16)


def test_hooks_are_removed_even_after_an_error():
    proxy = tiny.proxy()
    with pytest.raises(IndexError):
        _record_pass(proxy, ["model.layers.0.self_attn.q_proj"], [1, 99], 16)
    assert not proxy.model.get_submodule("model.layers.0.self_attn.q_proj")._forward_hooks


@pytest.mark.parametrize("is_real", [False, True])
def test_memory_that_runs_out_halves_the_batch_for_this_call_only(is_real):
    proxy = tiny.proxy(max_batch_tokens=64)
    tried = []

    def compute(max_batch_tokens):
        tried.append(max_batch_tokens)
        if max_batch_tokens > 16:
            if is_real:
                torch.empty(1 << 60, dtype=torch.uint8)
            raise torch.OutOfMemoryError
        return "done"

    assert passes.with_halving(proxy, compute) == "done"
    assert tried == [64, 32, 16]
    assert proxy.num_halvings == 2
    assert proxy.max_batch_tokens == 64


def test_a_scorer_remembers_the_batch_that_fitted_and_sums_do_not(monkeypatch):
    proxy = tiny.proxy(max_batch_tokens=64)
    texts = tiny.texts([12, 12, 12])
    blocks = find_blocks(proxy.model)
    vectors = {"group": {b.name: torch.ones(b.shape, dtype=torch.float64) for b in blocks}}
    scorer = InfluenceScorer(proxy, blocks, vectors)
    whole = scorer.score(texts)
    with_memory = passes.backward

    def backward(proxy, modules, batch, *rest):
        if batch.tokens.numel() > 16:
            raise torch.OutOfMemoryError
        with_memory(proxy, modules, batch, *rest)

    monkeypatch.setattr(passes, "backward", backward)
    for _ in range(3):
        np.testing.assert_array_equal(scorer.score(texts), whole)
    assert proxy.num_halvings == 2
    for number in (4, 6):
        query_gradient(proxy, blocks, texts)
        assert proxy.num_halvings == number


def test_an_error_of_another_kind_is_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="shape"):
        passes.with_halving(tiny.proxy(), lambda _: torch.zeros(2).view(3))


def test_a_large_vocabulary_makes_small_batches(monkeypatch):
    proxy = tiny.proxy(max_batch_tokens=64)
    monkeypatch.setitem(gradients_proxy._LOGIT_ENTRIES, "cpu", 20 * tiny.VOCABULARY)
    windows = proxy.read(tiny.texts([8, 8, 8, 8, 8])).windows
    sizes = [batch.tokens.numel() for batch in proxy.micro_batches(windows, 64)]
    assert max(sizes) == 16
    assert sum(sizes) == 40


def test_a_module_that_is_called_twice_is_refused_by_name():
    proxy = tiny.proxy()
    proxy.model.model.layers[1] = proxy.model.model.layers[0]
    with pytest.raises(errors.UsageError, match=r"layers\.0\.self_attn\.q_proj .* more than once"):
        _record_pass(proxy, ["model.layers.0.self_attn.q_proj"], [1, 2, 3], 16)


def test_memory_that_is_too_small_is_said():
    def compute(max_batch_tokens):
        raise torch.OutOfMemoryError

    with pytest.raises(errors.UsageError, match="does not fit into the memory of cpu"):
        passes.with_halving(tiny.proxy(), compute)
