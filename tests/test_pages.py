"""The methods in memory, as a notebook calls them."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import beam_quad
from beam_quad import distill, influence_distillation, quad, score_influence, select
from beam_quad.bandit.acceptance import ACCEPTANCES, WholeClusters
from beam_quad.errors import UsageError
from beam_quad.gradients import ProxySpec, load_proxy
from tests.pipelines.world import KINDS, World, text_of

ROOT = pathlib.Path(__file__).parents[1]
NUM_TEXTS = 300
SELECT = {
    "budget_tokens": 1000,
    "embedder": "hashing",
    "curvature_examples": 32,
    "num_rounds": 4,
    "acceptance": "block",
}
DISTILL = {
    "budget_tokens": 1000,
    "embedder": "hashing",
    "curvature_examples": 32,
    "num_landmarks": 100,
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of five kinds in turn."""
    rng = np.random.default_rng(7)
    return [text_of(rng, KINDS[i % len(KINDS)]) for i in range(NUM_TEXTS)]


@pytest.fixture(scope="module")
def queries() -> dict[str, list[str]]:
    rng = np.random.default_rng(8)
    return {kind: [text_of(rng, kind) for _ in range(16)] for kind in ("biology", "law")}


@pytest.fixture(scope="module")
def proxy(world: World) -> ProxySpec:
    return ProxySpec(world.proxy, num_threads=1)


def run_select(*arguments, **changes):
    return select(*arguments, **(SELECT | changes))


def run_distill(*arguments, **changes):
    return distill(*arguments, **(DISTILL | changes))


def share_of(kind: str, indices: np.ndarray) -> float:
    return float(np.mean([KINDS[i % len(KINDS)] == kind for i in indices]))


@pytest.mark.parametrize("acceptance", ["block", "instance", "propagate", "shortlist"])
def test_the_planted_clusters_are_preferred_within_the_budget(texts, queries, proxy, acceptance):
    selection = run_select(texts, queries["law"], proxy, acceptance=acceptance)
    assert share_of("law", selection.indices) > 0.5  # a fifth of the texts are
    total = selection.tokens[selection.indices].sum()
    assert 1000 <= total < 1000 + 40
    assert selection.shortfall is None
    # What was selected is thought to be better than what was not.
    others = np.setdiff1d(np.flatnonzero(np.isfinite(selection.estimate)), selection.indices)
    assert selection.estimate[selection.indices].mean() > selection.estimate[others].mean()
    assert selection.weights.min() > 0
    assert selection.weights.sum() == pytest.approx(NUM_TEXTS)


def test_whole_clusters_fill_the_budget_once_the_rule_is_registered(
    texts, queries, proxy, monkeypatch
):
    monkeypatch.setitem(ACCEPTANCES, WholeClusters.name, WholeClusters)
    selection = run_select(texts, queries["law"], proxy, acceptance="cluster", num_clusters=20)
    assert share_of("law", selection.indices) > 0.5
    assert 1000 <= selection.tokens[selection.indices].sum() < 1040
    # All of every cluster but the last.
    held = np.bincount(selection.clusters)
    given = np.bincount(selection.clusters[selection.indices], minlength=len(held))
    is_cut = (given > 0) & (given < held)
    assert is_cut.sum() <= 1 < (given > 0).sum()


def test_each_target_takes_its_own_kind_in_equal_parts(texts, queries, proxy):
    arguments = DISTILL | {"budget_tokens": None, "budget_examples": 40}
    selection = distill(texts, queries, proxy, **arguments)
    assert selection.targets == ("biology", "law")
    for target, kind in enumerate(selection.targets):
        own = selection.indices[selection.takers == target]
        assert len(own) == 20
        assert share_of(kind, own) > 0.6
    assert selection.weights.sum() == pytest.approx(NUM_TEXTS)
    assert selection.is_landmark.sum() == 100 == len(selection.ridge.keys)


@pytest.mark.parametrize("method", [run_select, run_distill])
def test_texts_that_cannot_be_used_change_nothing(texts, queries, proxy, method):
    # Ids are positions, which those of the usable texts keep.
    unusable = ["", " \n", "law1"]
    plain, padded = method(texts, queries, proxy), method([*texts, *unusable], queries, proxy)
    np.testing.assert_array_equal(padded.indices, plain.indices)
    assert padded.tokens[NUM_TEXTS:].tolist() == [0, 0, 0]
    assert np.isnan(padded.influence[NUM_TEXTS:]).all()


