"""The rivals of influence, as a notebook calls them."""

import numpy as np
import pytest

from beam_quad import rivals
from beam_quad.errors import UsageError
from beam_quad.gradients import ProxySpec, load_proxy
from beam_quad.scoring import DSIRScorer, NgramCounts, PerplexityScorer, tune_on_query
from tests.pipelines.world import KINDS, World, text_of

NUM_TEXTS = 300


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of five kinds in turn, and one that cannot be used."""
    rng = np.random.default_rng(27)
    return [*(text_of(rng, KINDS[i % len(KINDS)]) for i in range(NUM_TEXTS)), " \n"]


@pytest.fixture(scope="module")
def law() -> list[str]:
    rng = np.random.default_rng(28)
    return [text_of(rng, "law") for _ in range(40)]


@pytest.fixture(scope="module")
def proxy(world: World) -> ProxySpec:
    return ProxySpec(world.proxy, num_threads=1)


def score(policy, texts, queries, proxy, **changes):
    return rivals.score(policy, texts, queries, proxy, **({"embedder": "hashing"} | changes))


@pytest.mark.parametrize("policy", rivals.RIVALS)
def test_every_rival_prefers_the_kind_of_the_query_set(texts, law, proxy, policy):
    scores = score(policy, texts, law, proxy)
    assert scores.dtype == np.float64
    assert np.isfinite(scores[:NUM_TEXTS]).all()
    assert np.isnan(scores[NUM_TEXTS])
    # A fifth of the texts are of the kind; a random proxy learns little of it in a few steps.
    best = np.argsort(-scores[:NUM_TEXTS])[:40]
    least = 0.4 if policy == "loss_drop" else 0.8
    assert np.mean(best % len(KINDS) == KINDS.index("law")) > least


@pytest.mark.parametrize("policy", rivals.RIVALS)
def test_the_order_of_texts_with_ids_changes_nothing(texts, law, proxy, policy):
    shuffled = np.random.default_rng(0).permutation(len(texts))
    plain = score(policy, texts, law, proxy)
    other = score(
        policy, [texts[i] for i in shuffled], law, proxy, ids=[str(i) for i in shuffled]
    )  # fmt: skip
    np.testing.assert_allclose(other, plain[shuffled], rtol=1e-4, atol=1e-5)


def test_the_loss_that_drops_is_that_of_the_tuned_proxy(texts, law, proxy):
    loaded = load_proxy(proxy)
    before, after = (
        PerplexityScorer(own).score(texts[:50])[:, 0]
        for own in (loaded, tune_on_query(loaded, law))
    )
    found = score("loss_drop", texts, law, proxy)
    np.testing.assert_allclose(found[:50], before - after, atol=1e-5)


def test_resampling_adds_the_noise_of_the_seed_to_the_log_weights(texts, law, proxy):
    scorer = DSIRScorer(NgramCounts.of(law), NgramCounts.of(texts[:NUM_TEXTS]))
    log_weights = scorer.score(texts[:NUM_TEXTS])[:, 0]
    draws = [
        score("dsir", texts, law, proxy, seed=seed)[:NUM_TEXTS] - log_weights for seed in (0, 1)
    ]
    # A standard Gumbel variable has Euler's constant for a mean, and a variance of π²/6.
    for own in draws:
        assert own.mean() == pytest.approx(np.euler_gamma, abs=0.3)
        assert own.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.3)
    assert abs(np.corrcoef(draws)[0, 1]) < 0.2


def test_what_a_score_selects_is_the_best_down_to_the_end_of_the_budget():
    rng = np.random.default_rng(0)
    scores, tokens = rng.permutation(200) / 8, rng.integers(2, 30, 200)
    scores[:40] = np.nan
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0))
    end = np.searchsorted(np.cumsum(tokens[order]), 500) + 1
    found = rivals.select_by(scores, tokens, 500)
    assert found.tolist() == sorted(order[:end])
    everything = rivals.select_by(scores, tokens, 10**6)
    assert everything.tolist() == list(range(40, 200))


def test_a_text_that_is_too_long_for_the_budget_is_passed_over():
    scores, tokens = np.arange(100.0), np.full(100, 10)
    tokens[99] = 5_000
    assert rivals.select_by(scores, tokens, 30).tolist() == [96, 97, 98]


def test_what_no_rival_can_use_is_refused(proxy):
    with pytest.raises(UsageError, match="policy must be one of dsir, ngram"):
        rivals.score("best", ["a b"], ["a b"], proxy)
    with pytest.raises(UsageError, match="3 scores, 2 numbers of tokens and 3 ids"):
        rivals.select_by(np.zeros(3), np.zeros(2), 10)
    with pytest.raises(UsageError, match="budget_tokens must be at least 1"):
        rivals.select_by(np.zeros(3), np.zeros(3), 0)
