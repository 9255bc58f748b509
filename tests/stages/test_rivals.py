"""The rivals of influence as policies of the pipeline, held to what they select in memory."""

import collections
import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.errors import UsageError
from beam_quad.stages.read.embed_query import EmbedQuery
from pipelines import chain, options
from pipelines.inputs import look
from tests.pipelines.world import manifest_of, selected, selected_ids, selected_rows, text_of
from tests.stages.pages import hold_to_rival

# In memory clusters are as many, and as large, as by default.
DEFAULTS = {"num_clusters": None, "max_cluster_share": None}
POLICIES = {
    "similarity_best": {"policy": "similarity"},
    "similarity_mean": {"policy": "similarity", "similarity": "mean"},
    "cluster_histogram": {"policy": "cluster_histogram"},
    "loss_drop": {"policy": "loss_drop"},
}


@pytest.mark.parametrize("rival", POLICIES)
def test_a_policy_selects_what_the_rival_selects_in_memory(world, tmp_path, rival):
    manifest = world.run(tmp_path / "out", **DEFAULTS, **POLICIES[rival])
    rows = selected_rows(tmp_path / "out")
    hold_to_rival(world, rows, rival)
    assert 3000 <= manifest["tokens"]["selected"] < 3040
    assert manifest["query"] == {"query": {"used": 25, "unused": {}}}
    # Of five kinds; a random proxy learns little of one in a few steps.
    least = 0.4 if rival == "loss_drop" else 0.6
    assert np.mean([row["kind"] == "biology" for row in rows]) > least
    has_clusters = {row["beam_quad"]["cluster"] for row in rows} != {None}
    assert has_clusters is (rival == "cluster_histogram")


@pytest.mark.parametrize("rival", POLICIES)
def test_a_policy_takes_the_groups_of_a_query_set_together_and_draws_by_the_seed(
    world, tmp_path, rival
):
    queries = {kind: world.query_of(kind) for kind in ("biology", "law")}
    groups = [f"{kind}={folder}" for kind, folder in queries.items()]
    flags = DEFAULTS | POLICIES[rival] | {"query": None, "query_group": groups, "seed": 3}
    manifest = world.run(tmp_path / "out", **flags)
    hold_to_rival(world, selected_rows(tmp_path / "out"), rival, queries, seed=3)
    assert manifest["query"].keys() == queries.keys()


def test_n_grams_are_those_of_each_group_by_its_weight_on_beam_as_in_memory(world, tmp_path):
    queries = {kind: world.query_of(kind) for kind in ("biology", "law")}
    groups = [f"{kind}={folder}" for kind, folder in queries.items()]
    flags = {"policy": "ngram", "query": None, "query_group": groups, "near_duplicates": "keep"}
    world.launch(tmp_path / "out", **flags, query_weight="law=1.3")
    rows = selected_rows(tmp_path / "out")
    hold_to_rival(world, rows, "ngram", queries, query_weights={"law": 1.3})
    kinds = collections.Counter(row["kind"] for row in rows)
    assert kinds["law"] > kinds["biology"] > 0


def test_embeddings_serve_every_policy_that_looks_at_them(world, tmp_path):
    artifacts = tmp_path / "artifacts"
    flags = DEFAULTS | {"artifacts": artifacts, "near_duplicates": "keep"}
    world.run(tmp_path / "a", **flags, policy="cluster_histogram")
    before = set(artifacts.rglob("*.*"))
    world.run(tmp_path / "b", **flags, policy="similarity")
    made = {path.relative_to(artifacts).parts[0] for path in set(artifacts.rglob("*.*")) - before}
    assert made == {"similarity", "cuts", "paraphrases"}


class Embedder:
    """Gives a text a vector if it is about biology."""

    dim = 2

    def embed(self, texts):
        return np.array([[text.startswith("biology"), 0] for text in texts], np.float32)


def _embedded(world, output, *texts):
    """Builds the stage that embeds a query set, runs its pieces and returns it, with their sum."""
    query = output.parent / "q.jsonl"
    query.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    parsed, _ = options.parse(world.arguments(output, policy="similarity", query=query))
    built = chain.build(parsed, look(parsed))
    built.write_plans()
    (stage,) = (stage for stage in built.stages if isinstance(stage, EmbedQuery))
    (piece,) = stage.pieces()
    total = stage.do(piece, Embedder())
    assert stage.statistic(piece) == total
    return stage, total


def test_a_query_text_without_a_vector_counts_as_unused(world, tmp_path):
    stage, total = _embedded(world, tmp_path / "out", "biology1", "law1", "", "biology2")
    stage.finish(total)
    unused = {"empty_text": 1, "no_embedding": 1}
    assert stage.groups() == {"query": {"documents": 2, "unused": unused}}
    assert stage.points()[0].tolist() == [[1, 0], [1, 0]]
    assert stage.point_sum().count == 2


