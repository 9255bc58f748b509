import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad import additive, seeding
from beam_quad.distillation import LandmarkDraw, LandmarkDraws

KEYS = seeding.keys(f"part-0#{i}" for i in range(500))


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 500), max_size=5), seed=st.integers(0, 2**31 - 1))
def test_the_draw_depends_neither_on_order_nor_on_splits(cuts, seed):
    shuffled = np.random.default_rng(seed).permutation(KEYS)
    bounds = [0, *sorted(cuts), 500]
    parts = [LandmarkDraw.of(shuffled[a:b], seed, 40) for a, b in itertools.pairwise(bounds)]
    merged = additive.total(parts, LandmarkDraw.of(KEYS[:0], seed, 40))
    assert merged.to_bytes() == LandmarkDraw.of(KEYS, seed, 40).to_bytes()
    assert LandmarkDraw.from_bytes(merged.to_bytes()).to_bytes() == merged.to_bytes()


def test_as_many_landmarks_are_drawn_as_asked_for_and_known_again():
    draw = LandmarkDraw.of(KEYS, seed=1, num_landmarks=40)
    assert draw.contains(KEYS).sum() == len(draw.keys) == 40
    assert LandmarkDraw.of(KEYS, seed=1).contains(KEYS).all()


def test_a_split_that_is_added_twice_changes_nothing():
    draw = LandmarkDraw.of(KEYS, seed=1, num_landmarks=40)
    assert (draw + draw).to_bytes() == draw.to_bytes()


def test_landmarks_are_uniform_and_another_seed_draws_others():
    drawn = np.mean([LandmarkDraw.of(KEYS, s, 50).contains(KEYS) for s in range(400)], axis=0)
    assert abs(drawn.mean() - 0.1) < 1e-12
    # Of 500 binomial shares with standard deviation 0.015, none should be 5 of them away.
    assert np.abs(drawn - 0.1).max() < 0.075


def test_draws_of_different_seeds_are_not_added():
    with pytest.raises(ValueError, match="different"):
        LandmarkDraw.of(KEYS, 1, 40) + LandmarkDraw.of(KEYS, 2, 40)
    with pytest.raises(ValueError, match="at least 1"):
        LandmarkDraw.of(KEYS, 1, 0)


def test_what_a_share_asks_for_has_landmarks_of_its_own_after_the_uniform_sample():
    parts = np.stack([np.arange(len(KEYS)) < 6, np.arange(len(KEYS)) % 2 == 0])
    whole = LandmarkDraws.of(KEYS, 1, 40, parts, [0.2, 0.5])
    draw = whole.together()
    assert draw.uniform.tolist() == LandmarkDraw.of(KEYS, 1, 40).keys.tolist()
    assert draw.contains(KEYS[:6]).sum() >= 4
    assert len(draw.keys) <= 44
    halves = (np.arange(len(KEYS)) % 3 == 0, np.arange(len(KEYS)) % 3 > 0)
    pieces = [LandmarkDraws.of(KEYS[at], 1, 40, parts[:, at], [0.2, 0.5]) for at in halves]
    assert (pieces[1] + pieces[0]).together().keys.tolist() == draw.keys.tolist()
