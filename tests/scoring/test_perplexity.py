import numpy as np

from beam_quad.scoring import PerplexityScorer
from tests.gradients import tiny
from tests.gradients.tiny import EXACT
from tests.scoring import reference

TEXTS = tiny.texts([6, 90, 1, 25, 16])


def test_scores_are_mean_losses_over_windows():
    proxy = tiny.proxy()
    expected = [
        reference.document_loss(proxy, t).item() if len(t.split()) > 1 else np.nan for t in TEXTS
    ]
    found = PerplexityScorer(proxy).score(TEXTS)
    assert found.shape == (5, 1)
    np.testing.assert_allclose(found[:, 0], expected, **EXACT)


def test_scores_do_not_depend_on_the_batches():
    whole = PerplexityScorer(tiny.proxy()).score(TEXTS)
    one_by_one = PerplexityScorer(tiny.proxy(max_batch_tokens=1)).score(TEXTS)
    np.testing.assert_allclose(one_by_one, whole, **EXACT)