def test_a_query_set_without_a_vector_is_refused(world, tmp_path):
    stage, total = _embedded(world, tmp_path / "out", "law1", "law2")
    with pytest.raises(UsageError, match="no text of the query set has an embedding"):
        stage.finish(total)


def test_similarity_needs_no_proxy_where_tokens_are_counted(world, tmp_path):
    flags = {"policy": "similarity", "proxy_model": None, "tokens_column": "n"}
    manifest = world.run(tmp_path / "out", **flags)
    assert manifest["fingerprints"]["proxy"] == ""
    assert manifest["tokens"]["selected"] >= 3000


def _write(table: pa.Table, path: pathlib.Path) -> None:
    """Writes a file whose size and footer tell nothing of its values."""
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, row_group_size=70, **plain)


@pytest.fixture
def scored(tmp_path) -> pathlib.Path:
    """A corpus with scores of every kind in a field of a struct, in Parquet and as lines."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(6)
    texts = [text_of(rng, "law") for _ in range(400)]
    scores: list[float | None] = [float(value) for value in rng.permutation(400)]
    scores[3:6] = [None, float("nan"), float("inf")]
    table = pa.table({"text": texts[:200], "meta": [{"score": own} for own in scores[:200]]})
    _write(table, folder / "a.parquet")
    rows = [
        {"text": text, "meta": {"score": own}}
        for text, own in zip(texts[200:], scores[200:], strict=True)
    ]
    odd = ["high", True, None, [1.0]]
    for row, value in zip(rows, odd, strict=False):
        row["meta"] = {"score": value}
    rows[4] = {"text": texts[204]}
    lines = [json.dumps(row) for row in rows]
    lines[5] = json.dumps({"text": texts[205], "meta": {"score": 0}})[:-2] + ".5e400}}"
    (folder / "b.jsonl").write_text("\n".join(lines))
    return folder


def test_a_score_of_the_input_is_taken_from_the_highest_down(world, scored, tmp_path):
    flags = {"policy": "score_column", "score_column": "meta.score", "query": None}
    manifest = world.run(tmp_path / "out", input=scored, **flags, columns="text")
    rows = selected_rows(tmp_path / "out")
    # What met in the column is JSON text: its numbers are read as they are in a row.
    brought = [json.loads(row["meta"])["score"] for row in rows]
    assert 100 < len(rows) < 200
    # All there are above the lowest that is taken.
    left = {float(i) for i in range(400)} - set(brought)
    assert manifest["rejected"] == {"not_finite": 9}
    assert sum(own > min(brought) for own in left) <= 9
    assert manifest["counts"]["scored"] == 391
    rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    places = {(row["shard"], row["row"]) for row in rejected}
    assert places == {
        *(("a.parquet", i) for i in range(3, 6)),
        *(("b.jsonl", i) for i in range(6)),
    }


def test_scores_are_read_again_when_they_change_and_only_then(world, scored, tmp_path):
    artifacts = tmp_path / "artifacts"
    flags = {"input": scored, "artifacts": artifacts, "score_column": "meta.score", "query": None}
    first = world.run(tmp_path / "first", policy="score_column", **flags)
    made = set(artifacts.glob("score_column/*/rows/*"))
    os.utime(scored / "a.parquet", (1, 1))
    assert world.run(tmp_path / "again", policy="score_column", **flags) == first
    assert set(artifacts.glob("score_column/*/rows/*")) == made
    table = pq.read_table(scored / "a.parquet")
    size = (scored / "a.parquet").stat().st_size
    brought = [own["score"] for own in table.column("meta").to_pylist()]
    upside_down = [{"score": None if own is None else 1000 - own} for own in brought]
    changed = table.set_column(1, "meta", [upside_down])
    _write(changed, scored / "a.parquet")
    assert (scored / "a.parquet").stat().st_size == size
    # A policy that does not read scores finds the texts as they were.
    os.utime(scored / "a.parquet", (2, 2))
    flags.pop("score_column")
    world.run(tmp_path / "random", policy="random", **flags)
    flags["score_column"] = "meta.score"
    world.run(tmp_path / "changed", policy="score_column", **flags)
    fresh = world.run(tmp_path / "fresh", policy="score_column", **flags | {"artifacts": None})
    assert manifest_of(tmp_path / "changed")["counts"] == fresh["counts"]
    assert selected_ids(tmp_path / "changed") == selected_ids(tmp_path / "fresh")
    assert selected_ids(tmp_path / "changed") != selected_ids(tmp_path / "first")


def test_a_column_of_whole_numbers_ranks_rows(world, tmp_path):
    world.launch(tmp_path / "out", policy="score_column", score_column="n", query=None)
    rows = selected_rows(tmp_path / "out")
    assert min(row["n"] for row in rows) > 700
    assert {own["influence"] for own in selected(tmp_path / "out")} == {None}
