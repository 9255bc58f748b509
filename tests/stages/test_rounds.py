"""What a round decides, and who decides it."""

import numpy as np

from beam_quad.artifacts import aligned, files
from beam_quad.bandit import Blocks, PullScores, QuadPolicy, replay
from beam_quad.stages.quad.rounds import ROUND_SCHEMA, Bandit
from beam_quad.stages.read.corpus import write_json

BLOCKS = Blocks(np.full(2, 2, np.int32), np.full(4, 4), np.full(4, 100), np.full(4, 4))
POLICY = QuadPolicy(budget_tokens=300, samples_per_pull=2)
PILOT = {"cluster": [0, 0, 1, 1], "block": [0, 0, 0, 0], "influence": [3.0, 5.0, 1.0, 3.0]}


def make_bandit(folder):
    blocks, rounds = str(folder / "blocks"), str(folder / "rounds")
    files.write_once(files.join(blocks, "blocks.npz"), BLOCKS.to_bytes())
    write_json(files.join(blocks, "blocks.json"), {"samples_per_pull": 2, "whole_blocks": False})
    write_json(files.join(rounds, "passed_over.json"), {"examples": 0, "longest": 100})
    # The number of samples in the policy is not known where it is made.
    return Bandit(QuadPolicy(budget_tokens=300, samples_per_pull=1), blocks, rounds)


def write_pilot(bandit):
    columns = {
        **{name: np.array(values) for name, values in PILOT.items()},
        "example_id": list("abcd"),
        "key": np.arange(4, dtype=np.uint64),
        "tokens": np.full(4, 10),
        "group_influence": [[x] for x in PILOT["influence"]],
    }
    aligned.write_table(bandit.round_path(0), ROUND_SCHEMA, columns)


def replayed_pilot():
    pulls = tuple(
        PullScores(c, 0, np.array([2 * c, 2 * c + 1], np.uint64), np.full(2, 10), np.array(x))
        for c, x in enumerate(([3.0, 5.0], [1.0, 3.0]))
    )
    return replay(POLICY, BLOCKS, [pulls])


def test_the_pilot_pulls_the_first_block_of_every_cluster_before_anything_is_decided(tmp_path):
    assert make_bandit(tmp_path).pulls(0) == ((0, 0), (1, 0))


def test_a_round_is_decided_from_scores_under_the_policy_of_the_corpuss_pull_size(tmp_path):
    bandit = make_bandit(tmp_path)
    write_pilot(bandit)
    assert bandit.decide(0).to_bytes() == replayed_pilot().to_bytes()


def test_what_comes_after_a_round_reads_its_decision_and_no_score(tmp_path):
    bandit = make_bandit(tmp_path)
    decided = replayed_pilot().of_round(0)
    files.write_once(bandit.decision_path(0), decided.to_bytes())
    assert not files.exists(bandit.round_path(0))
    assert bandit.pulls(1) == decided.pulls != ()
    assert bandit.state(1).to_bytes() == replayed_pilot().to_bytes()
