"""`--acceptance propagate` on the local runner."""

import pathlib
from typing import Any

import numpy as np
import pytest

from beam_quad.distillation import KernelRidge
from beam_quad.io import aligned
from tests.pipelines.world import World, manifest_of, selected

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam"),
    pytest.mark.timeout(300),
]
BUDGET = 3000


@pytest.fixture(scope="module")
def propagated(world: World, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("propagated") / "out"
    world.run(output, acceptance="propagate", budget_tokens=BUDGET, alpha=1.0)
    return output


def test_the_selection_is_what_the_same_regressions_predict_to_be_best_in_memory(propagated):
    scored = _scored(propagated)
    corpus = _corpus(propagated)
    codes = {(c, b) for c, b in zip(scored["cluster"], scored["block"], strict=True)}
    predicted: dict[int, float] = {}
    for cluster in np.unique(scored["cluster"]):
        own = scored["cluster"] == cluster
        at = _places(corpus, scored["key"][own])
        influence, tokens = scored["influence"][own], scored["tokens"][own]
        pulled = [
            i for i in np.flatnonzero(corpus["cluster"] == cluster)
            if (cluster, corpus["block"][i]) in codes
        ]  # fmt: skip
        values = np.full(len(pulled), influence @ tokens / tokens.sum())
        if own.sum() >= 8:
            fitted = KernelRidge.fit(corpus["embedding"][at], influence[:, None], corpus["key"][at])
            values = fitted.predict(corpus["embedding"][pulled])[:, 0]
        predicted |= dict(zip(pulled, values, strict=True)) | dict(zip(at, influence, strict=True))
    order = sorted(predicted, key=lambda i: -predicted[i])
    enough = int(np.searchsorted(np.cumsum(corpus["tokens"][order]), BUDGET)) + 1
    rows = {row["example_id"]: row for row in selected(propagated)}
    assert sorted(rows) == sorted(corpus["id"][order[:enough]])
    exact = {corpus["id"][i] for i in _places(corpus, scored["key"])}
    assert exact & rows.keys()
    assert rows.keys() - exact
    for i in order[:enough]:
        row = rows[corpus["id"][i]]
        is_exact = row["example_id"] in exact
        name, other = ("influence", "predicted_influence")[:: 1 if is_exact else -1]
        assert row[name] == pytest.approx(predicted[i], rel=1e-5)
        assert row[other] is None
