import dataclasses

import numpy as np
import pytest

from beam_quad.report import comparison
from beam_quad.report import data as shown


def sample(influence, cluster_id, tokens=None):
    tokens = np.ones(len(influence), np.int64) if tokens is None else np.array(tokens)
    return shown.ScoredSample(np.array(influence, float), tokens, np.array(cluster_id))


def test_clusters_count_by_their_tokens_and_examples_by_theirs():
    estimate = comparison.stratified_mean(
        sample([1.0, 4.0, 10.0, 20.0], [0, 0, 1, 1], tokens=[2, 1, 3, 3]), {0: 300, 1: 100}
    )
    assert estimate.mean == pytest.approx(0.75 * (2 * 1 + 1 * 4) / 3 + 0.25 * 15)
    within = [2 * ((2 / 3) ** 2 * (1 - 2) ** 2 + (1 / 3) ** 2 * (4 - 2) ** 2), 2 * (2 * 0.25 * 25)]
    assert estimate.standard_error**2 == pytest.approx(0.75**2 * within[0] + 0.25**2 * within[1])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    tokens = dict(enumerate(rng.integers(100, 10_000, 40).tolist()))
    means = rng.normal(size=40)
    truth = np.average(means, weights=list(tokens.values()))
    ids = np.repeat(np.arange(40), 6)
    covered = 0
    for _ in range(400):
        drawn = sample(means[ids] + rng.normal(size=len(ids)), ids, rng.integers(50, 500, len(ids)))
        estimate = comparison.stratified_mean(drawn, tokens)
        covered += abs(estimate.mean - truth) <= estimate.half_width
    assert 0.90 <= covered / 400 <= 0.98


def test_a_single_example_borrows_the_spread_of_the_others():
    estimate = comparison.stratified_mean(sample([0, 2, 5], [0, 0, 1]), {0: 1, 1: 1})
    assert estimate.standard_error**2 == pytest.approx(0.25 * 2 * 0.25 * 2 + 0.25 * 2)


def test_scores_that_are_not_finite_and_clusters_without_tokens_do_not_count():
    drawn = sample([1.0, np.nan, 3.0, 100.0], [0, 0, 0, 9])
    assert comparison.stratified_mean(drawn, {0: 10}).mean == pytest.approx(2.0)
    assert comparison.stratified_mean(drawn, {5: 10}) is None


def test_the_percentile_weighs_clusters_by_their_tokens_and_halves_ties():
    pilot = sample([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
    assert comparison.percentile(pilot, np.full(4, 0.25), 2.5) == 0.5
    weights = comparison.sampling_weights(pilot, {0: 90, 1: 10})
    assert comparison.percentile(pilot, weights, 2.5) == pytest.approx(0.9)
    assert comparison.percentile(pilot, weights, 3.0) == pytest.approx(0.9 + 0.5 * 0.05)


def test_luck_in_a_block_does_not_count_for_the_cautious_figure(data):
    """All clusters alike: what the accepted blocks' own scores promise is mere luck."""
    rng = np.random.default_rng(3)
    ids = np.repeat(np.arange(len(data.clusters)), 8)
    noise = rng.normal(size=len(ids))
    lucky = noise.reshape(-1, 4).mean(axis=1).repeat(4) > 0.3
    scored = sample(noise, ids)
    scores = shown.Scores(scored, sample(noise[lucky], ids[lucky]), scored)
    even = tuple(dataclasses.replace(c, tokens=800, selected_tokens=400) for c in data.clusters)
    result = comparison.compare(dataclasses.replace(data, scores=scores, clusters=even))
    assert result.by_blocks.mean > 0.5
    assert abs(result.gain.mean) <= result.gain.half_width


def test_a_census_has_no_interval_of_its_own(data):
    scores = dataclasses.replace(data.scores, is_census=True)
    result = comparison.compare(dataclasses.replace(data, scores=scores))
    assert result.by_clusters is None
    assert result.selection.standard_error == 0


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        sample([1.0, 2.0], [0])
