"""Verdicts on losses with a planted truth."""

import re

import numpy as np
import pytest
from scipy import stats

from beam_quad.proof import RANDOM, Losses, Trial, judge, price

NUM_TEXTS = 60


def planted(
    gains: dict[str, float],
    rng: np.random.Generator,
    num_seeds: int = 3,
    training_sd: float = 0.01,
    text_sd: float = 0.02,
) -> Trial:
    """Losses whose falls are known: noise of the seed, of the training, and of each text."""
    counts = rng.integers(20, 200, NUM_TEXTS).astype(float)
    before = 4 + rng.normal(0, 0.5, NUM_TEXTS)
    by_seed = rng.normal(0, training_sd, num_seeds)
    after = {}
    for name, gain in gains.items():
        own = rng.normal(0, text_sd, NUM_TEXTS)
        after[name] = [
            Losses((before - gain + own + by_seed[s] + rng.normal(0, training_sd)) * counts, counts)
            for s in range(num_seeds)
        ]
    return Trial(Losses(before * counts, counts), after)


def exact(**gains: float) -> Trial:
    return planted(gains, np.random.default_rng(0), training_sd=0.0, text_sd=0.0)


def test_without_noise_gain_lead_and_worth_are_the_planted_ones():
    trial = exact(selection=0.3, random=0.2)
    for interval, truth in (
        (trial.gain("selection"), 0.3),
        (trial.lead("selection", RANDOM), 0.1),
        (trial.worth("selection", RANDOM), 1.5),
    ):
        assert interval is not None
        np.testing.assert_allclose([interval.value, interval.low, interval.high], truth, atol=1e-6)


def test_a_lead_of_one_training_each_is_the_paired_t_test_over_texts():
    rng = np.random.default_rng(1)
    counts = np.full(NUM_TEXTS, 50.0)
    before, a, b = 4 + rng.normal(0, 0.3, (3, NUM_TEXTS))
    trial = Trial(
        Losses(before * counts, counts),
        {"a": [Losses(a * counts, counts)], "b": [Losses(b * counts, counts)]},
    )
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    found = trial.lead("a", "b")
    np.testing.assert_allclose([found.low, found.high], [low, high])


def test_a_lead_over_seeds_is_that_of_a_block_design():
    """Of two contenders the block design is the paired t-test over seeds."""
    rng = np.random.default_rng(2)
    # All texts move alike, so that they add no noise; there are more of them than seeds.
    a, b = rng.normal(3, 0.1, 5), rng.normal(3, 0.1, 5)
    counts = np.full(50, 10.0)
    after = {
        name: [Losses(loss * counts, counts) for loss in losses]
        for name, losses in (("a", a), ("b", b))
    }
    trial = Trial(Losses(4 * counts, counts), after)
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    found = trial.lead("a", "b")
    np.testing.assert_allclose([found.low, found.high], [low, high])


def test_intervals_cover_the_truth_as_often_as_they_say():
    gains = {"selection": 0.15, RANDOM: 0.1, "dsir": 0.13}
    rng = np.random.default_rng(3)
    trials = [planted(gains, rng) for _ in range(400)]
    leads = [trial.lead("selection", RANDOM) for trial in trials]
    worths = [trial.worth("selection", RANDOM) for trial in trials]
    lead = np.mean([x.low <= 0.05 <= x.high for x in leads])
    worth = np.mean([x is None or x.low <= 1.5 <= x.high for x in worths])
    # Degrees of freedom are those of the coarser part: intervals may be a little wide.
    assert 0.93 <= lead <= 0.995
    assert 0.93 <= worth <= 0.995


def test_a_ratio_is_beyond_1_exactly_where_the_difference_is_beyond_0():
    rng = np.random.default_rng(4)
    signs = set()
    for _ in range(60):
        trial = planted({"selection": 0.12, RANDOM: 0.1}, rng, training_sd=0.005)
        lead, worth = trial.lead("selection", RANDOM), trial.worth("selection", RANDOM)
        if worth is not None:
            assert lead.is_above(0) is worth.is_above(1)
            signs.add(lead.is_above(0))
    assert signs == {True, False}


