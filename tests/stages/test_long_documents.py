"""A document that is too long for the budget is passed over, by whatever a selection is made."""

import json

import pytest

from pipelines import influence_distillation, quad
from tests.pipelines.world import manifest_of, selected, text_of

WORDS = 4000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A hundred short documents, and a long one of the query's kind."""
    import numpy as np

    rng = np.random.default_rng(3)
    rows = [{"text": text_of(rng, kind)} for kind in ("biology", "law") for _ in range(50)]
    words = " ".join(text_of(rng, "biology") for _ in range(WORDS)).split()[:WORDS]
    rows.insert(17, {"text": " ".join(words)})
    path = tmp_path_factory.mktemp("long") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    "flags",
    [
        {"acceptance": "block", "weighted": True},
        {"acceptance": "instance"},
        {"acceptance": "propagate"},
        {"policy": "random"},
        {"policy": "cluster_uniform"},
        {"policy": "dsir"},
        {"policy": "similarity"},
        {"policy": "cluster_histogram"},
        {"policy": "loss_drop"},
        {"order": 1, "weighted": True},
        {"order": 2, "dtype": "float32"},
    ],
)
def test_a_document_of_many_times_the_budget_is_passed_over(world, corpus, tmp_path, flags):
    flags = {"input": corpus, "budget_tokens": 400, "num_clusters": 2, "num_rounds": 2} | flags
    output = tmp_path / "out"
    if "order" in flags:
        flags = {name: value for name, value in flags.items() if name[:4] != "num_"}
        arguments = world.distillation_arguments(output, num_landmarks=60, **flags)
        assert influence_distillation.main(arguments) == 0
    else:
        assert quad.main(world.arguments(output, **flags)) == 0
    manifest = manifest_of(output)
    assert manifest["passed_over"]["documents"] == 1
    assert manifest["passed_over"]["tokens"] == WORDS
    assert 300 < manifest["tokens"]["selected"] < 400 + 128
    assert max(row["tokens"] for row in selected(output)) <= manifest["passed_over"]["longer_than"]
    counts = manifest["counts"]
    assert counts["read"] == 101 == counts["selected"] + counts["not_selected"]
