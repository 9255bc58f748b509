"""The chain of Influence Distillation, in a plain loop, held to the page in memory."""

import collections
import pathlib

import numpy as np
import pytest
from scipy import stats

from beam_quad.stages.distillation.sketch import SketchLandmarks
from tests.pipelines.world import manifest_of, selected_ids, selected_rows
from tests.stages.pages import distill_corpus

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
KINDS = ("biology", "law", "code")


def hold_rows(rows, expected, tolerance):
    """Checks that rows say of their influence what the page says of it."""
    of = {example_id: i for i, example_id in enumerate(expected.ids)}
    for row in rows:
        why, at = row["beam_quad"], of[row["beam_quad"]["example_id"]]
        kind = "influence" if expected.is_landmark[at] else "predicted_influence"
        other = {"influence", "predicted_influence"} - {kind}
        value = expected.influence[at, expected.targets.index(why["target"])]
        assert why[kind] == pytest.approx(value, **tolerance)
        assert why[other.pop()] is None


def _tokens(rows):
    return sum(row["beam_quad"]["tokens"] for row in rows)


def _die(*_):
    raise RuntimeError("pulled the plug")


def _kinds(artifacts: pathlib.Path) -> collections.Counter[str]:
    """Counts the files in each folder of artifacts."""
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    return collections.Counter(path.relative_to(artifacts).parts[0] for path in files)


def test_the_pipeline_selects_and_weighs_what_the_page_does(world, distilled):
    expected = distill_corpus(world, {kind: world.query_of(kind) for kind in KINDS})
    assert selected_ids(distilled) == sorted(expected.ids[i] for i in expected.indices)
    hold_rows(selected_rows(distilled), expected, {"rel": 1e-3, "abs": 1e-7})
    weights = dict(zip(expected.indices.tolist(), expected.weights, strict=True))
    of = {example_id: i for i, example_id in enumerate(expected.ids)}
    for row in selected_rows(distilled):
        at = of[row["beam_quad"]["example_id"]]
        assert row["weight"] == pytest.approx(weights[at], rel=1e-2)


def test_sketches_select_and_weigh_nearly_what_the_page_does(world, tmp_path):
    queries = {kind: world.query_of(kind) for kind in KINDS[:2]}
    flags = {"query_group": [f"{k}={v}" for k, v in queries.items()], "query": None}
    world.distill(tmp_path / "out", curvature="identity", weighted=True, **flags)
    expected = distill_corpus(world, queries, curvature="identity")
    rows = selected_rows(tmp_path / "out")
    chosen = {row["beam_quad"]["example_id"] for row in rows}
    weights = dict(zip((expected.ids[i] for i in expected.indices), expected.weights, strict=True))
    # Sketches rest in half precision, so that neighbours in a ranking may change places.
    assert len(chosen & weights.keys()) > 0.98 * len(chosen | weights.keys())
    hold_rows(rows, expected, {"abs": 1e-3})
    pairs = [(row["weight"], weights.get(row["beam_quad"]["example_id"], 0.0)) for row in rows]
    assert stats.spearmanr(*zip(*pairs, strict=True)).statistic > 0.99


def test_every_target_gets_its_share_and_its_own_kind_fills_it(distilled):
    rows = selected_rows(distilled)
    for kind in KINDS:
        own = [row for row in rows if row["beam_quad"]["target"] == kind]
        assert _tokens(own) == pytest.approx(_tokens(rows) / 3, abs=40)  # the longest text
        assert np.mean([row["kind"] == kind for row in own]) > 0.7  # a fifth of the corpus is
    found = manifest_of(distilled)["targets"]
    assert {name: t["documents"] for name, t in found.items()} == {
        kind: sum(row["beam_quad"]["target"] == kind for row in rows) for kind in KINDS
    }


def test_targets_share_a_budget_by_their_weights_as_on_the_page(world, tmp_path):
    queries = {kind: world.query_of(kind) for kind in KINDS[:2]}
    flags = {"query_group": [f"{k}={v}" for k, v in queries.items()], "query": None}
    world.distill(tmp_path / "tokens", query_weight="law=3", **flags)
    expected = distill_corpus(world, queries, query_weights={"law": 3})
    rows = selected_rows(tmp_path / "tokens")
    assert selected_ids(tmp_path / "tokens") == sorted(expected.ids[i] for i in expected.indices)
    law = [row for row in rows if row["beam_quad"]["target"] == "law"]
    assert _tokens(law) == pytest.approx(_tokens(rows) * 3 / 4, abs=40)
    flags |= {"budget_tokens": None, "budget_examples": 80, "query_weight": "law=3"}
    found = world.distill(tmp_path / "examples", **flags)["targets"]
    assert (found["law"]["documents"], found["biology"]["documents"]) == (60, 20)


def test_weights_are_positive_where_selected_and_sum_to_the_examples_of_the_corpus(distilled):
    weights = [row["weight"] for row in selected_rows(distilled)]
    counts = manifest_of(distilled)["counts"]
    assert min(weights) > 0
    assert sum(weights) == pytest.approx(counts["read"] - counts["rejected"], rel=1e-9)
    equal = round(sum(weights) ** 2 / sum(weight**2 for weight in weights))
    assert f", worth {equal} equal ones" in (distilled / "report.html").read_text()


def test_rows_are_accounted_for_and_the_budget_is_met_to_within_one_example(
    world, distilled, tmp_path
):
    manifest = manifest_of(distilled)
    counts, tokens = manifest["counts"], manifest["tokens"]
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"] == 912
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40
    by_examples = world.distill(tmp_path / "out", budget_tokens=None, budget_examples=77)
    assert by_examples["counts"]["selected"] == 77


def test_another_seed_draws_other_landmarks(world, targets, distilled, tmp_path):
    world.distill(tmp_path / "out", query=None, query_group=targets, seed=1)
    scored = [
        {r["beam_quad"]["example_id"] for r in selected_rows(o) if r["beam_quad"]["influence"]}
        for o in (distilled, tmp_path / "out")
    ]
    assert len(scored[0] & scored[1]) < 0.5 * len(scored[0])


def test_another_query_set_finds_embeddings_and_sketches_made(world, tmp_path, monkeypatch):
    artifacts = tmp_path / "artifacts"
    flags = {"curvature": "identity", "artifacts": artifacts}
    world.distill(tmp_path / "law", query=world.query_of("law"), **flags)
    before = _kinds(artifacts)
    monkeypatch.setattr(SketchLandmarks, "do", _die)
    world.distill(tmp_path / "news", query=world.query_of("news"), **flags)
    assert {kind for kind, count in _kinds(artifacts).items() if count > before[kind]} == {
        "query_plan", "query_gradients", "query", "sketched_scores", "propagation", "propagated", "cuts",
        "near_duplicate_candidates", "near_duplicates", "leaks", "leaking", "item_embeddings", "paraphrases",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("embedder", "made"),
    [("hashing", set()), ("jvp", {"embeddings", "points", "corpus", "item_embeddings"})],
)
def test_what_quad_embedded_and_fitted_is_reused(world, tmp_path, embedder, made):
    artifacts = tmp_path / "artifacts"
    world.run(tmp_path / "quad", artifacts=artifacts, num_rounds=1)
    before = _kinds(artifacts)
    world.distill(tmp_path / "out", artifacts=artifacts, embedder=embedder)
    assert {kind for kind, count in _kinds(artifacts).items() if count > before[kind]} == {
        "draws", "landmarks", "landmark_scores", "propagation", "propagated", "cuts", "signatures",
        "near_duplicate_candidates", "near_duplicates", "paraphrases", *made
    }  # fmt: skip
