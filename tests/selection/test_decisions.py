"""What became of every row: what comes first when several things keep a row out."""

import dataclasses

import numpy as np

from beam_quad.records import Reason
from beam_quad.selection import Standing, Twins, Unselected, keep_ranked, why_of
from beam_quad.selection.decisions import DECISIONS, REASONS, decide

CUT, UNLISTED = Unselected.BELOW_CUT, Unselected.NOT_SHORTLISTED


def test_a_row_is_decided_by_what_keeps_it_out_first():
    # Selected, below the cut, not listed, too long, twin, without a score, and one that was never usable.
    packed = np.array([9, 1, 0, 0, 0, 0, 0], np.uint64)
    unscorable = np.arange(7) == 5
    kept = keep_ranked(packed, np.uint64(5), unscorable, np.arange(7), np.full(7, 0.5))
    kept = dataclasses.replace(kept, twins=Twins(np.array([4]), ["a#0"]))
    is_candidate = np.array([1, 1, 1, 0, 1, 1, 0], bool)
    why = why_of((packed == 0, UNLISTED), otherwise=CUT)
    standing = Standing.of(7, why, np.arange(7.0), np.arange(7))
    codes = np.array([0, 0, 0, 0, 0, 0, 1])
    decided = decide([None, Reason.EMPTY_TEXT], codes, is_candidate, kept, standing)
    found = [
        (str(DECISIONS[d]), None if r < 0 else REASONS[r])
        for d, r in zip(decided.decision, decided.reason, strict=True)
    ]
    assert found == [
        ("selected", None), ("not_selected", "below_cut"), ("not_selected", "not_shortlisted"),
        ("not_selected", "too_long"), ("not_selected", "near_duplicate"),
        ("rejected", "not_finite"), ("rejected", "empty_text"),
    ]  # fmt: skip
    # A selected row has what it was selected for, and of a row that cannot be used nothing is known.
    np.testing.assert_array_equal(decided.standing.influence, [0.5, 1, 2, 3, 4, 5, np.nan])
    np.testing.assert_array_equal(decided.standing.cluster, [0, 1, 2, 3, 4, 5, -1])


def test_no_two_reasons_have_one_name():
    assert len(set(REASONS)) == len(REASONS) == len(Reason) + len(Unselected)