@pytest.mark.parametrize("method", [run_select, run_distill])
def test_the_order_of_texts_with_ids_changes_nothing(texts, queries, proxy, method):
    ids = [f"text {i}" for i in range(NUM_TEXTS)]
    shuffled = np.random.default_rng(0).permutation(NUM_TEXTS)
    plain = method(texts, queries, proxy, ids=ids)
    other = method([texts[i] for i in shuffled], queries, proxy, ids=[ids[i] for i in shuffled])
    assert {other.ids[i] for i in other.indices} == {plain.ids[i] for i in plain.indices}
    for name in ("influence", "tokens"):
        expected = getattr(plain, name)[shuffled]
        np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [run_select, run_distill])
def test_a_text_of_many_times_the_budget_is_passed_over(texts, queries, proxy, method):
    long = " ".join(queries["law"] * 12)
    selection = method([*texts, long], queries["law"], proxy, keep_query_copies=True)
    assert selection.tokens[NUM_TEXTS] > 4000
    assert NUM_TEXTS not in selection.indices
    assert 1000 <= selection.tokens[selection.indices].sum() < 1040


def test_blocks_count_no_tokens_of_a_text_that_is_passed_over(texts, queries, proxy):
    # Of whole clusters, one of which holds the long text: the budget asks for more than one.
    long = " ".join(queries["law"] * 12)
    blocks = {"num_clusters": 5, "blocks_per_cluster": 1, "max_cluster_share": 1.0, "num_rounds": 8}
    blocks |= {"keep_query_copies": True, "budget_tokens": 4000}
    selection = run_select([*texts, long], queries["law"], proxy, **blocks)
    assert selection.clusters[NUM_TEXTS] in selection.clusters[selection.indices]
    assert 4000 <= selection.tokens[selection.indices].sum() < 4040


@pytest.mark.parametrize(
    ("page", "method"), [(quad, run_select), (influence_distillation, run_distill)]
)
def test_a_text_without_a_finite_score_is_not_selected(
    texts, queries, proxy, monkeypatch, page, method
):
    plain = method(texts, queries["law"], proxy)
    scored = np.isfinite(plain.influence).reshape(NUM_TEXTS)
    if page is influence_distillation:
        scored &= plain.is_landmark
    lost = texts[next(i for i in plain.indices if scored[i])]
    score_texts = page.score_texts

    def score(scorer, own):
        scores = score_texts(scorer, own)
        scores[[text == lost for text in own]] = np.nan
        return scores

    monkeypatch.setattr(page, "score_texts", score)
    selection = method(texts, queries["law"], proxy)
    assert lost not in [texts[i] for i in selection.indices]
    assert selection.weights.sum() == pytest.approx(NUM_TEXTS - 1)


def test_a_query_group_of_more_weight_gets_more(texts, queries, proxy):
    shares = []
    for weight in (0.05, 20.0):
        selection = select(texts, queries, proxy, query_weights={"law": weight}, **SELECT)
        shares.append(share_of("law", selection.indices))
    assert shares[0] + 0.2 < shares[1]


def test_no_cluster_gives_more_than_its_share(texts, queries, proxy):
    share = {"max_share_per_cluster": 0.15, "num_clusters": 12, "max_cluster_share": 1.0}
    # Any sequence of texts will do, such as an array.
    selection = select(np.array(texts), queries["law"], proxy, **(SELECT | share))
    own = selection.indices
    given = np.bincount(selection.clusters[own], weights=selection.tokens[own])
    assert 150 - 40 < given.max() <= 150 + 40
    assert abs(given.sum() - 1000) < 40


def test_a_fixed_threshold_is_kept_and_the_shortfall_is_said(texts, queries, proxy):
    plain = run_select(texts, queries["law"], proxy, acceptance="instance")
    tau = float(np.median(plain.influence[plain.indices]))
    selection = run_select(texts, queries["law"], proxy, acceptance="instance", tau=tau)
    assert selection.influence[selection.indices].min() >= tau
    assert "tokens are missing" in selection.shortfall
    nothing = run_select(texts, queries["law"], proxy, acceptance="propagate", tau=1e9)
    assert len(nothing.indices) == len(nothing.weights) == 0
    assert nothing.shortfall.startswith("1,000 of 1,000 tokens are missing")


