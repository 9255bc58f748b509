import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from beam_quad.selection import JointRanks, RankCounts


def scores_of(number, seed=0):
    """Normal scores, of which some are equal."""
    scores = np.random.default_rng(seed).normal(size=number).astype(np.float32)
    scores[: number // 4] = np.round(scores[: number // 4], 1)
    return scores


def mid_ranks(scores):
    return (stats.rankdata(scores) - 0.5) / len(scores)


def test_with_all_bits_ranks_are_mid_ranks():
    scores = scores_of(500)
    counts = RankCounts.of(scores, bits=32)
    np.testing.assert_allclose(counts.ranks(scores), mid_ranks(scores), rtol=1e-14)
    assert counts.max_error == 0


@pytest.mark.parametrize("bits", [12, 16, 24])
def test_ranks_of_a_coarser_grid_are_as_exact_as_it_says_and_keep_the_order(bits):
    scores = scores_of(5_000)
    counts = RankCounts.of(scores, bits)
    errors = np.abs(counts.ranks(scores) - mid_ranks(scores))
    assert 0 < errors.max() <= counts.max_error + 1e-12
    order = np.argsort(scores)
    assert (np.diff(counts.ranks(scores)[order]) >= 0).all()


def test_the_usual_grid_misses_ranks_of_influence_and_of_ngrams_by_little():
    rng = np.random.default_rng(0)
    # Around 0, and in a narrow band far from it.
    for scores in (rng.normal(0, 0.02, 100_000), rng.normal(-2, 0.1, 100_000)):
        assert RankCounts.of(scores).max_error < 5e-4


def test_normal_scores_are_quantiles_and_finite_at_both_ends():
    scores = np.array([3.0, 1.0, 2.0, 2.0])
    counts = RankCounts.of(scores, bits=32)
    expected = stats.norm.ppf([7 / 8, 1 / 8, 4 / 8, 4 / 8])
    np.testing.assert_allclose(counts.normal_scores(scores), expected, rtol=1e-12, atol=1e-15)
    # Scores that were not counted lie between those that were, or at the ends.
    outside = counts.normal_scores(np.array([-9.0, 2.5, 9.0]))
    np.testing.assert_allclose(outside, stats.norm.ppf([1 / 8, 6 / 8, 7 / 8]), rtol=1e-12)


@given(cut=st.integers(0, 60), seed=st.integers(0, 99))
def test_counts_do_not_depend_on_the_split_or_on_the_order(cut, seed):
    pair = np.stack([scores_of(60, seed), scores_of(60, seed + 1)])
    whole = JointRanks.of(pair)
    parts = JointRanks.of(pair[:, cut:]) + JointRanks.of(pair[:, :cut]) + JointRanks.zero(2)
    assert parts.to_bytes() == whole.to_bytes()
    shuffled = np.random.default_rng(seed).permutation(60)
    ranked = parts.rank(pair[:, shuffled], [0.5, 1.0])
    np.testing.assert_array_equal(whole.rank(pair, [0.5, 1.0])[shuffled], ranked)


def test_the_joint_rank_is_the_weighted_sum_of_normal_scores_over_the_documents_that_have_all():
    influence = np.array([0.1, np.nan, 0.3, 0.2, -np.inf])
    ngrams = np.array([5.0, 9.0, 6.0, 8.0, 7.0])
    joint = JointRanks.of([influence, ngrams], bits=32).rank([influence, ngrams], [0.5, 2.0])
    has_both = [0, 2, 3]
    of_influence, of_ngrams = (
        stats.norm.ppf(mid_ranks(own[has_both])) for own in (influence, ngrams)
    )
    expected = 0.5 * of_influence + 2 * of_ngrams
    np.testing.assert_allclose(joint[has_both], expected, rtol=1e-12, atol=1e-14)
    assert np.isnan(joint[[1, 4]]).all()


def test_a_score_of_any_unit_weighs_the_same():
    one, other = scores_of(200), scores_of(200, seed=1)
    plain = JointRanks.of([one, other], bits=32).rank([one, other], [1.0, 1.0])
    stretched = [np.exp(3 * one), other / 1000]
    np.testing.assert_allclose(
        JointRanks.of(stretched, bits=32).rank(stretched, [1.0, 1.0]), plain, atol=1e-9
    )


def test_counts_are_read_as_they_were_written():
    counts = JointRanks.of([scores_of(50), scores_of(50, seed=1)], bits=20)
    read = JointRanks.from_bytes(counts.to_bytes())
    assert [own.bits for own in read.columns] == [20, 20]
    assert read.to_bytes() == counts.to_bytes()


def test_what_has_no_rank_is_refused():
    nothing = JointRanks.of([np.array([np.nan])])
    assert np.isnan(nothing.rank([np.array([np.nan])], [1.0])).all()
    with pytest.raises(ValueError, match="no scores were counted"):
        nothing.rank([np.array([1.0])], [1.0])
    with pytest.raises(ValueError, match="bits"):
        RankCounts.zero(33)
    with pytest.raises(ValueError, match="cells of 24 and 16 bits"):
        RankCounts.zero() + RankCounts.zero(16)
    with pytest.raises(ValueError):
        nothing.rank([np.zeros(1), np.zeros(1)], [1.0, 1.0])
