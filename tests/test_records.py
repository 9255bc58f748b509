"""The nouns that all rooms share."""

import numpy as np
import pytest

from beam_quad.records import Budget, count_lengths


@pytest.mark.parametrize(
    ("budget", "lengths", "longest"),
    [
        (10_000, {6: 999, 17: 1}, 1000),  # a tenth of the budget
        (2000, {6: 99, 17: 1}, 256),  # four times 64, of a median of 64 to 127 tokens
        (10, {17: 3}, 4 << 17),  # a tiny budget still takes a typical document
        (1000, {3: 500, 8: 500}, 100),  # the lower of two middles
        (1000, {3: 500, 8: 501}, 1024),
    ],
)
def test_the_longest_document_is_a_tenth_of_the_budget_or_a_typical_one(budget, lengths, longest):
    tokens = {b: n << b for b, n in lengths.items()}
    assert Budget(budget).longest(lengths, tokens) == longest


def test_longer_documents_are_taken_if_the_shorter_ones_do_not_fill_the_budget():
    lengths, tokens = {3: 100, 6: 1, 9: 1, 12: 1}, {3: 1000, 6: 100, 9: 900, 12: 5000}
    assert Budget(1000).longest(lengths, tokens) == 100
    assert Budget(1050).longest(lengths, tokens) == 127
    assert Budget(1101).longest(lengths, tokens) == 1023
    assert Budget(7000).longest(lengths, tokens) == 8191


def test_no_document_is_too_long_for_a_budget_of_the_whole_corpus_or_of_examples():
    endless = 2**63 - 1
    assert Budget(1901).longest({3: 100, 9: 1}, {3: 1000, 9: 900}) == endless
    assert Budget(1000).longest({}, {}) == endless
    assert Budget(1, "examples").longest({3: 5}, {3: 40}) == endless


def test_lengths_are_counted_with_their_tokens_by_the_power_of_two_below():
    lengths, tokens = count_lengths(np.array([0, 1, 2, 3, 4, 7, 8, 1023, 1024, 0]))
    assert lengths == {0: 1, 1: 2, 2: 2, 3: 1, 9: 1, 10: 1}
    assert tokens == {0: 1, 1: 5, 2: 11, 3: 8, 9: 1023, 10: 1024}
    assert count_lengths(np.zeros(3, np.int64)) == ({}, {})
