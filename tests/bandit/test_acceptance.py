import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit import BanditState, Blocks, QuadPolicy, replay
from beam_quad.bandit.acceptance import (
    ACCEPTANCES,
    Accepts,
    Instances,
    Propagated,
    WholeBlocks,
    WholeClusters,
    take_blocks,
    take_examples,
)
from beam_quad.bandit.arms import PullScores, PullTable
from beam_quad.bandit.pulls import SampledPulls, WholePulls

# Three arms of two blocks of 100 tokens; the second block of the last arm has no candidate, the first of arm 1 half.
BLOCKS = Blocks(
    num_blocks=np.array([2, 2, 2], dtype=np.int32),
    examples=np.full(6, 10),
    tokens=np.full(6, 100),
    candidates=np.array([10, 10, 5, 10, 10, 0]),
)
TIES = np.array([2, 1, 0], dtype=np.uint64)
MEANS = np.array([4.0, 2.0, 0.0])


def pull(cluster_id, block, influence, tokens=(10, 10)):
    keys = np.array([10 * cluster_id + 2 * block, 10 * cluster_id + 2 * block + 1], dtype=np.uint64)
    return PullScores(cluster_id, block, keys, np.array(tokens), np.array(influence, dtype=float))


PILOT = PullTable.of([pull(0, 0, [3, 5]), pull(1, 0, [1, 3]), pull(2, 0, [-1, 1])])
TOKENS = np.array([100, 90, 100])


def accepted(rule):
    return [
        (b.cluster_id, b.block, b.round, b.influence, b.tokens, b.take_tokens) for b in rule.blocks
    ]


def test_whole_blocks_gives_blocks_whose_mean_reaches_tau_and_cuts_at_the_budget():
    rule = WholeBlocks(BLOCKS, 160, 1000, TIES)
    rule.count(PILOT, TOKENS)
    assert rule.accept(PILOT, TOKENS, MEANS, 2.0, 0) == 2
    assert accepted(rule) == [(0, 0, 0, 4.0, 100, 100), (1, 0, 0, 2.0, 90, 60)]
    assert (rule.left_tokens, rule.is_full) == (0, True)
    assert [column.tolist() for column in rule.by_cluster(MEANS, 2.0)] == [[1, 1, 0], [100, 60, 0]]
    assert rule.examples.keys.size == 0


def test_whole_blocks_decides_between_equal_clusters_by_their_ties():
    rule = WholeBlocks(BLOCKS, 250, 1000, TIES)
    equal = PullTable.of([pull(0, 1, [1, 1]), pull(1, 1, [1, 1])])
    rule.accept(equal, np.array([100, 100]), MEANS, 0.0, 3)
    assert accepted(rule) == [(1, 1, 3, 1.0, 100, 100), (0, 1, 3, 1.0, 100, 100)]
    assert (rule.left_tokens, rule.is_full) == (50, False)


def test_whole_blocks_takes_no_more_of_a_cluster_than_it_may_give():
    rule = WholeBlocks(BLOCKS, 1000, 130, TIES)
    rule.accept(PILOT, TOKENS, MEANS, 3.0, 0)
    rule.accept(PullTable.of([pull(0, 1, [9, 9])]), np.array([100]), MEANS, 3.0, 1)
    assert accepted(rule) == [(0, 0, 0, 4.0, 100, 100), (0, 1, 1, 9.0, 100, 30)]
    assert rule.room.tolist() == [0, 130, 130]
    assert rule.left_tokens == 870


def test_the_water_of_whole_blocks_counts_pulled_blocks_until_they_are_decided_on():
    rule = WholeBlocks(BLOCKS, 180, 1000, TIES)
    rule.learn_spread(PILOT, MEANS)
    rule.count(PILOT, TOKENS)
    # 1.1 · 180 = 198 of the 200 tokens of arm 0: all of an arm counts if its mean reaches the level.
    assert rule.water_level(MEANS) == 4.0
    rule.accept(PILOT, TOKENS, MEANS, 4.0, 0)
    # 1.1 · 80 = 88 of the 100 that arm 0 has left.
    assert rule.supply.tolist() == [100, 100, 0]
    assert rule.water_level(MEANS) == 4.0
    rule.accept(PullTable.of([pull(0, 1, [0, 0])]), np.array([100]), MEANS, 4.0, 1)
    assert rule.water_level(MEANS) == 2.0
    rule.accept(PullTable.of([pull(1, 1, [0, 0])]), np.array([100]), MEANS, 4.0, 2)
    assert rule.water_level(MEANS) == -math.inf


