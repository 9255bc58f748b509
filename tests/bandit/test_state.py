import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit import ACCEPTANCES, BanditState, QuadPolicy, replay
from beam_quad.bandit.state import RoundRecord, scored_by_round


def test_a_round_scored_what_it_added_to_the_rounds_before():
    totals = (40, 40, 55, 61)
    log = [RoundRecord(i, 0.0, 1, 1, 0, 0.0, total) for i, total in enumerate(totals)]
    assert scored_by_round(log) == [40, 0, 15, 6]
    assert scored_by_round([]) == []


@settings(deadline=None, max_examples=30)
@given(
    acceptance=st.sampled_from(sorted(ACCEPTANCES)),
    tau=st.none() | st.just(0.5),
    share=st.sampled_from([0.05, 0.5, 2.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_the_rounds_decided_adds_up_to_what_a_replay_finds(
    acceptance, tau, share, seed, draw_corpus, play
):
    corpus = draw_corpus(np.random.default_rng(seed), [4, 0, 2, 8, 1], 300)
    budget = max(int(share * corpus.tokens.sum()), 1)
    policy = QuadPolicy(budget, 3, num_rounds=4, acceptance=acceptance, tau=tau)
    _, rounds = play(policy, corpus)
    rounds += [(), ()]  # the bandit has stopped, but its stages still run
    decided = []
    for number in range(len(rounds)):
        state = replay(policy, corpus.blocks, rounds[: number + 1])
        written = state.of_round(number).to_bytes()
        assert written == state.of_round(number).to_bytes()
        decided.append(BanditState.from_bytes(written))
        assert decided[-1].pulls == state.pulls
        assert BanditState.joined(decided).to_bytes() == state.to_bytes()
    found, state = BanditState.joined(decided), replay(policy, corpus.blocks, rounds)
    assert repr((found.accepted, found.log)) == repr((state.accepted, state.log))
    assert (found.round, found.tau, found.stop_reason) == (
        state.round,
        state.tau,
        state.stop_reason,
    )
    np.testing.assert_array_equal(found.accepted_examples.keys, state.accepted_examples.keys)
    np.testing.assert_array_equal(found.arms.mean_influence, state.arms.mean_influence)


@pytest.mark.parametrize("acceptance", ["block", "instance"])
def test_a_round_decides_on_nothing_but_its_own_pulls(acceptance, draw_corpus, play):
    corpus = draw_corpus(np.random.default_rng(2), [4, 2, 8, 1], 300)
    policy = QuadPolicy(int(0.5 * corpus.tokens.sum()), 3, acceptance=acceptance)
    state, rounds = play(policy, corpus)
    assert len(rounds) > 2
    for number, scores in enumerate(rounds):
        of_round, pulled = state.of_round(number), {(p.cluster_id, p.block) for p in scores}
        examples = of_round.accepted_examples
        arms = zip(examples.cluster_id.tolist(), examples.block.tolist(), strict=True)
        assert {(b.cluster_id, b.block) for b in of_round.accepted} | set(arms) <= pulled
        assert [record.round for record in of_round.log] == [number]
    assert sum(len(state.of_round(n).accepted) for n in range(len(rounds))) == len(state.accepted)
