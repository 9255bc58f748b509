import numpy as np
import pytest

from beam_quad.bandit import Blocks, Evidence, Prior, PullScores, QuadPolicy, replay
from beam_quad.bandit.arms import PullTable

NUM_ARMS = 4
BLOCKS = Blocks(
    num_blocks=np.full(NUM_ARMS, 2, np.int32),
    examples=np.array([10, 10, 30, 30, 20, 20, 5, 5]),
    tokens=np.full(2 * NUM_ARMS, 100),
    candidates=np.full(2 * NUM_ARMS, 4),
)
TIES = np.arange(NUM_ARMS, dtype=np.uint64)


def pull(cluster, block, influence, first_key=0, tokens=10):
    keys = np.arange(len(influence), dtype=np.uint64) + np.uint64(
        1000 * first_key + 100 * cluster + 10 * block
    )
    values = np.array(influence, float)
    return PullScores(cluster, block, keys, np.full(len(values), tokens), values)


def evidence_of(*pulls):
    return Evidence.of_pilot(PullTable.of(pulls))


def old(means, number=8):
    """What was scored of arms: as many examples each, one to either side of the mean."""
    spread = np.resize([1.0, -1.0], number)
    return evidence_of(*(pull(c, 0, m + spread, 9) for c, m in enumerate(means)))


def state_after(prior, pulls, **policy):
    options = {"budget_tokens": 300, "samples_per_pull": 4} | policy
    return replay(QuadPolicy(**options), BLOCKS, [pulls] if pulls else [], prior)


def test_evidence_is_the_same_in_any_order_of_runs():
    one, two = evidence_of(pull(0, 0, [1, 3, 2])), evidence_of(pull(2, 0, [4, 8]), pull(0, 1, [5]))
    for name in ("key", "cluster", "tokens", "influence", "residual", "squares", "freedom"):
        np.testing.assert_array_equal(getattr(one + two, name), getattr(two + one, name))
    assert (one + two).deviation == pytest.approx(np.sqrt((2 + 8) / 3))
    np.testing.assert_array_equal((one + two).residuals, [-2, -1, 0, 0, 1, 2])


def test_an_example_that_two_runs_scored_counts_once():
    one = evidence_of(pull(0, 0, [1, 3]))
    assert (one + one).sums(1)[0].tolist() == [2]


def test_an_example_drawn_for_a_share_is_known_and_says_nothing_of_its_cluster():
    pulled = old([1.0, 2.0])
    # One of them was pulled by another run.
    drawn = Evidence.of_drawn(
        np.array([5, *pulled.key[:1]], np.uint64), np.array([10, 10]), np.array([99.0, np.nan])
    )
    for both in (pulled + drawn, drawn + pulled):
        assert both.influence[both.key == 5].tolist() == [99]
        np.testing.assert_array_equal(both.of_clusters()["key"], pulled.key)
        np.testing.assert_array_equal(both.sums(3), pulled.sums(3))
        assert both.components() == pulled.components()
        # Of two known arms and half of the documents new, one is pulled.
        assert len(state_after(Prior(both, 50, 100, 4), ()).pulls) == 1


@pytest.mark.parametrize(
    ("num_new", "arms"), [(1, [1]), (25, [1]), (26, [1, 2]), (75, [0, 1, 2]), (100, [0, 1, 2, 3])]
)
def test_the_pilot_pulls_the_share_of_arms_that_is_new_those_with_most_documents_first(
    num_new, arms
):
    state = state_after(Prior(old([0] * NUM_ARMS), num_new, 100, 4), ())
    assert [cluster for cluster, _ in state.pulls] == arms


def test_without_evidence_on_an_arm_it_is_tried_before_all_others():
    known = evidence_of(*(pull(c, 0, [5.0, 7.0], 9) for c in (1, 2, 3)))
    state = state_after(Prior(known, 1, 100, 4), (pull(1, 0, [6.0, 6.0]),), tau=0.0)
    assert state.pulls[0] == (0, 0)
    assert np.isinf(state.arms.upper_bound[0])
    assert np.isfinite(state.arms.upper_bound[1:]).all()


