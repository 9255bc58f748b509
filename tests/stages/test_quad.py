"""The chain of Quad and of the baselines, in a plain loop, held to the page in memory."""

import json
import os
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import clock, files
from beam_quad.stages import CutBlocks
from pipelines import chain, options
from pipelines.inputs import look
from tests.pipelines.world import (
    manifest_of,
    selected,
    selected_ids,
    selected_rows,
    text_of,
)
from tests.stages.pages import hold_to_quad

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


@pytest.fixture(scope="module")
def by_groups(world, tmp_path_factory):
    """A finished run for two query groups, one of twice the other's weight."""
    output = tmp_path_factory.mktemp("groups") / "out"
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("biology", "law")]
    world.run(output, query=None, query_group=groups, query_weight=["law=2"])
    return output


def _files(folder: pathlib.Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in clock.ENDINGS
    }


def test_the_pipeline_selects_what_the_page_selects(world, finished):
    hold_to_quad(world, selected_rows(finished))


def test_of_a_split_without_the_cluster_of_a_cut_block_nothing_else_is_read(
    world, finished, monkeypatch
):
    parsed, _ = options.parse(world.arguments(finished))
    cut = next(s for s in chain.build(parsed, look(parsed)).stages if isinstance(s, CutBlocks))
    split = cut.corpus.splits()[0]
    clusters, blocks = cut.pulled.arms(split, cut.corpus.rows(split))
    opened, open_read = [], files.open_read
    monkeypatch.setattr(files, "open_read", lambda path: opened.append(path) or open_read(path))
    for cluster, block, is_there in (
        (clusters.max(), blocks[clusters.argmax()], True),
        (99, 0, False),
    ):
        monkeypatch.setattr(CutBlocks, "_cuts", lambda _, arm=(int(cluster), int(block)): {arm: 1})
        opened.clear()
        assert (len(cut.do(split, None).bucket) > 0) == is_there
        assert (len(opened) > 1) == is_there


def test_every_row_is_accounted_for_and_the_budget_is_met_to_within_one_example(finished):
    manifest = manifest_of(finished)
    counts, tokens = manifest["counts"], manifest["tokens"]
    assert counts["read"] == 912
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    assert manifest["rejected"] == {
        "empty_text": 2, "invalid_utf8": 2, "malformed_json": 4, "not_a_string": 2, "null_text": 2
    }  # fmt: skip
    rows = selected(finished)
    assert len(rows) == counts["selected"] == len({row["example_id"] for row in rows})
    assert sum(row["tokens"] for row in rows) == tokens["selected"]
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40


def test_the_selection_prefers_the_kind_of_the_query(finished):
    tables = [pq.read_table(p) for p in (finished / "selected").glob("*.parquet")]
    kinds = [kind for table in tables for kind in table.column("kind").to_pylist()]
    assert np.mean(np.array(kinds) == "biology") > 0.4  # a fifth of the corpus is


def test_another_budget_on_the_same_artifacts_scores_only_what_is_new(world, tmp_path):
    artifacts = tmp_path / "artifacts"
    world.run(tmp_path / "a", artifacts=artifacts)
    before = _files(artifacts)
    manifest = world.run(tmp_path / "b", artifacts=artifacts, budget_tokens=6000)
    made = {path.split("/")[0] for path in _files(artifacts) - before}
    assert made == {"accepted", "evidence", "paraphrases", "passed_over", "rounds", "scores"}
    rescored = [
        table.num_rows
        for path in _files(artifacts) - before
        if path.startswith("scores/")
        for table in [pq.read_table(artifacts / path)]
    ]
    assert sum(rescored) < manifest["counts"]["scored"]
    fresh = world.run(tmp_path / "c", budget_tokens=6000)
    assert manifest == fresh


def test_the_report_says_what_share_of_the_variance_clusters_explain(finished):
    share = manifest_of(finished)["influence"]["intra_cluster_correlation"]
    assert 0.1 < share < 1  # the clusters are the planted kinds
    assert f"clusters explain {share:.0%} of the variance" in (finished / "report.html").read_text()


def test_the_halves_of_the_query_set_agree(finished):
    # Four of the five kinds have nothing to do with the query, and the order among them is chance.
    assert 0.1 < manifest_of(finished)["halves"]["query"] < 1


def test_the_page_divides_influence_among_the_layers_of_the_proxy(finished):
    (path,) = finished.glob("_run/halves/*/halves.json")
    layers = json.loads(path.read_text())["query"]["layers"]
    assert [part[:2] for part in layers] == [[0, "attention"], [1, "attention"]]
    assert sum(share for *_, share in layers) == pytest.approx(1)
    page = (finished / "report.html").read_text()
    assert "Share of the variance of influence" in page


