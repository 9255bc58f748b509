import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit import (
    ACCEPTANCES,
    Blocks,
    PullScores,
    QuadPolicy,
    replay,
    shortfall_message,
)
from beam_quad.errors import IntegrityError

THREE_ARMS = Blocks(
    num_blocks=np.array([2, 2, 2], dtype=np.int32),
    examples=np.full(6, 10),
    tokens=np.full(6, 100),
    candidates=np.full(6, 10),
)


def pull(cluster_id, block, influence, tokens=(10, 10)):
    keys = np.array([10 * cluster_id + 2 * block, 10 * cluster_id + 2 * block + 1], dtype=np.uint64)
    return PullScores(cluster_id, block, keys, np.array(tokens), np.array(influence, dtype=float))


def accepted_pairs(state):
    return [
        (block.cluster_id, block.block, block.round, block.take_tokens) for block in state.accepted
    ]


def test_three_arms_by_hand():
    policy = QuadPolicy(budget_tokens=250, samples_per_pull=2)
    start = replay(policy, THREE_ARMS, [])
    assert start.pulls == ((0, 0), (1, 0), (2, 0))
    assert start.tau is None

    # Means 4 (weighted by tokens), 2, 0. The water stands at 1.1 · 250 = 275 of 200 + 200 tokens: at arm 1.
    pilot = (pull(0, 0, [3, 7], tokens=(30, 10)), pull(1, 0, [1, 3]), pull(2, 0, [-1, 1]))
    first = replay(policy, THREE_ARMS, [pilot])
    assert first.log[0].tau == 2.0
    assert accepted_pairs(first) == [(0, 0, 0, 100), (1, 0, 0, 100)]
    # 55 of the 100 tokens left in arm 0 are wanted; no other arm's bound reaches it. The deviation within arms is
    # sqrt((8 + 2 + 2) / 3) = 2, so the bounds are the means + 0.5 · 2 / sqrt(2) · sqrt(2 ln 3).
    assert first.tau == 4.0
    assert first.deviation == 2.0
    np.testing.assert_allclose(first.arms.upper_bound - [4, 2, 0], math.sqrt(math.log(3)))
    assert first.pulls == ((0, 1),)

    # Its second block falls short and leaves it all the same; the water falls to arm 1.
    second = replay(policy, THREE_ARMS, [pilot, (pull(0, 1, [4, 2]),)])
    assert second.log[1].num_accepted == 0
    assert second.tau == 2.0
    assert second.pulls == ((1, 1),)

    # Accepted, and cut where the budget ends.
    end = replay(policy, THREE_ARMS, [pilot, (pull(0, 1, [4, 2]),), (pull(1, 1, [2, 4]),)])
    assert end.stop_reason == "budget_met"
    assert accepted_pairs(end)[2:] == [(1, 1, 2, 50)]
    assert end.accepted[2].is_cut
    assert end.accepted_tokens == 250
    assert end.pulls == ()
    assert [record.scored_examples for record in end.log] == [6, 8, 10]


def test_no_cluster_gives_more_than_its_share_and_the_water_level_knows():
    policy = QuadPolicy(budget_tokens=250, samples_per_pull=2, max_share_per_cluster=0.5)
    pilot = (pull(0, 0, [4, 4]), pull(1, 0, [2, 2]), pull(2, 0, [0, 0]))
    state = replay(policy, THREE_ARMS, [pilot])
    # At most 125 tokens of each arm: 275 are reached only by all three.
    assert state.log[0].tau == 0.0
    assert accepted_pairs(state) == [(0, 0, 0, 100), (1, 0, 0, 100), (2, 0, 0, 50)]


def test_instance_acceptance_takes_the_scored_examples_that_reach_tau():
    policy = QuadPolicy(budget_tokens=45, samples_per_pull=2, tau=1.0, acceptance="instance")
    pilot = (pull(0, 0, [3, 7], tokens=(30, 10)), pull(1, 0, [1, 3]), pull(2, 0, [-1, 1]))
    state = replay(policy, THREE_ARMS, [pilot])
    # 7 (10 tokens), then a tie of two threes (30 and 10 tokens, lowest key first); the next, of 10, no longer fits.
    assert state.accepted_examples.influence.tolist() == [7, 3]
    assert state.accepted_examples.keys.tolist() == [1, 0]
    assert state.accepted_tokens == 40
    assert state.stop_reason == "budget_met"
    assert state.accepted == ()


