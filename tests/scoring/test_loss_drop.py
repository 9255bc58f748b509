import numpy as np
import pytest

from beam_quad.gradients import Tuning, tune
from beam_quad.scoring import LossDropScorer
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


def test_proxies_that_cut_texts_differently_are_refused():
    with pytest.raises(ValueError, match="different tokens"):
        LossDropScorer(tiny.proxy(), tiny.proxy(context_length=8))
