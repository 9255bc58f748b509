"""`--order=2` of Influence Distillation, on the local runner."""

import json

import numpy as np
import pytest

from beam_quad.errors import UsageError
from beam_quad.records import Budget
from beam_quad.stages.distillation import shortlist
from pipelines import influence_distillation
from tests.pipelines.world import manifest_of, selected_ids, selected_rows, text_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")

NUMBERS = {"interaction_landmarks": 40, "interaction_texts": 4, "curvature": "identity"}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """Runs with two targets, on artifacts that all runs share."""
    root = tmp_path_factory.mktemp("order")
    targets = [f"{kind}={world.query_of(kind)}" for kind in ("biology", "law")]
    common = {"query": None, "query_group": targets, "artifacts": root / "run", "weighted": True}

    def run(name, **flags):
        output = root / name
        if not (output / "COMPLETE").exists():
            world.distill(output, **(common | NUMBERS | flags))
        return output

    return run


def test_without_a_step_it_is_the_first_order(run):
    first, zero = run("first"), run("zero", order=2, eta=0)
    assert selected_ids(zero) == selected_ids(first)
    rows = [{r["beam_quad"]["example_id"]: r for r in selected_rows(o)} for o in (zero, first)]
    for example_id, row in rows[0].items():
        other = rows[1][example_id]["beam_quad"] | {"since": row["beam_quad"]["since"]}
        assert row["beam_quad"] == other
    weights = [(row["weight"], rows[1][at]["weight"]) for at, row in rows[0].items()]
    # The first order leaves out what another target takes; the second knows each target's own list alone.
    assert np.corrcoef(np.array(weights).T)[0, 1] > 0.99


def test_the_budget_is_held_and_weights_sum_to_the_examples_of_the_corpus(run):
    output = run("second", order=2)
    manifest = manifest_of(output)
    tokens, counts = manifest["tokens"], manifest["counts"]
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40
    assert "New in order 2" in (output / "report.html").read_text()
    rows = selected_rows(output)
    assert min(row["weight"] for row in rows) > 0
    assert sum(row["weight"] for row in rows) == pytest.approx(counts["read"] - counts["rejected"])
    assert len(selected_ids(output)) == len(set(selected_ids(output)))
    facts = manifest["second_order"]
    assert facts["landmarks"] == 40
    assert facts["texts"] == {"biology": 4, "law": 4}
    for name, found in facts["targets"].items():
        assert found["eta"] > 0
        assert found["regularization"] > 0
        assert not found["was_raised"]  # the Gauss-Newton matrix has no negative eigenvalue
        assert found["shared_with_first_order"] < manifest["targets"][name]["documents"]


def test_a_shortlist_of_what_the_first_order_takes_is_the_first_order(run):
    assert selected_ids(run("short", order=2, shortlist=1)) == selected_ids(run("first"))


def test_examples_that_are_nearly_the_same_are_taken_less_than_in_the_first_order(world, tmp_path):
    rng = np.random.default_rng(5)
    corpus = [{"text": text_of(rng, kind), "copy": False} for kind in ("law", "biology") * 200]
    words = json.loads((world.root / "query" / "query.jsonl").read_text().split("\n")[0])["text"]
    for _ in range(60):
        copy = words.split()
        copy[int(rng.integers(len(copy)))] = f"biology{rng.integers(40)}"
        corpus.append({"text": " ".join(copy), "copy": True})
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in corpus))
    flags = {"input": path, "budget_tokens": None, "budget_examples": 80, "weighted": True}
    # Left in, so that there is what shares its weight.
    flags |= {"near_duplicates": "keep", "keep_query_copies": True}
    copies, weight = [], []
    for order in (1, 2):
        output = tmp_path / f"out{order}"
        flags |= {"eta": 1} if order == 2 else {}
        world.distill(output, artifacts=tmp_path / "run", order=order, **flags, **NUMBERS)
        own = [row for row in selected_rows(output) if row["copy"]]
        copies.append(len(own))
        weight.append(sum(row["weight"] for row in own))
    assert copies[1] < 0.8 * copies[0]
    assert weight[1] < 0.8 * weight[0]


def test_what_the_second_order_cannot_do_is_refused_in_one_line(
    world, run, tmp_path, capsys, monkeypatch
):
    def refused(**flags):
        assert influence_distillation.main(world.distillation_arguments(tmp_path, **flags)) == 2
        return capsys.readouterr().err

    assert "pass --dtype=float32, or --order=1" in refused(order=2, dtype="bfloat16")
    adam = {"optimizer_state": "adam.safetensors", "curvature": "identity"}
    assert "of the first order here" in refused(order=2, **adam)
    assert "--eta must be at least 0" in refused(order=2, eta=-1)
    assert "--shortlist must be at least 1" in refused(order=2, shortlist=0)
    monkeypatch.setattr(shortlist, "SHORTLIST", Budget(30, "examples"))
    with pytest.raises(UsageError, match="the first order selects more; lower --budget_tokens"):
        run("long", order=2)
