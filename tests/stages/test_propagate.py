"""`--acceptance propagate` on the local runner."""

import pathlib

import numpy as np
import pytest

from beam_quad import seeding
from beam_quad.bandit import block_of
from beam_quad.distillation import KernelRidge
from beam_quad.distillation.within_clusters import MIN_LANDMARKS, RIDGE
from beam_quad.stages.quad.regressions import FitWithinClusters
from pipelines import chain, options
from pipelines.inputs import look
from tests.pipelines.world import World, manifest_of, selected

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam"),
    pytest.mark.timeout(300),
]
FLAGS = {"acceptance": "propagate", "num_clusters": 8, "blocks_per_cluster": 8}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def propagated(
    world: World, artifacts: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    output = tmp_path_factory.mktemp("propagated") / "out"
    world.run(output, artifacts=artifacts, **FLAGS)
    return output


@pytest.fixture(scope="module")
def stage(world: World, artifacts: pathlib.Path, propagated: pathlib.Path) -> FitWithinClusters:
    parsed, _ = options.parse(world.arguments(propagated, artifacts=artifacts, **FLAGS))
    built = chain.build(parsed, look(parsed))
    return next(stage for stage in built.stages if isinstance(stage, FitWithinClusters))


def test_the_selection_is_what_the_same_regressions_rank_highest_in_memory(propagated, stage):
    known, rows = stage.pulled.scored(), read_corpus(stage)
    exact, predicted = dict(zip(known["key"], known["influence"], strict=True)), {}
    for cluster in np.unique(known["cluster"]):
        landmarks = np.flatnonzero(
            (rows["cluster"] == cluster) & np.isin(rows["key"], known["key"])
        )
        values = np.array([exact[key] for key in rows["key"][landmarks]])
        at = np.flatnonzero(rows["cluster"] == cluster)
        if len(landmarks) < MIN_LANDMARKS:
            pulled = known["block"][known["cluster"] == cluster]
            at = at[np.isin(rows["block"][at], pulled)]
            found = np.full(len(at), np.average(values, weights=rows["tokens"][landmarks]))
        else:
            vectors, keys = rows["vector"][landmarks], rows["key"][landmarks]
            fitted = KernelRidge.fit(vectors, values[:, None], keys, ridge=RIDGE)
            found = fitted.predict(rows["vector"][at])[:, 0]
        predicted |= dict(zip(at.tolist(), found, strict=True))
    value = {i: exact.get(rows["key"][i], predicted[i]) for i in predicted}
    order = sorted(value, key=lambda i: -value[i])
    order = order[: int(np.searchsorted(np.cumsum(rows["tokens"][order]), 3000)) + 1]

    written = {row["example_id"]: row for row in selected(propagated)}
    assert sorted(written) == sorted(rows["id"][order])
    names = ("predicted_influence", "influence")
    is_exact = [rows["key"][i] in exact for i in order]
    assert 0 < sum(is_exact) < len(order)
    for i, known_one in zip(order, is_exact, strict=True):
        row = written[rows["id"][i]]
        assert row[names[known_one]] == pytest.approx(value[i], rel=1e-5)
        assert row[names[not known_one]] is None
        assert (row["cluster"], row["block"]) == (rows["cluster"][i], rows["block"][i])


def test_the_budget_is_met_to_within_one_example(propagated):
    tokens = manifest_of(propagated)["tokens"]
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40


def test_the_mean_that_is_told_is_not_that_of_examples_taken_for_their_own_score(propagated):
    told = manifest_of(propagated)["influence"]
    exact = [row["influence"] for row in selected(propagated) if row["influence"] is not None]
    assert told["random_mean"] < told["selected_mean_held_out"] < np.mean(exact)


def test_nothing_below_a_fixed_threshold_is_taken_and_the_shortfall_is_said(
    world, artifacts, tmp_path
):
    manifest = world.run(tmp_path / "out", artifacts=artifacts, tau=0.06, **FLAGS)
    rows = selected(tmp_path / "out")
    values = [row["influence"] or row["predicted_influence"] for row in rows]
    assert min(values) >= 0.06
    missing = 3000 - manifest["tokens"]["selected"]
    assert manifest["shortfall"].startswith(f"{missing:,} of 3,000 tokens are missing")
    assert "lower --tau" in manifest["shortfall"]


def read_corpus(stage: FitWithinClusters) -> dict[str, np.ndarray]:
    """Reads what is known of every usable row, in columns."""
    parts = []
    for split in stage.corpus.splits():
        rows = stage.corpus.rows(split)
        vectors = stage.corpus.embeddings(split)
        cluster, _ = stage.pulled.arms(split, rows)
        parts.append(
            {
                "id": np.array(
                    [f"{split.shard}#{split.first_row + i}" for i in range(len(cluster))]
                ),
                "key": rows.keys,
                "tokens": rows.tokens,
                "cluster": cluster,
                "vector": np.concatenate([vector for _, vector in vectors]),
            }
        )
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table = {name: column[table["cluster"] >= 0] for name, column in table.items()}
    num = stage.pulled.bandit.candidates.blocks.load().num_blocks
    draws = seeding.uniform(stage.corpus.seed, "block", table["key"])
    return table | {"block": block_of(table["cluster"], draws, num)}