def test_the_water_of_whole_blocks_knows_what_a_cluster_may_still_give():
    assert WholeBlocks(BLOCKS, 180, 150, TIES).water_level(MEANS) == 2.0


def test_a_pull_of_a_whole_block_counts_with_all_its_tokens_even_below_tau():
    rule = WholeBlocks(BLOCKS, 180, 1000, TIES)
    rule.learn_spread(PILOT, MEANS)
    assert rule.expected_share(MEANS, 3.0).tolist() == [1, 1, 1]
    assert not rule.can_pull_repeatedly


def test_instances_gives_the_examples_that_reach_tau_best_first():
    rule = Instances(BLOCKS, 35, 1000, TIES)
    assert rule.accept(PILOT, TOKENS, MEANS, 1.0, 4) == 2
    found = rule.examples
    # 5, then the two threes by key, each of 10 tokens; the next no longer fits the 5 tokens left, so that it is full.
    assert found.influence.tolist() == [5, 3, 3]
    assert found.keys.tolist() == [1, 0, 11]
    assert found.cluster_id.tolist() == [0, 0, 1]
    assert found.block.tolist() == [0, 0, 0]
    assert found.round.tolist() == [4, 4, 4]
    assert (rule.left_tokens, rule.is_full) == (5, True)
    assert [column.tolist() for column in rule.by_cluster(MEANS, 1.0)] == [[0, 0, 0], [20, 10, 0]]
    assert rule.blocks == ()


def test_a_cluster_whose_next_example_does_not_fit_its_share_gives_no_more_instances():
    rule = Instances(BLOCKS, 1000, 15, TIES)
    assert rule.accept(PILOT, TOKENS, MEANS, 2.0, 0) == 2
    assert rule.examples.influence.tolist() == [5, 3]
    assert rule.room.tolist() == [0, 5, 15]
    assert not rule.is_full


def test_the_water_of_instances_counts_candidates_by_their_chance_to_reach_it():
    rule = Instances(BLOCKS, 100, 1000, TIES)
    rule.learn_spread(PILOT, MEANS)
    # Half of the candidates lie above their arm's mean. Level 4: half of arm 0's 200. Level 2: 200, and half of 150.
    assert rule.supply.tolist() == [200, 150, 100]
    assert rule.water_level(MEANS) == 2.0
    assert rule.expected_share(MEANS, 3.0).tolist() == [1.0, 0.5, 0.0]
    rule.accept(PILOT, TOKENS, MEANS, 9.0, 0)
    assert rule.supply.tolist() == [100, 100, 0]
    assert Instances(BLOCKS, 90, 1000, TIES).water_level(MEANS) == 4.0


def test_instances_scores_whole_blocks_and_pulls_an_arm_as_often_as_a_round_wants():
    assert Instances.pulls(None, 16) == WholePulls(None)
    assert WholeBlocks.pulls(5, 16) == Propagated.pulls(5, 16) == SampledPulls(5, 16)
    policy = QuadPolicy(400, 2, num_rounds=1, alpha=0.0, tau=3.0, acceptance=Instances.name)
    state = replay(policy, BLOCKS, [])
    pilot = tuple(pull(c, b, [4, 4] if c == 0 else [0, 0]) for c, b in state.pulls)
    assert replay(policy, BLOCKS, [pilot]).pulls == ((0, 1),)
    four = Blocks(np.array([4], np.int32), np.full(4, 10), np.full(4, 100), np.full(4, 10))
    assert replay(policy, four, [(pull(0, 0, [4, 4]),)]).pulls == ((0, 1), (0, 2), (0, 3))


def test_propagated_expects_of_a_pulled_block_the_share_that_reaches_tau():
    rule = Propagated(BLOCKS, 200, 200, TIES)
    rule.learn_spread(PILOT, MEANS)
    rule.count(PILOT, TOKENS)
    assert rule.accept(PILOT, TOKENS, MEANS, 3.0, 0) == 2
    # All of arm 0's 100 tokens, 10 + half of the 70 that are not scored of arm 1, none of arm 2.
    assert [column.tolist() for column in rule.by_cluster(MEANS, 3.0)] == [[1, 1, 0], [100, 45, 0]]
    assert (rule.left_tokens, rule.is_full) == (55, False)
    assert rule.expected_share(MEANS, 3.0).tolist() == [1.0, 0.5, 0.0]
    assert rule.blocks == ()
    assert rule.examples.keys.size == 0


def test_propagated_expects_more_of_what_it_pulled_if_the_threshold_falls():
    rule = Propagated(BLOCKS, 200, 200, TIES)
    rule.learn_spread(PILOT, MEANS)
    rule.count(PILOT, TOKENS)
    rule.expect(MEANS, 1.0)
    # 100, 90, and 10 + half of 80.
    assert (rule.left_tokens, rule.is_full) == (0, True)
    rule.expect(MEANS, 3.0)
    assert (rule.left_tokens, rule.is_full) == (55, False)