def test_a_cluster_that_gave_its_share_is_pulled_no_more():
    policy = QuadPolicy(250, 2, tau=1.0, alpha=0.0, max_share_per_cluster=0.4)
    pilot = (pull(0, 0, [4, 4]), pull(1, 0, [2, 2]), pull(2, 0, [0, 0]))
    state = replay(policy, THREE_ARMS, [pilot])
    assert accepted_pairs(state) == [(0, 0, 0, 100), (1, 0, 0, 100)]
    assert (state.pulls, state.stop_reason) == ((), "no_arm_above_tau")


def test_the_pilots_threshold_knows_how_examples_spread_if_they_are_accepted_one_by_one():
    pilot = (pull(0, 0, [3, 5]), pull(1, 0, [1, 3]), pull(2, 0, [-1, 1]))
    whole = QuadPolicy(250, 2, max_share_per_cluster=0.4)
    # 275 are wanted and each cluster may give 100. At 0, the least of the means, there are 300 in blocks that reach it.
    assert replay(whole, THREE_ARMS, [pilot]).log[0].tau == 0.0
    # Half of the examples of an arm lie below its mean: there are 100, 100 and 50 that reach 0.
    instance = dataclasses.replace(whole, acceptance="instance")
    assert replay(instance, THREE_ARMS, [pilot]).log[0].tau == -math.inf


@pytest.mark.parametrize("acceptance", ["block", "instance", "propagate"])
def test_a_round_accepts_by_the_threshold_for_which_its_pulls_were_chosen(
    acceptance, draw_corpus, play
):
    corpus = draw_corpus(np.random.default_rng(3), [8] * 12, 3000)
    policy = QuadPolicy(int(0.4 * corpus.tokens.sum()), 4, num_rounds=6, acceptance=acceptance)
    _, rounds = play(policy, corpus)
    states = [replay(policy, corpus.blocks, rounds[:n]) for n in range(len(rounds) + 1)]
    chosen = [state.tau for state in states[1:-1]]
    assert [record.tau for record in states[-1].log[1:]] == chosen
    assert len(set(chosen)) > 1
    for state in states[1:]:
        # What pulled blocks are expected to give is counted by the same threshold, too: to within a token a cluster.
        tokens = min(int(state.arms.accepted_tokens.sum()), policy.budget_tokens)
        assert 0 <= state.accepted_tokens - tokens <= corpus.blocks.num_clusters


def test_a_pull_without_a_scorable_example_is_not_accepted_and_its_arm_is_tried_again():
    policy = QuadPolicy(budget_tokens=600, samples_per_pull=2)
    pilot = (pull(0, 0, [math.nan, math.nan]), pull(1, 0, [2, 2]), pull(2, 0, [0, 0]))
    state = replay(policy, THREE_ARMS, [pilot])
    assert accepted_pairs(state) == [(1, 0, 0, 100), (2, 0, 0, 100)]
    assert state.pulls[0] == (0, 1)
    assert math.isnan(state.arms.mean_influence[0])


def test_a_block_without_candidates_is_skipped_and_counted():
    blocks = dataclasses.replace(THREE_ARMS, candidates=np.array([0, 10, 10, 10, 0, 0]))
    state = replay(QuadPolicy(budget_tokens=250, samples_per_pull=2), blocks, [])
    assert state.pulls == ((0, 1), (1, 0))
    assert (state.unreachable_blocks, state.unreachable_tokens) == (3, 300)


@pytest.mark.parametrize("acceptance", ACCEPTANCES)
def test_without_a_budget_nothing_is_pulled_and_nothing_is_missing(acceptance):
    policy = QuadPolicy(budget_tokens=0, samples_per_pull=2, acceptance=acceptance)
    state = replay(policy, THREE_ARMS, [(), ()])
    assert (state.pulls, state.stop_reason, state.accepted_tokens) == ((), "budget_met", 0)
    assert shortfall_message(policy, THREE_ARMS, state) is None


def test_an_empty_corpus_stops_before_the_pilot():
    blocks = Blocks.zero(np.zeros(0, dtype=np.int32))
    state = replay(QuadPolicy(budget_tokens=1, samples_per_pull=4), blocks, [()])
    assert state.stop_reason == "no_arm_above_tau"
    assert state.log == ()


