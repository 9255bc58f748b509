"""What is close to an item, held to a plain comparison of all pairs."""

import numpy as np
import pytest

from beam_quad.selection import paraphrases
from beam_quad.selection.paraphrases import LEAST_COSINE, Cosines, nearest_items, word_share


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def unit(rng, number):
    vectors = rng.normal(size=(number, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_nearest_item_is_that_of_all_pairs_however_many_are_compared_at_once(rng, monkeypatch):
    monkeypatch.setattr(paraphrases, "_ROWS_AT_ONCE", 7)
    vectors, items = unit(rng, 50), unit(rng, 9)
    nearest, cosines = nearest_items(vectors, items)
    for at, vector in enumerate(vectors):
        own = [float(vector @ item) for item in items]
        assert nearest[at] == int(np.argmax(own))
        assert cosines[at] == pytest.approx(max(own), abs=1e-6)


def test_nearly_all_documents_are_below_the_threshold_whatever_the_parts(rng):
    # An encoder by which all texts are alike.
    cosines = rng.uniform(0.7, 0.95, 10_000)
    parts = Cosines.of(cosines[:300]) + Cosines.of(cosines[300:])
    threshold = parts.threshold()
    assert threshold == Cosines.of(cosines).threshold()
    assert 0.985 < (cosines < threshold).mean() < 0.995


def test_a_corpus_far_from_all_items_has_no_lower_threshold(rng):
    assert Cosines.of(rng.uniform(-1, 0.5, 1000)).threshold() == LEAST_COSINE
    assert Cosines.of(np.zeros(0)).threshold() == LEAST_COSINE


def test_words_count_once_in_any_order_and_case():
    assert word_share("Dog lazy; the THE fox", "the lazy dog, the quick dog") == 0.75
    assert word_share("anything", "...") == 0