def test_the_water_of_propagated_is_found_for_what_pulled_blocks_leave_to_the_others():
    rule = Propagated(BLOCKS, 140, 140, TIES)
    rule.learn_spread(PILOT, MEANS)
    rule.count(PILOT, TOKENS)
    assert rule.supply.tolist() == [100, 100, 0]
    # At 4 pulled blocks give 10 + half of 80, and arm 0 half of its other 100: 50 of the 1.1 · 90 wanted.
    assert rule.water_level(MEANS) == 2.0
    assert rule.room.tolist() == [140, 140, 140]


def test_propagated_does_not_cap_clusters():
    with pytest.raises(ValueError, match=r"acceptance 'propagate', got 0.5: .* 'block' to cap"):
        Propagated.check(0.5)
    Propagated.check(1.0)
    WholeBlocks.check(0.5)
    Instances.check(0.5)


def test_what_a_rule_can_reach_leaves_out_what_cannot_be_scored():
    assert WholeBlocks.reachable(BLOCKS).tolist() == [200, 200, 100]
    assert Instances.reachable(BLOCKS).tolist() == [200, 150, 100]
    assert Propagated.reachable(BLOCKS).tolist() == [200, 200, 100]


def finished(budget, cap=1000, tau=None, tokens=BLOCKS.tokens):
    """Whole clusters, once the pilot was the only round."""
    rule = WholeClusters(BLOCKS, budget, cap, TIES)
    rule.learn_spread(PILOT, MEANS)
    rule.count(PILOT, TOKENS)
    assert rule.blocks == []
    rule.finish(MEANS, tokens, tau, 5)
    return rule


def test_whole_clusters_shrinks_means_by_the_pilots_variances():
    # Within an arm 2, of a mean of two examples 1, which the variance of the arms' means, 4, holds beside that of the
    # clusters: 3. So three quarters of a difference are believed.
    found = [block.influence for block in finished(600).blocks]
    np.testing.assert_allclose(found, [3.5, 3.5, 2.0, 2.0, 0.5, 0.5])


def test_whole_clusters_fills_the_budget_with_all_blocks_of_the_best_and_cuts_the_last():
    rule = finished(350)
    found = [(b.cluster_id, b.block, b.round, b.tokens, b.take_tokens) for b in rule.blocks]
    # The second block of arm 1, which nothing of was scored, too.
    assert found == [
        (0, 0, 5, 100, 100),
        (0, 1, 5, 100, 100),
        (1, 0, 5, 100, 100),
        (1, 1, 5, 100, 50),
    ]
    assert (rule.left_tokens, rule.accepted_tokens) == (0, 350)
    assert [own.tolist() for own in rule.by_cluster(MEANS, 0.0)] == [[2, 2, 0], [200, 150, 0]]


def test_whole_clusters_takes_no_more_of_a_cluster_than_it_may_give_nor_below_tau():
    rule = finished(350, cap=130, tau=1.0, tokens=np.array([90, 100, 100, 100, 100, 100]))
    found = [(b.cluster_id, b.block, b.tokens, b.take_tokens) for b in rule.blocks]
    assert found == [(0, 0, 90, 90), (0, 1, 100, 40), (1, 0, 100, 100), (1, 1, 100, 30)]
    assert rule.left_tokens == 350 - 260


def test_the_water_of_whole_clusters_counts_all_their_tokens_until_the_end():
    rule = WholeClusters(BLOCKS, 210, 1000, TIES)
    rule.learn_spread(PILOT, MEANS)
    rule.count(PILOT, TOKENS)
    assert rule.water_level(MEANS) == pytest.approx(2.0)
    # The pilot is not counted; the rounds pull two budgets.
    assert rule.accept(PILOT, TOKENS, MEANS, 2.0, 0) == 2
    assert (rule.left_tokens, rule.is_full, rule.accepted_tokens) == (210, False, 0)
    second = PullTable.of([pull(0, 1, [1, 1]), pull(1, 1, [1, 1])])
    rule.accept(second, np.array([100, 100]), MEANS, 2.0, 1)
    assert (rule.left_tokens, rule.is_full, rule.accepted_tokens) == (110, False, 0)
    rule.accept(second, np.array([110, 110]), MEANS, 2.0, 2)
    assert (rule.left_tokens, rule.is_full) == (0, True)


