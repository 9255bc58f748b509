import numpy as np
import pytest
import torch

from beam_quad import seeding
from beam_quad.errors import IntegrityError, UsageError
from beam_quad.gradients import Tuning, tune
from beam_quad.scoring import LossDropScorer, loss_drop, tune_on_query
from tests.gradients import tiny
from tests.gradients.tiny import EXACT
from tests.scoring import reference

TEXTS = tiny.texts([6, 90, 1, 25, 16])


def test_scores_are_falls_of_the_mean_loss():
    proxy = tiny.proxy()
    tuned = tune(proxy, TEXTS[:2], Tuning(epochs=1, learning_rate=1e-3))
    before, after = (
        [
            reference.document_loss(own, t).item() if len(t.split()) > 1 else np.nan
            for t in TEXTS
        ]
        for own in (proxy, tuned)
    )  # fmt: skip
    scorer = LossDropScorer(proxy, tuned)
    found = scorer.score(scorer.prepare(TEXTS))
    assert found.shape == (5, 1)
    np.testing.assert_allclose(found[:, 0], np.subtract(before, after), **EXACT)


def test_the_kind_of_text_that_the_proxy_is_tuned_on_has_the_highest_score():
    proxy = tiny.proxy()
    rising, falling = ("1 2 3 4 5 6 7 8", "8 7 6 5 4 3 2 1")
    scorer = LossDropScorer(proxy, tune(proxy, [rising], Tuning(epochs=5, learning_rate=1e-3)))
    up, down = scorer.score([rising + " 9", falling + " 9"])[:, 0]
    assert up > max(down, 0)


@pytest.mark.parametrize("rates", [(1e-4, 1e-3, 1e-2), (1e-4, 3e-3, 3.0)])
def test_the_query_set_is_tuned_on_at_the_last_rate_that_lowers_the_loss_held_out(rates):
    # Texts that count up from 1 to 8, of which others tell something.
    proxy = tiny.proxy()
    query = [*(" ".join(str(start + i) for i in range(10)) for start in range(1, 9)), "1"]
    # By hash, of the texts that have a loss.
    order = seeding.lowest(0, "tune held out", seeding.keys(query[:8]))
    held_out, others = [query[i] for i in order[:2]], [query[i] for i in order[2:]]
    losses = [
        np.mean([reference.document_loss(tune(proxy, others, Tuning(learning_rate=rate)), t).item() for t in held_out])
        for rate in rates
    ]  # fmt: skip
    assert losses[1] < losses[0]
    best = 0
    while best + 1 < len(rates) and losses[best + 1] < losses[best]:
        best += 1
    found = tune_on_query(proxy, query, rates=rates)
    expected = tune(proxy, query, Tuning(learning_rate=rates[best]))
    for own, its in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(own, its)


def test_a_rate_at_which_the_proxy_diverges_is_not_taken(monkeypatch):
    proxy, query = tiny.proxy(), tiny.texts([20] * 8)

    def diverge(own, texts, tuning):
        if tuning.learning_rate > 1e-3:
            raise IntegrityError("the gradient of tuning is not finite")
        return tune(own, texts, tuning)

    monkeypatch.setattr(loss_drop, "tune", diverge)
    found = tune_on_query(proxy, query, rates=(1e-3, 1e-2))
    expected = tune(proxy, query, Tuning(learning_rate=1e-3))
    for own, its in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(own, its)


def test_a_query_set_too_small_to_hold_a_text_out_is_tuned_on_at_the_lowest_rate():
    proxy, query = tiny.proxy(), tiny.texts([20, 30])
    found, expected = (
        tune_on_query(proxy, query, rates=(1e-3, 1e-2)),
        tune(proxy, query, Tuning(learning_rate=1e-3)),
    )
    for own, its in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(own, its)
    with pytest.raises(UsageError, match="at least 2 tokens"):
        tune_on_query(proxy, ["1"])


def test_proxies_that_cut_texts_differently_are_refused():
    with pytest.raises(ValueError, match="different tokens"):
        LossDropScorer(tiny.proxy(), tiny.proxy(context_length=8))
