"""What was selected before comes first; what changed is counted."""

import numpy as np
import pytest

from beam_quad.selection import (
    Changes,
    changes_of,
    held_first,
    is_reached,
    pack_ranks,
    ranks_and_cuts,
    search_budget,
)
from beam_quad.selection.changes import NOT_AMONG_THE_BEST, all_left


def _packed(rng: np.random.Generator, number: int) -> np.ndarray:
    packed = rng.integers(1, 1 << 64, number, dtype=np.uint64)
    packed[rng.random(number) < 0.1] = 0
    return packed


@pytest.mark.parametrize("keeps_all", [True, False])
def test_held_rows_are_before_all_others_and_either_part_keeps_its_order(keeps_all):
    rng = np.random.default_rng(0)
    packed, is_held = _packed(rng, 1000), rng.random(1000) < 0.3
    first = held_first(packed, is_held, np.zeros(1000, bool), keeps_all)
    assert first[is_held].min() > first[~is_held].max()
    assert ((first == 0) == ((packed == 0) & ~is_held)).all()
    for part in (~is_held, is_held) if not keeps_all else (~is_held,):
        order = np.argsort(packed[part], kind="stable")
        assert (np.diff(first[part][order].astype(object)) >= 0).all()


@pytest.mark.parametrize("has_parts", [True, False])
def test_ranks_and_the_rank_at_the_cut_are_read_from_priorities(has_parts):
    rng = np.random.default_rng(4)
    ranks = np.concatenate([rng.normal(size=299), [np.nan]])
    packed = pack_ranks(ranks, np.arange(300, dtype=np.uint64), seed=0)
    is_held = rng.random(300) < 0.3
    if has_parts:
        packed = held_first(packed, is_held, np.zeros(300, bool), keeps_all=False)
    floor = np.sort(packed)[50:51]
    found, cuts = ranks_and_cuts(packed, floor, has_parts)
    np.testing.assert_array_equal(found[:299], ranks[:299].astype(np.float32))
    # Held rows compete with each other alone.
    is_compared = ~is_held[:299] if has_parts else np.ones(299, bool)
    is_taken = is_reached(packed, floor)[:299] & is_compared
    assert set(cuts[:299][is_compared]) == {found[:299][is_taken].min()}
    assert np.isnan(cuts[:299][~is_compared]).all()
    # If everything is taken, or nothing, there is no cut.
    for end in (0, 1, 2**64 - 1):
        _, cuts = ranks_and_cuts(packed, np.array([end], np.uint64), has_parts)
        assert np.isnan(cuts).all()


def test_preferred_rows_come_between_held_ones_and_all_others():
    rng = np.random.default_rng(3)
    packed, is_held = _packed(rng, 500), rng.random(500) < 0.2
    is_preferred = (rng.random(500) < 0.3) & ~is_held
    first = held_first(packed, is_held, is_preferred, keeps_all=False)
    between = is_preferred & (packed > 0)
    assert first[is_held].min() > first[between].max() > first[between].min() > 0
    assert first[between].min() > first[~is_held & ~between].max()
    assert (first[is_preferred & (packed == 0)] == 0).all()


def test_a_row_of_the_lowest_priority_can_still_be_selected():
    assert held_first(
        np.array([1, 0], np.uint64), np.zeros(2, bool), np.zeros(2, bool), True
    ).tolist() == [1, 0]


def test_a_budget_no_smaller_than_before_loses_no_held_row_though_one_overshot_it():
    rng = np.random.default_rng(1)
    packed, tokens = _packed(rng, 300), rng.integers(1, 50, 300)
    is_held = np.zeros(300, bool)
    is_held[:40] = True
    budget = int(tokens[is_held].sum()) - 20
    first = held_first(packed, is_held, np.zeros(300, bool), keeps_all=True)[:, None]
    floor = search_budget(first, tokens, budget).floors[0]
    assert (is_reached(first[:, 0], floor) == is_held).all()


def test_a_smaller_budget_lets_the_lowest_held_rows_go():
    packed = np.array([50, 10, 40, 90, 20], np.uint64) << np.uint64(8)
    is_held = np.array([True, True, True, False, True])
    first = held_first(packed, is_held, np.zeros(5, bool), keeps_all=False)[:, None]
    floor = search_budget(first, np.ones(5, np.int64), 2).floors[0]
    assert np.flatnonzero(is_reached(first[:, 0], floor)).tolist() == [0, 2]


def test_changes_add_up_to_what_both_selections_hold():
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 100, 200)
    held = np.sort(rng.choice(200, 60, replace=False))
    selected = np.sort(rng.choice(200, 80, replace=False))
    parts = rng.integers(0, 3, 60)
    reasons = {int(row): "excluded" for row in held[:10]}
    found = changes_of(7, tokens, selected, held, parts, reasons)
    both = np.intersect1d(held, selected)
    gone = np.setdiff1d(held, selected)
    assert (found.kept.documents, found.kept.tokens) == (len(both), tokens[both].sum())
    assert found.added.tokens == tokens[np.setdiff1d(selected, held)].sum()
    left = found.left.named
    assert sum(own.tokens for own in left.values()) == tokens[gone].sum()
    assert left["excluded"].documents == np.isin(gone, held[:10]).sum()
    assert left[NOT_AMONG_THE_BEST].documents == (~np.isin(gone, held[:10])).sum()
    of_parts = {str(p): int(np.isin(held[parts == p], both).sum()) for p in range(3)}
    assert found.parts.counts == of_parts
    assert found.splits.counts == {"7": found.added.documents}


def test_changes_are_read_as_they_were_written():
    from beam_quad.records import as_json

    rows = np.arange(3)
    found = changes_of(0, rows + 1, rows[1:], rows[:2], np.zeros(2, int), {})
    found = found + all_left(np.array([5, 6]), "shard_gone")
    assert Changes.from_json(as_json(found)) == found
