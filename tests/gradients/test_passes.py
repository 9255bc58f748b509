import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import passes, windows
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


def test_hooks_are_removed_even_after_an_error():
    proxy = tiny.proxy()
    with pytest.raises(IndexError):
        _record_pass(proxy, ["model.layers.0.self_attn.q_proj"], [1, 99], 16)
    assert not proxy.model.get_submodule("model.layers.0.self_attn.q_proj")._forward_hooks


def test_memory_that_runs_out_halves_the_batch_for_this_call_only():
    proxy = tiny.proxy(max_batch_tokens=64)
    tried = []

    def compute(max_batch_tokens):
        tried.append(max_batch_tokens)
        if max_batch_tokens > 16:
            raise torch.OutOfMemoryError
        return "done"

    assert passes.with_halving(proxy, compute) == "done"
    assert tried == [64, 32, 16]
    assert proxy.num_halvings == 2
    assert proxy.max_batch_tokens == 64


def test_memory_that_is_too_small_is_said():
    def compute(max_batch_tokens):
        raise torch.OutOfMemoryError

    with pytest.raises(errors.UsageError, match="does not fit into the memory of cpu"):
        passes.with_halving(tiny.proxy(), compute)