POLICIES = st.builds(
    QuadPolicy,
    budget_tokens=st.integers(1, 6000),
    samples_per_pull=st.integers(1, 5),
    num_rounds=st.integers(1, 20),
    arms_per_round=st.none() | st.integers(1, 5),
    alpha=st.floats(0, 2),
    tau=st.none() | st.floats(-1, 2),
    acceptance=st.sampled_from(["block", "instance"]),
    max_share_per_cluster=st.floats(0.05, 1),
    seed=st.integers(0, 9),
)
CORPORA = st.lists(st.sampled_from([0, 1, 2, 4, 8]), min_size=1, max_size=12).filter(any)


@settings(deadline=None)
@given(policy=POLICIES, num_blocks=CORPORA, seed=st.integers(0, 2**32 - 1))
def test_the_budget_is_never_exceeded_and_no_block_is_pulled_twice(
    policy, num_blocks, seed, draw_corpus, play
):
    corpus = draw_corpus(np.random.default_rng(seed), num_blocks, 200)
    state, rounds = play(policy, corpus)
    pulled = [(p.cluster_id, p.block) for scores in rounds for p in scores]
    assert len(pulled) == len(set(pulled))
    assert len(rounds) <= policy.num_rounds + 1
    given_tokens = sum(b.take_tokens for b in state.accepted) + state.accepted_examples.tokens.sum()
    assert state.accepted_tokens == given_tokens == state.arms.accepted_tokens.sum()
    assert state.accepted_tokens <= policy.budget_tokens
    assert state.arms.accepted_tokens.max() <= policy.cluster_cap_tokens
    if policy.acceptance == "block":
        assert (state.stop_reason == "budget_met") == (given_tokens == policy.budget_tokens)


@settings(deadline=None, max_examples=20)
@given(policy=POLICIES, seed=st.integers(0, 2**32 - 1))
def test_the_state_does_not_depend_on_the_order_of_scores(policy, seed, draw_corpus, play):
    rng = np.random.default_rng(seed)
    corpus = draw_corpus(rng, [4, 4, 2, 1, 8], 200)
    state, rounds = play(policy, corpus)

    def shuffled(p):
        order = rng.permutation(len(p.keys))
        return PullScores(p.cluster_id, p.block, p.keys[order], p.tokens[order], p.influence[order])

    other = replay(
        policy,
        corpus.blocks,
        [tuple(shuffled(scores[at]) for at in rng.permutation(len(scores))) for scores in rounds],
    )
    assert other.accepted == state.accepted
    assert repr(other.log) == repr(state.log)
    assert other.arms.upper_bound.tobytes() == state.arms.upper_bound.tobytes()
    np.testing.assert_array_equal(other.accepted_examples.keys, state.accepted_examples.keys)


def test_the_budget_is_met_and_better_than_chance(draw_corpus, play):
    corpus = draw_corpus(np.random.default_rng(0), [8] * 40, 6000)
    budget = int(0.1 * corpus.tokens.sum())
    state, _ = play(QuadPolicy(budget_tokens=budget, samples_per_pull=5), corpus)
    assert state.accepted_tokens == budget
    scored = corpus.influence[~np.isnan(corpus.influence)]
    mean = sum(b.influence * b.take_tokens for b in state.accepted) / budget
    assert mean > scored.mean() + scored.std()


def test_scores_of_other_pulls_are_refused():
    policy = QuadPolicy(budget_tokens=250, samples_per_pull=2)
    with pytest.raises(IntegrityError, match=r"round 0 has scores of 1 pulls.* the 3 that"):
        replay(policy, THREE_ARMS, [(pull(0, 0, [1, 2]),)])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"budget_tokens": -1}, "budget_tokens must not be negative, got -1"),
        ({"samples_per_pull": 0}, "samples_per_pull must be at least 1, got 0"),
        ({"num_rounds": 51}, "between 1 and 50, got 51"),
        ({"arms_per_round": 0}, "arms_per_round must be at least 1, got 0"),
        ({"alpha": -1.0}, "alpha must be finite and >= 0, got -1"),
        ({"tau": math.nan}, "tau must be finite, got nan"),
        ({"acceptance": "all"}, "got 'all'"),
        ({"max_share_per_cluster": 0.0}, r"in \(0, 1\], got 0"),
    ],
)
def test_nonsense_is_refused_with_its_value(option, message):
    with pytest.raises(ValueError, match=message):
        QuadPolicy(**{"budget_tokens": 1, "samples_per_pull": 4, **option})
