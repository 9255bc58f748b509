import numpy as np

from beam_quad.selection import budget


def test_a_cut_bucket_is_filled_up_to_the_example_in_which_the_budget_ends():
    rest = budget.CutExamples(
        np.array([1, 0, 1, 1]), np.array([30, 1, 10, 20], np.uint64), np.array([5, 5, 5, 5])
    )
    assert rest.threshold(1, 10) == 20
    assert rest.threshold(1, 11) == 30
    assert rest.threshold(1, 16) == budget.MAX_DRAW