@pytest.mark.parametrize(
    "policy", ["random", "perplexity", "influence_top_k", "cluster_uniform", "dsir"]
)
def test_a_baseline_meets_the_budget(world, tmp_path, policy):
    manifest = world.run(tmp_path / "out", policy=policy)
    tokens = manifest["tokens"]
    assert tokens["budget"] <= tokens["selected"] < tokens["budget"] + 40
    tables = [pq.read_table(p) for p in (tmp_path / "out" / "selected").glob("*.parquet")]
    kinds = np.array([kind for table in tables for kind in table.column("kind").to_pylist()])
    share = np.mean(kinds == "biology")
    if policy in ("influence_top_k", "dsir"):
        assert share > 0.5
    if policy in ("random", "cluster_uniform"):
        assert share < 0.4
    clusters = {row["cluster"] for row in selected(tmp_path / "out")}
    assert clusters == set(range(12)) if policy == "cluster_uniform" else clusters == {None}


@pytest.mark.parametrize("acceptance", ["instance", "cluster"])
def test_other_rules_of_acceptance_select_what_the_page_selects(world, tmp_path, acceptance):
    world.run(tmp_path / "out", acceptance=acceptance, weighted=True)
    hold_to_quad(world, selected_rows(tmp_path / "out"), acceptance=acceptance)


def test_instance_acceptance_takes_only_what_it_scored(world, tmp_path):
    manifest = world.run(tmp_path / "out", acceptance="instance")
    rows = selected(tmp_path / "out")
    assert all(row["influence"] is not None for row in rows)
    assert manifest["tokens"]["selected"] == sum(row["tokens"] for row in rows)
    assert manifest["influence"]["selected_mean"] > manifest["influence"]["random_mean"]


def test_several_query_groups_are_weighed_by_their_spread(by_groups):
    kinds = [row["kind"] for row in selected_rows(by_groups)]
    assert np.mean(np.isin(kinds, ["biology", "law"])) > 0.6
    assert "law" in (by_groups / "report.html").read_text()


def test_the_pipeline_selects_for_several_query_groups_what_the_page_selects(world, by_groups):
    queries = {kind: world.query_of(kind) for kind in ("biology", "law")}
    hold_to_quad(world, selected_rows(by_groups), queries, query_weights={"law": 2})


def test_a_repeated_or_missing_id_is_rejected_and_the_first_stays(world, tmp_path):
    rng = np.random.default_rng(2)
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(2):
        rows = [{"text": text_of(rng, "law"), "id": f"id-{i}"} for i in range(120)]
        rows[7]["id"] = "id-3"
        rows[9]["id"] = None
        (folder / f"{shard}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = world.run(tmp_path / "out", input=folder, id_column="id", policy="random")
    assert manifest["rejected"] == {"duplicate_id": 120, "null_id": 2}
    table = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    duplicates = {(r["shard"], r["row"]) for r in table if r["reason"] == "duplicate_id"}
    assert ("0.jsonl", 7) in duplicates
    assert ("0.jsonl", 3) not in duplicates
    assert all(row["example_id"].startswith("id-") for row in selected(tmp_path / "out"))


def test_bad_files_when_planning_and_names_that_are_not_utf8_do_not_stop_a_run(world, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    rng = np.random.default_rng(3)
    lines = [json.dumps({"text": text_of(rng, "law")}) for _ in range(300)]
    (folder / os.fsdecode(b"\xe9.jsonl")).write_text("\n".join(lines))
    (folder / "page.jsonl").write_text("<html>\n")
    (folder / "cut.parquet").write_bytes(b"PAR1")
    (folder / "README.md").write_text("# Texts\n")
    output = tmp_path / "out"
    manifest = world.run(output, input=folder, policy="random", on_bad_file="reject")
    counts = manifest["counts"]
    assert (counts["read"], counts["bad_files"], counts["rejected"]) == (300, 2, 0)
    assert manifest["input"]["root"] == str(folder)
    refused = pq.read_table(output / "rejected").to_pylist()
    assert {row["shard"]: (row["row"], row["reason"]) for row in refused} == {
        "page.jsonl": (None, "bad_file"),
        "cut.parquet": (None, "bad_file"),
    }
    assert all(name.startswith("\\xe9.jsonl#") for name in selected_ids(output))


def test_jsonl_output_carries_the_rows_as_they_were(world, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(4)
    lines = [f'{{"text": "{text_of(rng, "law")}",  "x": 1.50, "i": {i}}}' for i in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    world.run(tmp_path / "out", input=folder, policy="random", output_format="jsonl")
    (part,) = (tmp_path / "out" / "selected").glob("*.jsonl")
    for line in part.read_text().splitlines():
        number = json.loads(line)["i"]
        assert line.startswith(lines[number][:-1])
        assert json.loads(line)["beam_quad"]["example_id"] == f"a.jsonl#{number}"