@pytest.mark.parametrize("budget", [500, 3_000, 10**6])
def test_whole_clusters_is_decided_in_the_last_round_alone(monkeypatch, draw_corpus, play, budget):
    monkeypatch.setitem(ACCEPTANCES, WholeClusters.name, WholeClusters)
    corpus = draw_corpus(np.random.default_rng(0), [4] * 12, 2_000)
    policy = QuadPolicy(budget, 4, acceptance="cluster", num_rounds=4)
    state, rounds = play(policy, corpus)
    taken = sum(block.take_tokens for block in state.accepted)
    assert taken == state.accepted_tokens == min(budget, taken)
    clusters = np.array([block.cluster_id for block in state.accepted])
    is_cut = np.array([block.is_cut for block in state.accepted])
    # Whole clusters, but for the last.
    for cluster in np.unique(clusters[clusters != clusters[-1]]):
        assert np.count_nonzero(clusters == cluster) == 4
        assert not is_cut[clusters == cluster].any()
    # What each round decides, put together, as workers do.
    decided = [
        replay(policy, corpus.blocks, rounds[: number + 1]).of_round(number)
        for number in range(len(rounds))
    ]
    assert [len(own.accepted) for own in decided[:-1]] == [0] * (len(rounds) - 1)
    assert BanditState.joined(decided).to_bytes() == state.to_bytes()


class BestBlock(WholeBlocks):
    """Accepts the best pull of each round, whatever its mean."""

    name = "best"
    summary = "its block, to the best pull of the round"

    def accept(self, table, tokens, means, tau, number):
        best = float(np.nanmax(table.means))
        return super().accept(table, tokens, means, best, number)


def test_a_rule_in_the_registry_is_played(monkeypatch, draw_corpus, play):
    monkeypatch.setitem(ACCEPTANCES, BestBlock.name, BestBlock)
    corpus = draw_corpus(np.random.default_rng(0), [8] * 6, 1000)
    state, rounds = play(QuadPolicy(3000, 4, acceptance="best"), corpus)
    assert [record.num_accepted for record in state.log] == [1] * len(rounds)


def test_every_rule_stands_under_its_name_and_accepts_something_of_its_own():
    assert {name: rule.name for name, rule in ACCEPTANCES.items()} == {n: n for n in ACCEPTANCES}
    assert {rule.accepts for rule in ACCEPTANCES.values()} == set(Accepts)
    assert QuadPolicy(1, 1).rule is WholeBlocks


def test_blocks_of_one_cluster_share_its_room():
    order, taken = take_blocks(
        influence=np.array([1.0, 3.0, 2.0]),
        tokens=np.array([50, 50, 50]),
        room=np.array([70, 70, 70]),
        ties=np.zeros(3, dtype=np.uint64),
        tau=0.0,
        left_tokens=200,
        cluster_id=np.array([0, 0, 1]),
    )
    assert (order.tolist(), taken.tolist()) == ([1, 2, 0], [50, 50, 20])


def test_blocks_are_taken_best_first_and_the_last_is_cut():
    order, taken = take_blocks(
        influence=np.array([1.0, 4.0, 2.0, np.nan, 3.0]),
        tokens=np.array([50, 50, 50, 50, 50]),
        room=np.array([99, 99, 99, 99, 20]),
        ties=np.arange(5, dtype=np.uint64),
        tau=1.0,
        left_tokens=90,
        cluster_id=np.arange(5),
    )
    assert order.tolist() == [1, 4, 2]
    assert taken.tolist() == [50, 20, 20]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), left=st.integers(1, 400), room=st.integers(1, 200))
def test_examples_are_taken_as_a_loop_would_take_them(seed, left, room):
    rng = np.random.default_rng(seed)
    influence, tokens = rng.integers(0, 5, 30).astype(np.float64), rng.integers(2, 40, 30)
    cluster_id, keys = rng.integers(0, 3, 30), rng.permutation(30).astype(np.uint64)
    rooms = np.array([room, 1000, 1000])
    taken, full, is_full = take_examples(influence, tokens, cluster_id, keys, rooms, 1.0, left)

    expected, closed, left_over = [], set(), left
    for at in sorted(range(30), key=lambda i: (-influence[i], keys[i])):
        given_already = sum(tokens[i] for i in expected if cluster_id[i] == cluster_id[at])
        if influence[at] < 1.0 or cluster_id[at] in closed:
            continue
        if given_already + tokens[at] > rooms[cluster_id[at]]:
            closed.add(cluster_id[at])
        elif tokens[at] > left_over:
            break
        else:
            expected.append(at)
            left_over -= tokens[at]
    assert taken.tolist() == expected
    assert closed <= set(full.tolist())
    assert tokens[taken].sum() <= left
    assert is_full or left_over > 0