def test_old_scores_weigh_as_one_pull_however_many_they_are():
    for number in (4, 8, 40):
        prior = Prior(old([2.0] * NUM_ARMS, number), 1, 100, 4)
        state = state_after(prior, (pull(1, 0, [6.0] * 4),))
        assert state.arms.mean_influence.tolist() == pytest.approx([2, 4, 2, 2])
    few = Prior(old([2.0] * NUM_ARMS, 2), 1, 100, 4)
    state = state_after(few, (pull(1, 0, [6.0] * 4),))
    assert state.arms.mean_influence[1] == pytest.approx((2 * 2 + 4 * 6) / 6)
    assert state.arms.pulls.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("acceptance", ["block", "instance", "propagate", "cluster"])
def test_known_arms_are_chosen_without_a_pilot_of_their_own(acceptance):
    prior = Prior(old([9.0, 0.0, 8.0, -9.0], 40), 1, 100, 4)
    pulls = (pull(1, 0, [0.0, 1.0, 0.0, -1.0]),)
    state = state_after(prior, pulls, acceptance=acceptance, alpha=0.0)
    assert state.pulls[0][0] == 0
    assert state.deviation == pytest.approx(prior.evidence.deviation, rel=0.1)


def test_a_round_after_the_pilot_pulls_at_least_the_new_share_of_arms():
    few, all_new = (
        state_after(
            Prior(old([1.0] * NUM_ARMS), num_new, 100, 4),
            tuple(pull(c, 0, [1.0, 1.0]) for c in clusters),
            budget_tokens=210,
            tau=0.0,
            num_rounds=2,
        )
        for num_new, clusters in ((12, [1]), (100, [0, 1, 2, 3]))
    )
    # 110 tokens are missing, to be found in two rounds with a margin of two.
    assert len(few.pulls) == 2
    assert all_new.stop_reason == "budget_met"


def test_a_block_of_few_scores_is_judged_by_its_cluster_too():
    prior = Prior(old([9.0, 0.0, 8.0, -9.0], 40), 1, 100, 4)
    state = state_after(prior, (pull(1, 0, [2.0] * 4),), tau=1.0)
    # Four examples of mean 0 are known beside its own four of mean 2.
    assert [(block.cluster_id, block.influence) for block in state.accepted] == [(1, 1.0)]
    state = state_after(prior, (pull(1, 0, [1.9] * 4),), tau=1.0)
    assert not state.accepted


def test_a_block_that_fell_short_is_accepted_once_the_water_has_fallen_to_it_or_the_rounds_are_over():
    prior = Prior(old([9.0, 0.0, 8.0, -9.0], 40), 26, 100, 4)
    pilot = (pull(1, 0, [2.0] * 4), pull(2, 0, [8.0] * 4))
    policy = QuadPolicy(450, 4, alpha=0.0, num_rounds=1)
    first = replay(policy, BLOCKS, [pilot], prior)
    # Two arms hold 400 tokens, of which 100 are taken; the water stands at the third best.
    assert [(block.cluster_id, block.block) for block in first.accepted] == [(2, 0), (1, 0)]
    policy = QuadPolicy(350, 4, alpha=0.0, num_rounds=1)
    first = replay(policy, BLOCKS, [pilot], prior)
    assert [(block.cluster_id, block.block) for block in first.accepted] == [(2, 0)]
    scores = tuple(pull(c, b, [1.8 - c] * 4) for c, b in first.pulls)
    last = replay(policy, BLOCKS, [pilot, scores], prior)
    assert last.accepted_tokens == 350
    assert (1, 0, 1, 1.0) in [(b.cluster_id, b.block, b.round, b.influence) for b in last.accepted]


def test_a_pull_of_few_documents_weighs_less_than_what_was_known():
    prior = Prior(old([2.0] * NUM_ARMS, 40), 1, 100, 6)
    state = state_after(prior, (pull(1, 0, [6.0, 6.0]),), samples_per_pull=2)
    assert state.arms.mean_influence[1] == pytest.approx((6 * 2 + 2 * 6) / 8)


def test_whole_clusters_are_ranked_by_what_was_scored_of_them_before():
    prior = Prior(old([9.0, 0.0, 8.0, -9.0], 40), 1, 100, 4)
    pulls = (pull(1, 0, [0.0, 1.0, 0.0, -1.0]),)
    state = state_after(prior, pulls, acceptance="cluster", budget_tokens=10, alpha=0.0)
    while not state.is_done:
        state = replay(
            QuadPolicy(10, 4, acceptance="cluster", alpha=0.0, num_rounds=1), BLOCKS,
            [pulls, tuple(pull(c, b, [9.0, 9.0]) for c, b in state.pulls)], prior,
        )  # fmt: skip
    assert [block.cluster_id for block in state.accepted] == [0]