@pytest.mark.parametrize("curvature", ["ekfac", "kfac", "identity"])
def test_training_on_the_kind_of_the_query_has_the_highest_influence(
    texts, queries, proxy, curvature
):
    influence = score_influence(
        texts, queries["law"], proxy, curvature=curvature, curvature_examples=32
    )
    assert influence.shape == (NUM_TEXTS,)
    assert influence.dtype == np.float64
    means = {kind: influence[i :: len(KINDS)].mean() for i, kind in enumerate(KINDS)}
    assert max(means, key=means.get) == "law"


@pytest.mark.parametrize("layers", ["attention", "head"])
def test_influence_without_curvature_is_the_product_of_single_backward_passes(
    texts, queries, proxy, layers
):
    few = [*texts[:6], ""]
    loaded = load_proxy(proxy)
    rows = np.stack([_gradient(loaded, text, layers) for text in few[:6]])
    target = np.mean([_gradient(loaded, text, layers) for text in queries["law"]], axis=0)
    for normalize, scale in ((False, 1.0), (True, np.linalg.norm(rows, axis=1))):
        influence = score_influence(
            few, queries["law"], proxy, layers=layers, curvature="identity", normalize=normalize
        )
        np.testing.assert_allclose(influence[:6], rows @ target / scale, rtol=1e-3, atol=1e-6)
        assert np.isnan(influence[6])


def test_influence_is_scored_on_one_query_group_at_a_time(queries, proxy):
    with pytest.raises(UsageError, match="score the query groups one by one"):
        score_influence(["law1 law2"], queries, proxy)


def test_landmarks_have_the_cosines_of_single_backward_passes(texts, queries, proxy):
    selection = distill(texts, queries, proxy, **DISTILL, curvature="identity")
    loaded = load_proxy(proxy)
    targets = [
        np.mean([_gradient(loaded, text) for text in own], axis=0) for own in queries.values()
    ]
    for i in np.flatnonzero(selection.is_landmark)[:6]:
        row = _gradient(loaded, texts[i])
        cosines = [row @ t / np.linalg.norm(row) / np.linalg.norm(t) for t in targets]
        np.testing.assert_allclose(selection.influence[i], cosines, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [run_select, run_distill])
def test_all_layers_and_the_head_find_the_kind_of_the_query(texts, queries, proxy, method):
    selection = method(texts, queries["law"], proxy, layers="all+head")
    assert share_of("law", selection.indices) > 0.5


