import numpy as np
import pytest

from beam_quad.bandit.pulls import ClusterSizes, SampledPulls, WholePulls

EXAMPLES, RESERVE = np.array([1024, 0, 10]), np.array([512, 0, 5])


def test_sampled_pulls_cut_a_cluster_into_few_blocks_by_what_they_need():
    # 1034 examples in 3 clusters: about 1/32 of them is 10 each.
    assert SampledPulls(None, 16).samples(1034, 3) == 10
    assert SampledPulls(4, 16).samples(1034, 3) == 4
    assert SampledPulls(4, 16).num_blocks(EXAMPLES, RESERVE).tolist() == [16, 0, 1]
    assert SampledPulls(None, 64).num_blocks(EXAMPLES, RESERVE).tolist() == [32, 0, 1]
    assert not SampledPulls(4, 16).is_census


def test_whole_pulls_cut_blocks_to_the_size_of_a_pull():
    assert WholePulls(None).samples(1034, 3) == 32
    assert WholePulls(8).samples(1034, 3) == 8
    assert WholePulls(None).num_blocks(EXAMPLES, RESERVE).tolist() == [16, 0, 1]
    assert WholePulls(8).num_blocks(EXAMPLES, RESERVE).tolist() == [64, 0, 1]
    assert WholePulls(8).is_census


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 1.0])
def test_pulls_of_a_part_score_no_more_of_its_examples_than_those_of_the_whole(share):
    rng = np.random.default_rng(0)
    examples = rng.integers(600, 2000, 50)
    part = np.maximum(1, (share * examples).astype(int))
    whole, pulls = ClusterSizes(examples, examples), SampledPulls(8, 16)
    samples, blocks = pulls.of_part(ClusterSizes(part, part), whole)
    of_whole = pulls.num_blocks(examples, examples)
    scored, of_all = samples * blocks.sum() / part.sum(), 8 * of_whole.sum() / examples.sum()
    assert 0.6 * of_all < scored < 1.1 * of_all
    assert samples <= 8
    if share == 1:
        assert samples == 8
        np.testing.assert_array_equal(blocks, of_whole)


def test_an_empty_cluster_of_a_part_has_no_block():
    sizes = ClusterSizes(np.array([0, 40]), np.array([0, 40]))
    _, blocks = SampledPulls(4, 16).of_part(
        sizes, ClusterSizes(np.array([900, 900]), np.array([900, 900]))
    )
    assert blocks.tolist() == [0, 1]


def test_a_whole_pull_of_a_part_scores_what_it_pulls():
    sizes = ClusterSizes(np.array([64, 10]), np.array([64, 10]))
    samples, blocks = WholePulls(32).of_part(
        sizes, ClusterSizes(10 * sizes.examples, sizes.reserve)
    )
    assert (samples, blocks.tolist()) == (32, [2, 1])
