"""The duel's figures on losses whose answer is known."""

import numpy as np

from beam_quad import seeding
from beam_quad.proof import Losses
from tests.benchmarks.duel.figures import (
    Difference,
    Noise,
    gains,
    mean,
    sampling_variance,
    way,
)
from tests.benchmarks.duel.policies import OWN, RANDOM, joint_order
from tests.benchmarks.duel.tables import Duel


def runs(means, deviation=0.0, num_texts=50):
    """Losses of texts of 10 to 40 tokens, one for each order's mean."""
    draw = seeding.generator(0, "losses")
    counts = draw.integers(10, 40, num_texts).astype(float)
    noise = draw.standard_normal((len(means), num_texts)) * deviation
    return [Losses(counts * (mean + own), counts) for mean, own in zip(means, noise, strict=True)]


def test_the_way_runs_from_random_to_the_domain_itself():
    losses = {"random": runs([5.0, 5.2]), "half": runs([4.8, 5.0]), "own": runs([4.6, 4.8])}
    found = gains(losses, "random", Noise.of([(losses["random"], own) for own in losses.values()]))
    assert {name: round(share, 9) for name, share in way(found, "own").items()} == {
        "random": 0.0,
        "half": 0.5,
        "own": 1.0,
    }


def test_a_domain_that_teaches_nothing_gives_no_way():
    losses = {"random": runs([5.0, 5.2]), "own": runs([5.0, 5.2])}
    found = gains(losses, "random", Noise.of([(losses["random"], losses["own"])]))
    assert way(found, "own") == {"random": None, "own": None}


def test_what_all_policies_owe_to_an_order_is_no_noise_of_their_difference():
    noise = Noise.of([(runs([5.0, 9.0, 2.0]), runs([4.9, 8.9, 1.9]))])
    assert noise.freedom == 2
    assert np.isclose(noise.variance, 0.0)
    assert np.isclose(noise.difference(runs([5.0, 9.0]), runs([4.9, 8.9])).value, 0.1)


def test_an_interval_of_orders_is_students():
    noise = Noise.of([(runs([1.0, 2.0, 3.0]), runs([0.0, 0.0, 0.0]))])
    found = noise.difference(runs([1.0, 2.0, 3.0]), runs([0.0, 0.0, 0.0]))
    assert np.isclose(found.half, 4.302653 / np.sqrt(3))
    assert not found.is_beyond_noise


def test_the_variance_of_texts_is_that_of_drawing_them_again():
    a, b = runs([5.0], deviation=0.5, num_texts=400), runs([4.9], num_texts=400)
    difference, counts = a[0].sums - b[0].sums, a[0].counts
    drawn = seeding.generator(1, "again").integers(400, size=(4000, 400))
    again = difference[drawn].sum(1) / counts[drawn].sum(1)
    assert np.isclose(sampling_variance(a, b), again.var(), rtol=0.1)


def duel(**losses):
    losses = {name: runs(means) for name, means in losses.items()}
    shares = dict.fromkeys(losses, 0.0)
    query = {"python": {RANDOM: runs([6.0, 6.1]), OWN: runs([4.0, 4.1]), **losses}}
    return Duel("demo", "default", {}, query, query, {"python": {}}, shares, shares, frozenset())


def test_only_a_rival_ahead_beyond_the_noise_has_beaten_the_default():
    found = duel(
        default=[5.00, 5.10], ahead=[4.90, 5.00], level=[4.99, 5.11], behind=[5.10, 5.20]
    ).as_json()
    assert list(found["lost"]["python"]) == ["ahead"]


def test_intervals_of_domains_add_as_variances_do():
    found = mean([Difference(0.1, 0.03), Difference(0.3, 0.04)])
    assert np.isclose(found.value, 0.2)
    assert np.isclose(found.half, 0.025)


def test_a_document_outside_the_shortlist_is_not_ranked_by_its_exact_score():
    cheap = np.array([4.0, 3.0, 2.0, 1.0])
    exact = np.array([0.0, 1.0, 2.0, 9.0])
    order = joint_order(cheap, exact, np.full(4, 10), num_tokens=30, weights=(1.0, 1.0))
    assert sorted(order) == [0, 1, 2]