def test_there_is_no_worth_over_a_rival_that_gains_nothing():
    assert exact(selection=0.3, random=-0.2).worth("selection", RANDOM) is None
    noisy = planted({"selection": 0.3, RANDOM: 0.0}, np.random.default_rng(5))
    assert noisy.worth("selection", RANDOM) is None


def test_the_order_of_texts_and_contenders_changes_nothing():
    trial = planted({"selection": 0.2, RANDOM: 0.1, "dsir": 0.15}, np.random.default_rng(6))
    order = np.random.default_rng(7).permutation(NUM_TEXTS)

    def shuffled(losses: Losses) -> Losses:
        return Losses(losses.sums[order], losses.counts[order])

    after = {
        name: [shuffled(run) for run in trial.after[name]] for name in reversed(list(trial.after))
    }
    other = Trial(shuffled(trial.before), after)
    a, b = (each.worth("selection", "dsir") for each in (trial, other))
    assert a is not None
    assert b is not None
    np.testing.assert_allclose([a.value, a.low, a.high], [b.value, b.low, b.high])


@pytest.mark.parametrize(
    ("gains", "is_worth_it", "words"),
    [
        ({"selection": 0.19, "random": 0.1}, True, r"worth 1.90 times .* a random draw of the same 1,000 tokens"),
        ({"selection": 0.22, "random": 0.1, "dsir": 0.2, "similarity": 0.1}, True, r"1.10 times .* the best rival, dsir"),
        ({"selection": 0.2, "random": 0.1, "dsir": 0.25}, False, "not worth it: dsir does better"),
        ({"selection": 0.1, "random": 0.2}, False, "not worth it: a random draw .* does better"),
        ({"selection": 0.2, "random": -0.1}, True, r"worth 0.3000 .* nats per token more than a random"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_numbers_say(gains, is_worth_it, words):
    # A little noise, as without any even rounding would be significant.
    trial = planted(gains, np.random.default_rng(8), training_sd=1e-5, text_sd=1e-5)
    verdict = judge(trial, "selection", 1000)
    assert verdict.is_worth_it is is_worth_it
    assert re.search(words, verdict.sentence), verdict.sentence


def test_what_is_within_the_noise_is_not_worth_it():
    gains = {"selection": 0.2, RANDOM: 0.1, "dsir": 0.2}
    trial = planted(gains, np.random.default_rng(9), training_sd=0.001, text_sd=0.01)
    verdict = judge(trial, "selection", 1000)
    assert not verdict.is_worth_it
    assert "dsir does as well, within the noise" in verdict.sentence
    same = planted({"selection": 0.1, RANDOM: 0.1}, np.random.default_rng(9))
    assert (
        "a random draw of the same 1,000 tokens does as well"
        in judge(same, "selection", 1000).sentence
    )


def test_the_price_is_what_the_general_mix_loses_beside_a_random_draw():
    words = price(exact(selection=-0.2, random=0.05), "selection")
    assert words is not None
    assert "ends 0.2500 (0.2500 to 0.2500) nats per token worse" in words
    assert (
        price(planted({"selection": 0.1, RANDOM: 0.1}, np.random.default_rng(11)), "selection")
        is None
    )
    assert price(exact(selection=0.1, random=0.05), "selection") is None


def test_a_selection_that_does_harm_is_worth_no_times_anything():
    trial = exact(selection=-0.1, random=0.1)
    assert trial.worth("selection", RANDOM) is None


def test_contenders_with_other_numbers_of_trainings_are_refused():
    trial = exact(selection=0.3, random=0.2)
    with pytest.raises(ValueError, match=r"as many trainings, at least one, got \[2, 3\]"):
        Trial(trial.before, trial.after | {RANDOM: trial.after[RANDOM][:2]})


def test_one_seed_speaks_of_the_texts_alone():
    trial = planted({"selection": 0.2, RANDOM: 0.1}, np.random.default_rng(10), num_seeds=1)
    lead = trial.lead("selection", RANDOM)
    assert lead.low < 0.1 < lead.high
