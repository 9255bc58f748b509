import dataclasses
import re

import numpy as np
import pytest

from beam_quad.bandit import QuadPolicy, replay, shortfall_message

SIZES = [8] * 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"budget_tokens": 10**6}, "hold only .* larger corpus or lower --budget_tokens"),
        (
            {"max_share_per_cluster": 0.01},
            "no cluster may give more .* raise --max_share_per_cluster",
        ),
        ({"tau": 50.0}, "reach --tau 50; lower --tau"),
        ({"num_rounds": 1, "arms_per_round": 1}, "raise --num_rounds or --arms_per_round"),
        ({"num_rounds": 1, "tau": 1.0}, "1 rounds were too few; raise --num_rounds .*lower --tau"),
    ],
)
def test_a_shortfall_is_said_with_the_option_that_mends_it(option, message, draw_corpus, play):
    corpus = draw_corpus(np.random.default_rng(1), SIZES, 2000)
    budget = int(0.3 * corpus.tokens.sum())
    policy = QuadPolicy(**{"budget_tokens": budget, "samples_per_pull": 4, **option})
    state, _ = play(policy, corpus)
    line = shortfall_message(policy, corpus.blocks, state)
    missing = policy.budget_tokens - state.accepted_tokens
    assert line.startswith(f"{missing:,} of {policy.budget_tokens:,} tokens are missing")
    assert "\n" not in line
    assert re.search(message, line), line


def test_nothing_is_said_while_it_runs_and_where_the_budget_is_met(draw_corpus, play):
    corpus = draw_corpus(np.random.default_rng(1), SIZES, 2000)
    policy = QuadPolicy(budget_tokens=500, samples_per_pull=4)
    state, _ = play(policy, corpus)
    assert shortfall_message(policy, corpus.blocks, state) is None
    assert shortfall_message(policy, corpus.blocks, replay(policy, corpus.blocks, [])) is None


@pytest.mark.parametrize(
    ("acceptance", "message"),
    [
        ("block", "lower --budget_tokens or --tau, or pass --near_duplicates=keep"),
        ("propagate", "predicted to reach --tau"),
        ("instance", "no more are left; pass --acceptance=block, .* or --near_duplicates=keep"),
    ],
)
def test_a_ranking_that_does_not_fill_a_met_budget_is_said_by_what_ranks(
    acceptance, message, draw_corpus, play
):
    corpus = draw_corpus(np.random.default_rng(1), SIZES, 2000)
    policy = QuadPolicy(budget_tokens=500, samples_per_pull=4, acceptance=acceptance)
    state, _ = play(policy, corpus)
    assert state.stop_reason == "budget_met"
    policy = dataclasses.replace(policy, tau=-50.0)
    line = shortfall_message(policy, corpus.blocks, state, filled_tokens=400)
    assert line.startswith("100 of 500 tokens are missing")
    assert re.search(message, line), line
    assert "--tau" in line


def test_a_ranking_that_misses_a_budget_which_the_bandit_met_is_short_of_documents(
    draw_corpus, play
):
    corpus = draw_corpus(np.random.default_rng(1), SIZES, 2000)
    policy = QuadPolicy(budget_tokens=500, samples_per_pull=4)
    state, _ = play(policy, corpus)
    line = shortfall_message(policy, corpus.blocks, state, filled_tokens=400)
    assert re.match("100 of 500 tokens are missing .* --near_duplicates=keep", line)
    assert shortfall_message(policy, corpus.blocks, state, filled_tokens=500) is None
