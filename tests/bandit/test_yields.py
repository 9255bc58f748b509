import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit import PullScores, QuadPolicy, replay
from beam_quad.bandit.yields import PRIOR_EXAMPLES, PulledBlocks

# Two examples of 10 tokens in each of two arms, none in the third; all arms spread by -1 and 1 about their means.
PULLED = PulledBlocks(
    cluster_id=np.array([0, 0, 1, 1]),
    tokens=np.full(4, 10),
    influence=np.array([3.0, 5.0, 1.0, 3.0]),
    pulled_tokens=np.array([100, 100, 0]),
)
MEANS, RESIDUALS = np.array([4.0, 2.0, np.nan]), np.array([-1.0, 1.0])
POLICY = QuadPolicy(budget_tokens=2500, samples_per_pull=4, acceptance="propagate")


def test_an_arms_share_is_drawn_to_what_all_arms_residuals_suppose():
    # What was scored and what is supposed agree: of arm 0 all reaches 3, of arm 1 half, of arm 2 nothing is known.
    np.testing.assert_allclose(PULLED.shares(3.0, MEANS, RESIDUALS), [1.0, 0.5, 0.0])
    # 4.5 is reached by one of two scored examples of arm 0, but by none that lies 0.1 above the mean.
    share = PULLED.shares(4.5, MEANS, np.array([0.1]))[0]
    assert share == 10 / (20 + 10 * PRIOR_EXAMPLES)


def test_scored_examples_are_known_and_the_rest_of_their_blocks_is_expected():
    np.testing.assert_allclose(PULLED.yields(3.0, MEANS, RESIDUALS), [100, 10 + 0.5 * 80, 0])
    assert PULLED.missing(200, 3.0, MEANS, RESIDUALS) == 50
    assert PULLED.missing(150, 3.0, MEANS, RESIDUALS) == 0


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(1, 3000))
def test_the_water_level_agrees_with_trying_every_mean(seed, budget):
    rng = np.random.default_rng(seed)
    cluster_id = np.repeat(np.arange(8), 4)
    influence = rng.normal(size=8)[cluster_id] + rng.normal(size=32)
    means, residuals = influence.reshape(8, 4).mean(axis=1), np.sort(rng.normal(size=20))
    tokens, unpulled = rng.integers(1, 9, 32), rng.integers(0, 2, 8) * 200
    pulled = PulledBlocks(cluster_id, tokens, influence, rng.integers(100, 200, 8))

    def suffices(level):
        shares = pulled.shares(level, means, residuals)
        given = (unpulled * shares)[(means >= level) & (unpulled > 0)].sum()
        return given >= 1.1 * pulled.missing(budget, level, means, residuals)

    levels = [level for level in means[unpulled > 0] if suffices(level)]
    expected = max(levels, default=-math.inf)
    assert pulled.water_level(budget, unpulled, means, residuals) == expected


def test_pulled_blocks_are_expected_to_fill_the_budget_by_less_than_they_hold(draw_corpus, play):
    corpus = draw_corpus(np.random.default_rng(0), [8] * 20, 6000)
    policy = dataclasses.replace(POLICY, budget_tokens=int(0.1 * corpus.tokens.sum()))
    state, rounds = play(policy, corpus)
    pulled = [corpus.blocks.offsets[p.cluster_id] + p.block for scores in rounds for p in scores]
    assert state.stop_reason == "budget_met"
    assert state.accepted == ()
    assert policy.budget_tokens < corpus.blocks.tokens[pulled].sum() < 0.5 * corpus.tokens.sum()
    # Of the best arms more is pulled.
    best = np.argsort(-np.nan_to_num(state.arms.mean_influence))
    assert state.arms.pulls[best[:4]].mean() > 2 * state.arms.pulls[best[4:]].mean()


def test_the_state_does_not_depend_on_the_order_of_scores(draw_corpus, play):
    rng = np.random.default_rng(1)
    corpus = draw_corpus(rng, [4, 4, 2, 1, 8], 400)
    state, rounds = play(POLICY, corpus)

    def shuffled(p):
        order = rng.permutation(len(p.keys))
        return PullScores(p.cluster_id, p.block, p.keys[order], p.tokens[order], p.influence[order])

    other = replay(
        POLICY,
        corpus.blocks,
        [tuple(shuffled(scores[at]) for at in rng.permutation(len(scores))) for scores in rounds],
    )
    assert repr(other.log) == repr(state.log)
    assert other.arms.accepted_tokens.tobytes() == state.arms.accepted_tokens.tobytes()


def test_a_share_per_cluster_is_refused():
    with pytest.raises(ValueError, match=r"max_share_per_cluster must be 1 .* got 0.5"):
        dataclasses.replace(POLICY, max_share_per_cluster=0.5)
