import math

import numpy as np

from beam_quad.selection.shown import extremes, highest


def test_the_highest_and_the_lowest_are_shown_from_their_end_without_what_has_no_score():
    influence = np.array([0.5, math.nan, -2.0, 3.0, math.inf, 0.25])
    best, worst = extremes(influence, 2)
    assert best.tolist() == [3, 0]
    assert worst.tolist() == [2, 5]
    best, worst = extremes(influence, 9)
    assert best.tolist() == worst.tolist()[::-1] == [3, 0, 5, 2]


def test_of_equals_the_first_is_shown_first():
    assert highest(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert highest(np.array([5, 9]), 7).tolist() == [1, 0]
