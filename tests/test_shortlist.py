"""The page of the shortlist, held to plain NumPy and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from beam_quad import score_influence, select, shortlist
from beam_quad.embedding import EmbedderSpec
from beam_quad.gradients import ProxySpec
from tests.pipelines.world import KINDS, World, text_of

NUM_TEXTS = 240
BUDGET = 1000


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of five kinds in turn."""
    rng = np.random.default_rng(17)
    return [text_of(rng, KINDS[i % len(KINDS)]) for i in range(NUM_TEXTS)]


@pytest.fixture(scope="module")
def law() -> list[str]:
    rng = np.random.default_rng(18)
    return [text_of(rng, "law") for _ in range(16)]


@pytest.fixture(scope="module")
def biology() -> list[str]:
    rng = np.random.default_rng(19)
    return [text_of(rng, "biology") for _ in range(16)]


@pytest.fixture(scope="module")
def proxy(world: World) -> ProxySpec:
    return ProxySpec(world.proxy, num_threads=1)


@pytest.fixture(scope="module")
def selection(texts, law, proxy):
    return run(texts, law, proxy)


def run(texts, queries, proxy, **changes):
    usual = {
        "budget_tokens": BUDGET,
        "embedder": "hashing",
        "curvature_examples": 32,
        "acceptance": "shortlist",
        "shortlist": 2.0,
        "num_clusters": 8,
    }
    return select(texts, queries, proxy, **(usual | changes))


def best_first(scores, tokens, budget):
    """The best, down to the one in which the budget ends."""
    order = np.argsort(-scores)
    return order[: np.searchsorted(np.cumsum(tokens[order]), budget) + 1]


def test_the_shortlist_is_the_best_by_n_grams_and_nothing_else_is_scored(selection):
    listed = best_first(selection.ngrams, selection.tokens, 2 * BUDGET)
    is_scored = np.isfinite(selection.influence)
    assert sorted(np.flatnonzero(is_scored)) == sorted(listed)
    assert len(listed) < NUM_TEXTS / 2
    np.testing.assert_array_equal(np.isfinite(selection.estimate), is_scored)


def test_influence_is_that_of_all_layers_over_gradients_of_unit_length(
    selection, texts, law, proxy
):
    every = score_influence(
        texts, law, proxy, layers=shortlist.LAYERS, normalize=True, curvature_examples=32
    )
    listed = np.flatnonzero(np.isfinite(selection.influence))
    np.testing.assert_allclose(selection.influence[listed], every[listed], rtol=1e-3, atol=1e-6)


def test_what_is_selected_is_the_best_by_normal_scores_of_n_grams_and_half_of_influence(selection):
    listed = np.flatnonzero(np.isfinite(selection.influence))
    influence, ngrams = (
        stats.norm.ppf((stats.rankdata(own[listed]) - 0.5) / len(listed))
        for own in (selection.influence, selection.ngrams)
    )
    expected = ngrams + influence / 2
    # Scores that agree in their first 15 bits share a rank.
    np.testing.assert_allclose(selection.estimate[listed], expected, atol=0.1)
    chosen = best_first(selection.estimate[listed], selection.tokens[listed], BUDGET)
    assert sorted(listed[chosen]) == selection.indices.tolist()
    assert selection.state is None
    assert (selection.blocks == -1).all()


def test_weights_are_the_excess_over_the_best_that_was_left_out(selection):
    left = np.setdiff1d(np.flatnonzero(np.isfinite(selection.estimate)), selection.indices)
    excess = selection.estimate[selection.indices] - selection.estimate[left].max()
    expected = excess / excess.sum() * NUM_TEXTS
    np.testing.assert_allclose(selection.weights, expected, rtol=1e-4)


def test_a_longer_shortlist_holds_the_shorter_one(selection, texts, law, proxy):
    longer = run(texts, law, proxy, shortlist=3.0)
    shorter = np.flatnonzero(np.isfinite(selection.influence))
    assert np.isfinite(longer.influence[shorter]).all()
    assert longer.tokens[np.isfinite(longer.influence)].sum() >= 3 * BUDGET


def test_without_a_cap_the_selection_is_the_same_whatever_embeds(selection, texts, law, proxy):
    other = run(texts, law, proxy, embedder=EmbedderSpec("hashing", dim=16), num_clusters=5)
    assert (other.clusters != selection.clusters).any()
    np.testing.assert_array_equal(other.indices, selection.indices)


def test_what_holds_a_query_text_is_selected_only_if_that_is_asked_for(texts, law, proxy):
    copies = [f"as they say: {text}" for text in law]
    both = [*texts, *copies]
    is_copy = np.arange(len(both)) >= len(texts)
    assert not is_copy[run(both, law, proxy).indices].any()
    assert is_copy[run(both, law, proxy, keep_query_copies=True).indices].sum() > len(law) // 2


def test_no_cluster_gives_more_than_its_share(texts, law, proxy):
    capped = run(texts, law, proxy, max_share_per_cluster=0.25, shortlist=4.0)
    given = np.bincount(capped.clusters[capped.indices], weights=capped.tokens[capped.indices])
    assert 250 - 40 <= given.max() <= 250
    assert capped.shortfall is None


def test_what_cannot_be_scored_is_never_taken_and_the_shortfall_is_said(
    selection, texts, law, proxy, monkeypatch
):
    score_texts = shortlist.score_texts

    def score(scorer, own):
        scores = score_texts(scorer, own)
        if isinstance(scorer, shortlist.InfluenceScorer):
            scores[::2] = math.nan
        return scores

    monkeypatch.setattr(shortlist, "score_texts", score)
    lost = run(texts, law, proxy, shortlist=1.5)
    assert np.isfinite(lost.influence[lost.indices]).all()
    assert lost.weights.sum() < NUM_TEXTS
    assert lost.shortfall.endswith("raise shortlist, or give more texts")
    missing = int(lost.shortfall.split(" of ")[0].replace(",", ""))
    assert missing == BUDGET - lost.tokens[lost.indices].sum()


def test_a_query_group_of_more_weight_gets_more(texts, law, biology, proxy):
    queries = {"law": law, "biology": biology}
    shares = []
    for weight in (0.05, 20.0):
        found = run(texts, queries, proxy, query_weights={"law": weight}).indices
        shares.append(np.mean([KINDS[i % len(KINDS)] == "law" for i in found]))
    assert shares[0] + 0.5 < shares[1]


def test_the_order_of_texts_with_ids_changes_nothing(selection, texts, law, proxy):
    shuffled = np.random.default_rng(0).permutation(NUM_TEXTS)
    ids = [str(i) for i in range(NUM_TEXTS)]
    other = run([texts[i] for i in shuffled], law, proxy, ids=[ids[i] for i in shuffled])
    assert sorted(shuffled[other.indices]) == selection.indices.tolist()
