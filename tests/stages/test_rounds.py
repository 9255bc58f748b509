"""What a round decides, and who decides it."""

import dataclasses

import numpy as np
import pytest

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.json_files import write_json
from beam_quad.bandit import Blocks, PullScores, QuadPolicy, replay
from beam_quad.bandit.pulls import SampledPulls
from beam_quad.corpus.sums import ReadSums
from beam_quad.records import Budget
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import FitCenters
from beam_quad.stages.quad.bandit import ROUND_SCHEMA, Bandit
from beam_quad.stages.quad.blocks import CountBlocks, CountPassedOver
from beam_quad.stages.quad.candidates import GatherCandidates

BLOCKS = Blocks(np.full(2, 2, np.int32), np.full(4, 4), np.full(4, 100), np.full(4, 4))
POLICY = QuadPolicy(budget_tokens=300, samples_per_pull=2)
PILOT = {"cluster": [0, 0, 1, 1], "block": [0, 0, 0, 0], "influence": [3.0, 5.0, 1.0, 3.0]}


@pytest.fixture
def bandit(corpus):
    centers = FitCenters(corpus, None, 1.0)
    clusters = AssignClusters(corpus, centers)
    blocks = CountBlocks(corpus, clusters, SampledPulls(2, 2))
    passed_over = CountPassedOver(corpus.within(Budget(300)), clusters, blocks)
    files.write_once(blocks.path("blocks.npz"), BLOCKS.to_bytes())
    write_json(blocks.artifact, {"samples_per_pull": 2, "whole_blocks": False})
    write_json(passed_over.artifact, {"examples": 0})
    write_json(corpus.totals_path, ReadSums().as_json())
    # The number of samples in the policy is not known where it is made.
    policy = QuadPolicy(budget_tokens=300, samples_per_pull=1)
    candidates, scoring = GatherCandidates(corpus, blocks), NoScoring()
    return Bandit(policy, candidates, passed_over, scoring, (1.0,))


@dataclasses.dataclass(frozen=True)
class NoScoring:
    """Stands where no pull is scored."""

    device = "cpu"

    def load(self):
        raise AssertionError("nothing is scored here")


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


def test_the_pilot_pulls_the_first_block_of_every_cluster_before_anything_is_decided(bandit):
    assert bandit.pulls(0) == ((0, 0), (1, 0))


def test_a_round_is_decided_from_scores_under_the_policy_of_the_corpuss_pull_size(bandit):
    write_pilot(bandit)
    assert bandit.decide(0).to_bytes() == replayed_pilot().to_bytes()


def test_what_comes_after_a_round_reads_its_decision_and_no_score(bandit):
    decided = replayed_pilot().of_round(0)
    files.write_once(bandit.decision_path(0), decided.to_bytes())
    assert not files.exists(bandit.round_path(0))
    assert bandit.pulls(1) == decided.pulls != ()
    assert bandit.state(1).to_bytes() == replayed_pilot().to_bytes()
