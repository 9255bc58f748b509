import numpy as np

from beam_quad.selection import budget


def test_a_cut_bucket_is_filled_up_to_the_example_in_which_the_budget_ends():
    rest = budget.CutExamples(
        np.array([1, 0, 1, 1]), np.array([30, 1, 10, 20], np.uint64), np.array([5, 5, 5, 5])
    )
    assert rest.threshold(1, 10) == 20
    assert rest.threshold(1, 11) == 30
    assert rest.threshold(1, 16) == budget.MAX_DRAW


def test_a_block_gives_less_by_what_the_block_before_gave_too_much():
    arms = {(1, 0): 12, (0, 3): 10, (0, 1): 1}
    # Of five tokens each; the buckets are the places of the blocks in their sorted order: (0, 1), (0, 3), (1, 0).
    examples = budget.CutExamples(
        np.array([2, 2, 2, 2, 1, 1, 1, 0, 0]),
        np.array([40, 10, 30, 20, 7, 5, 6, 1, 2], np.uint64),
        np.full(9, 5),
    )
    # (1, 0) takes 15 for 12, (0, 3) wants 7 and takes 10, so that (0, 1) wants nothing: 1 - 3 < 0.
    assert budget.cut_blocks(arms, examples) == {(1, 0): 30, (0, 3): 6, (0, 1): None}
    assert budget.cut_blocks({}, None) == {}


def test_what_is_left_of_a_surplus_is_taken_off_the_block_after_the_next():
    examples = budget.CutExamples(
        np.array([0, 1, 2, 2]), np.array([1, 1, 1, 2], np.uint64), np.array([9, 9, 2, 2])
    )
    # 9 for 2 leaves 7 too much, of which the second block saves 4 and the third 3.
    draws = budget.cut_blocks({(0, 0): 2, (0, 1): 4, (0, 2): 5}, examples)
    assert draws == {(0, 0): 1, (0, 1): None, (0, 2): 1}


def test_blocks_that_are_cut_meet_their_tokens_in_all_to_within_one_example():
    rng = np.random.default_rng(0)
    arms = {(int(c), 0): int(rng.integers(1, 300)) for c in rng.permutation(20)}
    bucket, tokens = rng.integers(0, 20, 2000), rng.integers(1, 30, 2000)
    examples = budget.CutExamples(bucket, rng.permutation(2000).astype(np.uint64), tokens)
    draws = budget.cut_blocks(arms, examples)
    taken = sum(
        examples.tokens_up_to(place, draws[arm])
        for place, arm in enumerate(sorted(arms))
        if draws[arm] is not None
    )
    assert sum(arms.values()) <= taken < sum(arms.values()) + 30
