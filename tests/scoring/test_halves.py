import math

import numpy as np
import pytest
from scipy import stats

from beam_quad.scoring.halves import agreement, deal_halves, half_shares, halves_agreement


def test_every_text_is_dealt_to_one_half_in_turns_whatever_the_order():
    texts = [f"text {i}" for i in range(31)]
    first, second = deal_halves(texts, 0)
    assert sorted(first + second) == sorted(texts)
    assert (len(first), len(second)) == (16, 15)
    turned = deal_halves(texts[::-1], 0)
    assert [sorted(half) for half in turned] == [sorted(first), sorted(second)]
    # Not the texts as they stand in turns: neighbours, which are often alike, fall anywhere.
    assert sorted(first) != sorted(texts[::2])


def test_parts_of_a_single_text_take_turns():
    assert [deal_halves(["text"], part) for part in range(3)] == [
        [["text"], []],
        [[], ["text"]],
        [["text"], []],
    ]


def test_shares_are_of_the_texts_of_both_halves():
    assert half_shares({"a:0": 3, "a:1": 1}) == {"a:0": 0.75, "a:1": 0.25}
    assert half_shares({"a:0": 0, "a:1": 4}) == {"a:1": 1.0}


def test_agreement_is_spearmans_over_what_is_finite_in_both():
    generator = np.random.default_rng(0)
    left = generator.normal(size=30)
    right = np.exp(left) + generator.normal(size=30)
    ranks = [stats.rankdata(column) for column in (left, right)]
    expected = np.corrcoef(ranks)[0, 1]
    assert agreement(left, right) == pytest.approx(expected)
    assert 0 < expected < 1
    with_nan = np.append(left, [math.nan, 5.0]), np.append(right, [9.0, math.inf])
    assert agreement(*with_nan) == pytest.approx(expected)


def test_what_does_not_vary_agrees_with_nothing():
    assert agreement(np.ones(5), np.arange(5.0)) is None
    assert agreement(np.zeros(0), np.zeros(0)) is None


def test_each_target_is_compared_under_its_own_halves():
    up, down = np.arange(6.0), -np.arange(6.0)
    targets = {
        "law": {"halves": ["law:0", "law:1"]},
        "code": {"halves": ["code:1"]},
        "math": {"halves": ["math:0", "math:1"]},
    }
    scores = np.stack([up, up**3, down, up, down], axis=1)
    found = halves_agreement(targets, scores)
    assert found == {"law": pytest.approx(1.0), "code": None, "math": pytest.approx(-1.0)}
