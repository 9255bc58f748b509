import itertools

import pytest
import torch

from beam_quad.errors import IntegrityError
from beam_quad.gradients.descent import descend
from tests.gradients import tiny
from tests.scoring import reference

TEXTS = tiny.texts([6, 40, 25, 16, 31])


def steps(proxy, number=3, rate=1e-2):
    return [(rate, proxy.read(TEXTS[first : first + 3])) for first in range(number)]


def parameters(proxy):
    return list(proxy.model.parameters())


def test_workers_take_the_steps_that_one_thread_takes_and_their_number_changes_no_bit():
    ends = []
    for num_workers in (None, 1, 3):
        proxy = tiny.proxy()
        proxy.max_batch_tokens = 32  # several micro-batches
        ends.append(parameters(descend(proxy, steps(proxy), num_workers=num_workers)))
    for alone, one, three in zip(*ends, strict=True):
        torch.testing.assert_close(alone, one, **tiny.CLOSE)
        assert torch.equal(one, three)


def test_the_threads_of_torch_are_those_of_before():
    before = torch.get_num_threads()
    proxy = tiny.proxy()
    descend(proxy, steps(proxy, 1), num_workers=2)
    assert torch.get_num_threads() == before


def test_the_observed_loss_is_the_mean_of_the_texts_mean_losses_and_changes_no_step():
    proxy = tiny.proxy()
    losses = []
    watched = parameters(descend(proxy, steps(proxy), observe=losses.append))
    means = [reference.document_loss(proxy, text).item() for text in TEXTS[:3]]
    assert losses[0] == pytest.approx(sum(means) / 3, rel=1e-5)
    assert len(losses) == 3
    plain = parameters(descend(proxy, steps(proxy)))
    assert all(itertools.starmap(torch.equal, zip(watched, plain, strict=True)))


def test_weight_decay_shrinks_what_no_step_moves():
    proxy = tiny.proxy()
    kept, shrunk = (
        parameters(descend(proxy, steps(proxy, 1, 1e-3), weight_decay=decay))
        for decay in (0.0, 0.1)
    )
    before = parameters(proxy)
    for old, a, b in zip(before, kept, shrunk, strict=True):
        torch.testing.assert_close(a - b, 1e-4 * old, rtol=1e-2, atol=1e-7)


def test_a_gradient_that_is_not_finite_is_refused():
    proxy = tiny.proxy()
    with torch.no_grad():
        parameters(proxy)[0].fill_(float("inf"))
    with pytest.raises(IntegrityError, match=r"not finite in step 0 .* lower the learning rate"):
        descend(proxy, steps(proxy))
