"""Verdicts on losses with a planted truth."""

import re

import numpy as np
import pytest
from scipy import stats

from beam_quad.proof import RANDOM, Losses, Trial, by_group, judge, price

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
    return Trial([Losses(before * counts, counts)], after)


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
        [Losses(before * counts, counts)],
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
    trial = Trial([Losses(4 * counts, counts)], after)
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
    other = Trial([shuffled(one) for one in trial.before], after)
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
    with pytest.raises(ValueError, match="before must be 1 or 3 losses, got 2"):
        Trial(trial.before * 2, trial.after)


def test_one_seed_speaks_of_the_texts_alone():
    trial = planted({"selection": 0.2, RANDOM: 0.1}, np.random.default_rng(10), num_seeds=1)
    lead = trial.lead("selection", RANDOM)
    assert lead.low < 0.1 < lead.high


def over_groups(*trials: Trial, weights: tuple[float, ...]) -> Trial:
    """The trials on groups that share no text, as one."""
    groups = np.repeat(np.eye(len(trials), dtype=bool), NUM_TEXTS, axis=1)

    def joined(parts: list[Losses]) -> Losses:
        return Losses(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("sums", "counts")))

    after = {
        name: [joined(list(runs)) for runs in zip(*(t.after[name] for t in trials), strict=True)]
        for name in trials[0].after
    }
    before = [joined(list(parts)) for parts in zip(*(t.before for t in trials), strict=True)]
    return Trial(before, after, groups, weights)


def test_over_groups_a_gain_is_the_weighted_mean_of_the_groups_gains_however_many_tokens_each_has():
    one, two = exact(selection=0.4, random=0.1), exact(selection=0.1, random=0.2)
    trial = over_groups(one, two, weights=(3.0, 1.0))
    assert trial.gain("selection").value == pytest.approx((3 * 0.4 + 0.1) / 4)
    assert trial.lead("selection", RANDOM).value == pytest.approx((3 * 0.3 - 0.1) / 4)
    for group, alone in enumerate((one, two)):
        found, truth = trial.only(group).gain("selection"), alone.gain("selection")
        np.testing.assert_allclose([found.value, found.low, found.high], truth.value, atol=1e-6)


def test_the_text_variance_over_groups_is_that_of_independent_samples():
    rng = np.random.default_rng(12)
    parts = [planted({"selection": 0.2, RANDOM: 0.1}, rng, num_seeds=1) for _ in "ab"]
    weights = np.array([0.8, 0.2])
    trial = over_groups(*parts, weights=(4.0, 1.0))
    halves = [part.lead("selection", RANDOM) for part in parts]
    expected = np.sqrt(
        sum((w * (h.high - h.value)) ** 2 for w, h in zip(weights, halves, strict=True))
    )
    found = trial.lead("selection", RANDOM)
    assert found.high - found.value == pytest.approx(expected)


def test_a_text_of_two_groups_is_one_draw_for_both():
    """Groups of the same texts are no more texts than one group has."""
    trial = planted({"selection": 0.2, RANDOM: 0.1}, np.random.default_rng(13))
    twice = Trial(trial.before, trial.after, np.ones((2, NUM_TEXTS), bool), (1.0, 2.0))
    a, b = (each.lead("selection", RANDOM) for each in (trial, twice))
    np.testing.assert_allclose([a.value, a.low, a.high], [b.value, b.low, b.high])


def test_intervals_over_groups_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(14)
    leads = []
    for _ in range(300):
        parts = [
            planted({"selection": g, RANDOM: 0.1}, rng, num_seeds=1, training_sd=0)
            for g in (0.1, 0.2)
        ]
        leads.append(over_groups(*parts, weights=(1.0, 3.0)).lead("selection", RANDOM))
    assert 0.93 <= np.mean([x.low <= 0.075 <= x.high for x in leads]) <= 0.995


def test_models_that_seeds_draw_of_their_own_move_no_lead():
    """What a seed's model starts from is in its loss before and after, and so in no gain."""
    trial = exact(selection=0.3, random=0.2)
    counts = trial.before[0].counts
    shifts = (0.0, 0.5, -0.4)

    def shifted(runs: tuple[Losses, ...]) -> list[Losses]:
        return [Losses(r.sums + s * counts, counts) for r, s in zip(runs, shifts, strict=True)]

    other = Trial(
        shifted(trial.before * 3), {name: shifted(runs) for name, runs in trial.after.items()}
    )
    gain = other.gain("selection")
    np.testing.assert_allclose([gain.value, gain.low, gain.high], 0.3, atol=1e-6)
    assert other.initial == pytest.approx(trial.initial + sum(shifts) / 3)


def test_from_scratch_a_worth_is_told_in_nats():
    trial = planted(
        {"selection": 4.1, RANDOM: 4.0}, np.random.default_rng(8), training_sd=1e-5, text_sd=1e-5
    )
    sentence = judge(trial, "selection", 1000, is_from_scratch=True).sentence
    assert re.match(r"worth 0\.1000 \(.*\) nats per token more than a random draw", sentence)
    assert "times" not in sentence


def test_the_words_on_query_groups_count_the_better_and_name_the_others():
    rng = np.random.default_rng(15)
    trials = {
        name: planted({"selection": gain, RANDOM: 0.1}, rng, training_sd=1e-4, text_sd=sd)
        for name, gain, sd in (
            ("code", 0.3, 1e-4),
            ("law", 0.05, 1e-4),
            ("math", 0.1001, 0.05),
        )
    }
    assert by_group(trials, "selection") == (
        "better than a random draw for 1 of 3 query groups; as good, within the noise, for math; worse for law"
    )
    assert by_group({"code": trials["code"]}, "selection").endswith("1 of 1 query groups")
