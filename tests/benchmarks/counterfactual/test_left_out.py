import dataclasses

import numpy as np
import pytest

from pipelines.demo.texts import Document
from tests.benchmarks.counterfactual.agreement import rank_correlation
from tests.benchmarks.counterfactual.draws import Draw
from tests.benchmarks.counterfactual.left_out import Retraining
from tests.benchmarks.counterfactual.sizes import SIZES
from tests.benchmarks.duel.kept import Kept
from tests.gradients import tiny

NUM_CANDIDATES = 32


@pytest.fixture(scope="module")
def retraining(tmp_path_factory):
    texts = tiny.texts([10] * NUM_CANDIDATES)
    drawn = Draw(
        candidates=tuple(Document(text, "numbers", "") for text in texts),
        groups=np.arange(NUM_CANDIDATES)[:, None],
        domains=np.zeros(NUM_CANDIDATES, np.int64),
        queries={"candidates": texts[:6], "others": tiny.texts([10] * 3, seed=1)},
        factor_ids=[],
        factor_texts=tiny.texts([10] * 24, seed=2),
        seed=0,
    )
    size = dataclasses.replace(SIZES["scratch, quick"], num_partitions=4)
    kept = Kept(tmp_path_factory.mktemp("kept"), lambda line: None)
    return Retraining(tiny.proxy("gpt2", context_length=12), size, drawn, kept)


def test_every_candidate_is_left_out_once_by_each_partition(retraining):
    left_out = retraining.leave_out()
    for partition in range(4):
        of_partition = left_out.is_left_out[left_out.partitions == partition]
        np.testing.assert_array_equal(of_partition.sum(0), np.ones(NUM_CANDIDATES))


def test_the_metagradient_foretells_what_leaving_out_does(retraining):
    left_out = retraining.leave_out()
    predicted = left_out.predicted(retraining.metagradients())
    assert rank_correlation(predicted, left_out.rises).min() > 0.8
