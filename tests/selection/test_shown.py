import math

import numpy as np

from beam_quad.selection.shown import clusters_to_show, extremes, highest


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


def test_clusters_are_shown_by_the_share_that_is_selected_and_by_size_and_never_empty():
    examples = np.array([0, 50, 400, 30, 20])
    tokens = np.array([0, 500, 9000, 300, 200])
    # Of the last the largest share is selected, of the third the most tokens.
    selected = np.array([0, 5, 900, 150, 180])
    assert clusters_to_show(selected, tokens, examples, 2) == [2, 4]
    assert clusters_to_show(selected, tokens, examples, 4) == [1, 2, 3, 4]
    assert clusters_to_show(selected, tokens, examples, 100) == [1, 2, 3, 4]
