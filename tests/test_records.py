"""The nouns that all rooms share."""

import pytest

from beam_quad.records import Budget


@pytest.mark.parametrize(
    ("budget", "lengths", "longest"),
    [
        (10_000, {6: 9, 17: 1}, 1000),  # a tenth of the budget
        (2000, {6: 9, 17: 1}, 256),  # four times 64, of a median of 64 to 127 tokens
        (10, {17: 3}, 4 << 17),  # a tiny budget still takes a typical document
        (1000, {3: 5, 8: 5}, 100),  # the lower of two middles
        (1000, {3: 5, 8: 6}, 1024),
        (1000, {}, 100),
    ],
)
def test_the_longest_document_is_a_tenth_of_the_budget_or_a_typical_one(budget, lengths, longest):
    assert Budget(budget).longest(lengths) == longest


def test_a_document_is_never_too_long_for_a_budget_of_examples():
    assert Budget(1, "examples").longest({3: 5}) == 2**63 - 1
