import numpy as np
import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import Tuning, passes, tune
from tests.gradients import tiny
from tests.scoring import reference

TEXTS = tiny.texts([6, 90, 1, 25, 16])
ONE_STEP = Tuning(epochs=1, learning_rate=1e-3, batch_texts=len(TEXTS))


def parameters(proxy):
    return {name: p.detach().clone() for name, p in proxy.model.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_first_step_is_adams_on_the_mean_of_the_texts_mean_losses(family):
    proxy = tiny.proxy(family)
    before = parameters(proxy)
    after = parameters(tune(proxy, TEXTS, ONE_STEP))
    proxy.model.requires_grad_(True)
    usable = [text for text in TEXTS if len(text.split()) > 1]
    sum(reference.document_loss(proxy, text) / len(usable) for text in usable).backward()
    torch.nn.utils.clip_grad_norm_(list(proxy.model.parameters()), 1.0)
    for name, parameter in proxy.model.named_parameters():
        # Both moments of one gradient, corrected for their bias, are the gradient and its square.
        step = parameter.grad / (parameter.grad.abs() + 1e-8)
        # Beside eps, a gradient of rounding alone counts.
        is_clear = parameter.grad.abs() > 1e-6
        expected = before[name] - 1e-3 * step
        np.testing.assert_allclose(after[name][is_clear], expected[is_clear], rtol=1e-6, atol=1e-9)
        assert is_clear.any()


def test_the_loss_of_the_texts_falls_and_the_proxy_stays_as_it_is():
    proxy = tiny.proxy()
    before = parameters(proxy)
    tuned = tune(proxy, TEXTS, Tuning(epochs=3, learning_rate=1e-2))
    losses = [reference.document_loss(own, TEXTS[1]).item() for own in (proxy, tuned)]
    assert losses[1] < losses[0] - 0.1
    for name, parameter in proxy.model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert not any(p.requires_grad or p.grad is not None for p in tuned.model.parameters())


def test_the_order_of_the_texts_and_the_size_of_a_micro_batch_change_nothing():
    recipe = Tuning(epochs=2, learning_rate=1e-3, batch_texts=2)
    plain = parameters(tune(tiny.proxy(), TEXTS, recipe))
    other = parameters(tune(tiny.proxy(max_batch_tokens=1), TEXTS[::-1], recipe))
    for name, parameter in plain.items():
        np.testing.assert_allclose(other[name], parameter, rtol=1e-5, atol=1e-7)
    drawn = parameters(tune(tiny.proxy(), TEXTS, Tuning(2, 1e-3, 2, seed=1)))
    assert any(not torch.equal(drawn[name], parameter) for name, parameter in plain.items())


def test_bfloat16_is_tuned_in_float32_and_keeps_its_dtype_and_its_buffers():
    proxy = tiny.proxy(dtype=torch.float32)
    for parameter in proxy.model.parameters():
        parameter.data = parameter.data.bfloat16()
    # Steps far below what a single one moves in bfloat16, 2**-9 of a weight.
    tuned = tune(proxy, TEXTS, Tuning(epochs=60, learning_rate=2e-4, batch_texts=8))
    assert tuned.dtype == torch.bfloat16
    moved = [
        (a != b).float().mean().item()
        for a, b in zip(tuned.model.parameters(), proxy.model.parameters(), strict=True)
    ]
    assert np.mean(moved) > 0.5
    for buffer, own in zip(tuned.model.buffers(), proxy.model.buffers(), strict=True):
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, own)


def test_memory_that_runs_out_does_not_count_a_text_twice(monkeypatch):
    plain = parameters(tune(tiny.proxy(), TEXTS, ONE_STEP))
    logits, calls = passes.logits, []

    def fail_once(proxy, batch):
        calls.append(len(batch.tokens))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("not enough")
        return logits(proxy, batch)

    monkeypatch.setattr(passes, "logits", fail_once)
    other = parameters(tune(tiny.proxy(), TEXTS, ONE_STEP))
    assert len(calls) > 3
    for name, parameter in plain.items():
        np.testing.assert_allclose(other[name], parameter, rtol=1e-4, atol=1e-7)


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(errors.UsageError, match="at least 2 tokens"):
        tune(tiny.proxy(), ["1", ""])
    with pytest.raises(ValueError, match="epochs and batch_texts"):
        Tuning(epochs=0)
    with pytest.raises(ValueError, match="learning_rate"):
        Tuning(learning_rate=0)
    broken = tiny.proxy()
    next(broken.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(errors.IntegrityError, match="lower the learning rate"):
        tune(broken, TEXTS)
