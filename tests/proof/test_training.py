import itertools

import numpy as np
import pytest
import torch

from beam_quad import errors, proof
from beam_quad.proof import Recipe
from tests.gradients import tiny
from tests.scoring import reference

TEXTS = tiny.texts([30, 90, 12, 25, 16])
RECIPE = Recipe(num_tokens=400, window=16, batch_windows=2, learning_rate=1e-2)


def parameters(proxy):
    return [p.detach().clone() for p in proxy.model.parameters()]


def test_the_same_training_ends_in_the_same_bits():
    first, second = (parameters(proof.continue_training(tiny.proxy(), TEXTS, RECIPE)) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_loss_of_what_is_trained_on_falls_and_the_proxy_stays_as_it_is():
    proxy = tiny.proxy()
    before = parameters(proxy)
    losses = [
        proof.measure(each, TEXTS).mean
        for each in (proxy, proof.continue_training(proxy, TEXTS, RECIPE))
    ]
    assert losses[1] < losses[0] - 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(proxy), strict=True))


def test_the_first_step_is_that_of_the_mean_loss_of_packed_tokens():
    """Windows hold the texts' tokens one after the other, whatever text they are of."""
    recipe = Recipe(num_tokens=32, window=16, batch_windows=2, learning_rate=1e-3)
    proxy = tiny.proxy()
    after = parameters(proof.continue_training(proxy, TEXTS[:2], recipe))
    stream = [token for text in TEXTS[:2] for token in proxy.tokenizer(text)["input_ids"]]
    before = parameters(proxy)
    proxy.model.requires_grad_(True)
    windows = torch.tensor(stream[:32]).view(2, 16)
    proxy.model(input_ids=windows, labels=windows).loss.backward()
    trained = list(proxy.model.parameters())
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    for old, new, parameter in zip(before, after, trained, strict=True):
        step = parameter.grad / (parameter.grad.abs() + 1e-8)
        is_clear = parameter.grad.abs() > 1e-6
        expected = old - recipe.rate(0) * step
        np.testing.assert_allclose(new[is_clear], expected[is_clear], rtol=1e-5, atol=1e-8)


def test_the_order_of_a_seed_is_that_of_the_texts_whatever_order_they_come_in():
    keys = proof.fingerprints(TEXTS)
    order = proof.training_order(1, keys)
    np.testing.assert_array_equal(proof.training_order(1, keys[::-1]), 4 - order)
    orders = {tuple(proof.training_order(seed, keys)) for seed in range(20)}
    assert len(orders) > 10


def test_the_measured_losses_are_those_of_each_text_by_itself():
    proxy = tiny.proxy()
    texts = [*TEXTS, tiny.texts([1])[0]]
    found = proof.measure(proxy, texts)
    means = [reference.document_loss(proxy, text).item() for text in TEXTS]
    np.testing.assert_allclose(found.sums[:-1] / found.counts[:-1], means, rtol=1e-5)
    assert found.counts[-1] == found.sums[-1] == 0


def test_the_rate_warms_up_to_its_peak_and_decays_to_a_tenth():
    recipe = Recipe(num_tokens=64_000, window=64, batch_windows=10, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(recipe.num_steps)]
    assert recipe.num_steps == 100
    assert max(rates) == 1.0 == rates[4]
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_every_pass_reads_the_same_windows_in_an_order_of_its_own(monkeypatch):
    read = []

    def descend(proxy, steps, betas):
        read.extend([list(window.tokens) for window in batch.windows] for _, batch in steps)
        return proxy

    monkeypatch.setattr("beam_quad.proof.training.descend", descend)
    proxy, once = tiny.proxy(), Recipe(160, 16, 2)
    proof.continue_training(proxy, TEXTS, once)
    single, read[:] = list(itertools.chain(*read)), []
    proof.continue_training(proxy, TEXTS, Recipe(160, 16, 2, num_passes=3))
    windows = list(itertools.chain(*read))
    assert len(read) == 15
    passes = [windows[at : at + 10] for at in (0, 10, 20)]
    assert passes[0] == single
    assert len({str(one) for one in passes}) == 3
    assert all(sorted(one) == sorted(single) for one in passes)


@pytest.mark.parametrize(
    ("num_tokens", "num_parameters", "num_passes"),
    [(2_000_000, 100_000_000, 4), (2_000_000, 100_000, 1), (2_000_000, 150_000, 2)],
)
def test_from_scratch_tokens_are_read_until_there_are_20_a_parameter_or_4_times(
    num_tokens, num_parameters, num_passes
):
    recipe = Recipe.from_scratch(num_tokens, 2048, 1e-3, num_parameters)
    assert recipe.num_passes == num_passes
    assert recipe.num_steps == num_passes * recipe.steps_of_a_pass
    assert recipe.steps_of_a_pass * recipe.batch_windows * 512 == pytest.approx(
        num_tokens, rel=1e-3
    )


def test_the_rate_from_scratch_is_that_of_kaplan_and_others():
    # Of their equation D.1, by hand.
    assert proof.default_learning_rate(1_000_000) == pytest.approx(1.3117e-3, rel=1e-4)
    assert proof.default_learning_rate(10**9) == pytest.approx(3.481e-4, rel=1e-3)
    assert proof.default_learning_rate(10**12) == 1e-4
    assert proof.default_learning_rate(None) == Recipe(1, 2, 1).learning_rate


@pytest.mark.parametrize("num_tokens", [100, 100_000, 10_000_000])
def test_a_proof_takes_about_200_steps_if_it_has_tokens_for_them(num_tokens):
    recipe = Recipe.of(num_tokens, 2048, 1e-3)
    assert recipe.window == 512
    assert recipe.num_steps * recipe.batch_windows * recipe.window <= max(1.01 * num_tokens, 512)
    assert recipe.num_steps <= 250


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(errors.UsageError, match="has a token"):
        proof.continue_training(tiny.proxy(), [], RECIPE)
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        Recipe(1, 2, 1, 0)
    with pytest.raises(ValueError, match="window at least 2, got 1, 1, 1 and 1"):
        Recipe(1, 1, 1)