@pytest.mark.parametrize("method", [run_select, run_distill])
def test_the_proxy_itself_can_embed(texts, queries, proxy, method):
    selection = method(texts, queries["law"], proxy, embedder="jvp")
    assert share_of("law", selection.indices) > 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "law1 law2"}, "texts must be a list of texts, got a single string"),
        ({"texts": []}, "texts is empty"),
        ({"texts": ["law1 law2", None]}, r"texts\[1\] must be a string, got NoneType"),
        ({"texts": ["law1 \ud800"]}, r"texts\[0\] holds half a surrogate pair"),
        ({"query_texts": []}, "query_texts is empty"),
        ({"query_texts": {}}, "query_texts is empty"),
        ({"query_texts": {"law": ["law1", 2]}}, r"query_texts\['law'\]\[1\] must be a string"),
        ({"query_texts": ["law1"]}, "no text of query group 'query' has at least 2 tokens"),
        ({"texts": ["law1", " "]}, "no text can be used"),
        ({"ids": ["a"]}, "there are 2 texts but 1 ids"),
        ({"ids": ["a", "a"]}, r"ids\[0\] and ids\[1\] are both 'a'"),
        ({"ids": ["a", ""]}, r"ids\[1\] is empty"),
        ({"ids": ["a", 7]}, r"ids\[1\] must be a string, got int"),
        ({"curvature": "hessian"}, "curvature must be one of ekfac, kfac, identity"),
        ({"curvature_labels": "none"}, "curvature_labels must be one of sampled, empirical"),
        ({"curvature_examples": 0}, "curvature_examples must be at least 1, got 0"),
        ({"damping": 0.0}, "damping must be positive and finite"),
        ({"layers": "regex:nothing"}, "nothing"),
        ({"proxy_model": "/nowhere/model"}, "nowhere"),
    ],
)
def test_what_no_method_can_use_is_refused_in_one_line(proxy, arguments, message):
    usual = {
        "texts": ["law1 law2", "law3 law4"],
        "query_texts": ["law1 law2"],
        "proxy_model": proxy,
    }
    more = {"embedder": "hashing", "budget_tokens": 10}
    for method, own in ((score_influence, {}), (select, more), (distill, more)):
        if method is score_influence and isinstance(arguments.get("query_texts"), dict):
            continue
        with pytest.raises(UsageError, match=message) as refusal:
            method(**usual | own | arguments)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget_tokens": 0}, "budget_tokens must be at least 1, got 0"),
        ({"budget_tokens": 1e6}, "budget_tokens must be a whole number, got 1000000.0"),
        ({"num_clusters": 0}, "num_clusters must be at least 1"),
        ({"samples_per_pull": 0}, "samples_per_pull must be at least 1"),
        ({"max_cluster_share": 0.0}, r"max_cluster_share must lie in \(0, 1\]"),
        ({"blocks_per_cluster": 3}, "blocks_per_cluster must be a power of two"),
        ({"num_rounds": 51}, "num_rounds must lie between 1 and 50"),
        (
            {"acceptance": "all"},
            "acceptance must be one of block, instance, propagate, cluster, shortlist",
        ),
        ({"acceptance": "shortlist", "shortlist": 0.5}, "at least 1 budget, got 0.5"),
        ({"acceptance": "shortlist", "shortlist": float("inf")}, "shortlist must be finite"),
        ({"tau": 0.1}, "tau is an option of the bandit; leave it out, or pass acceptance"),
        ({"max_share_per_cluster": 1.5}, r"max_share_per_cluster must lie in \(0, 1\]"),
        ({"tau": float("nan"), "acceptance": "block"}, "tau must be finite"),
        (
            {"query_weights": {"code": 1.0}},
            "query_weights has 'code', but the query groups are query",
        ),
        ({"query_weights": {"query": 0.0}}, r"query_weights\['query'\] must be positive"),
    ],
)
def test_what_quad_cannot_use_is_refused_before_a_model_is_loaded(arguments, message):
    with pytest.raises(UsageError, match=message):
        select(["a"], ["b"], "/nowhere/model", **{"budget_tokens": 10} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass one of budget_tokens and budget_examples"),
        (
            {"budget_tokens": 1, "budget_examples": 1},
            "pass one of budget_tokens and budget_examples",
        ),
        ({"budget_examples": 0}, "budget_examples must be at least 1"),
        ({"budget_tokens": 1, "num_landmarks": 0}, "num_landmarks must be at least 1"),
        ({"budget_tokens": 1, "ridge": 0.0}, "ridge must be positive"),
    ],
)
def test_what_influence_distillation_cannot_use_is_refused_before_a_model_is_loaded(
    arguments, message
):
    with pytest.raises(UsageError, match=message):
        distill(["a"], ["b"], "/nowhere/model", **arguments)


def test_the_lines_of_the_readme_run(world, texts, queries, tmp_path, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text().split("\n## From Python\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    (tmp_path / "targets.txt").write_text("\n".join(queries["law"]))
    monkeypatch.chdir(tmp_path)
    for told, tried in (
        ('"HuggingFaceTB/SmolLM2-135M"', repr(world.proxy)),
        ("budget_tokens=1_000_000", 'budget_tokens=1000, embedder="hashing"'),
    ):
        assert told in code
        code = code.replace(told, tried)
    names = {}
    exec(code, names)
    assert len(names["selection"].indices) > 10
    assert capsys.readouterr().out.count("law") > 10


def test_the_pages_load_no_beam_and_the_package_loads_no_page():
    code = (
        "import sys, beam_quad\nassert not {'torch', 'numpy'} & set(sys.modules)\n"
        "from beam_quad import distill, score_influence, select\n"
        "assert 'torch' in sys.modules\nassert 'apache_beam' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'selct'"):
        beam_quad.selct  # noqa: B018


def test_every_public_name_is_there():
    names = {"answer", "conversation", "distill", "score_influence", "select"}
    assert set(beam_quad.__all__) == names
    assert all(callable(getattr(beam_quad, name)) for name in beam_quad.__all__)


def _gradient(proxy, text: str, layers: str = "attention") -> np.ndarray:
    """The gradient of a text's mean loss, over all attention projections or the matrix that embeds and makes the logits."""
    part = {"attention": "self_attn", "head": "embed_tokens"}[layers]
    tracked = [p for name, p in proxy.model.named_parameters() if part in name]
    for parameter in tracked:
        parameter.requires_grad_(True)
    tokens = torch.tensor([proxy.tokenizer(text)["input_ids"]])
    loss = proxy.model(input_ids=tokens, labels=tokens).loss
    gradients = torch.autograd.grad(loss, tracked)
    return torch.cat([g.flatten() for g in gradients]).double().numpy()
