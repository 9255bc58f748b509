import numpy as np

from beam_quad.bandit.pulls import SampledPulls, WholePulls

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
