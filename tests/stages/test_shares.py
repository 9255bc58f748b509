"""Shares of the budget, in a plain loop, held to the pages in memory."""

import collections
import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import files
from beam_quad.errors import UsageError
from beam_quad.stages import run_in_process
from pipelines import (
    chain,
    distillation_chain,
    distillation_options,
    options,
    recorded,
    refresh,
)
from pipelines.inputs import look
from pipelines.shares import read_shares
from tests.pipelines.world import (
    World,
    manifest_of,
    output_bytes,
    read_columns,
    selected_ids,
    selected_rows,
)
from tests.stages.pages import distill_corpus, hold_to_quad, hold_to_rival

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
SHARES = ["kind=law >= 0.3", "kind=noise = 0", "n > 400 <= 0.4"]
BUDGET = 3000


def check(manifest: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Checks that `SHARES` hold to a document, and that the manifest counts what was selected."""
    got: collections.Counter[str] = collections.Counter()
    for row in rows:
        tokens = row["beam_quad"]["tokens"]
        got += {"all": tokens, row["kind"]: tokens, "late": tokens * (row["n"] > 400)}
    longest = 40
    assert BUDGET <= got["all"] < BUDGET + longest
    assert (got["noise"], got["law"] > 900 - longest) == (0, True)
    assert got["late"] < 1200 + longest
    found = {own["bound"]: own["selected"] for own in manifest["shares"]["bounds"]}
    assert [found[text] for text in SHARES] == [got["law"], 0, got["late"]]
    counts = manifest["counts"]
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    assert manifest["shortfall"] is None


def test_the_shortlist_fills_shares_as_the_page_does(world: World, tmp_path):
    flags: dict[str, Any] = {"acceptance": "shortlist", "weighted": True, "share": SHARES}
    manifest = world.run(tmp_path / "out", **flags, max_share_per_cluster=0.25)
    rows = selected_rows(tmp_path / "out")
    check(manifest, rows)
    hold_to_quad(
        world, rows, acceptance="shortlist", shares=SHARES, max_share_per_cluster=0.25,
        columns=read_columns(world.corpus, "kind", "n"),
    )  # fmt: skip
    facts = manifest["shares"]
    assert facts["mean"]["selected"] < facts["mean"]["without_bounds"]
    assert facts["clusters"]["highest_price_per_million"] > 0
    assert facts["clusters"]["most_selected"] < 0.25 * BUDGET + 40
    assert "Cost of the next million" in (tmp_path / "out" / "report.html").read_text()


def test_a_rival_fills_shares_as_in_memory(world: World, tmp_path):
    manifest = world.run(tmp_path / "out", policy="ngram", share=SHARES, near_duplicates="keep")
    check(manifest, selected_rows(tmp_path / "out"))
    law = manifest["shares"]["bounds"][0]
    assert law["is_binding"]
    assert law["price_per_million"] >= law["saving_per_million"] > 0
    columns = read_columns(world.corpus, "kind", "n")
    rows = selected_rows(tmp_path / "out")
    hold_to_rival(world, rows, "ngram", shares={"shares": SHARES, "columns": columns})


def test_what_cannot_be_met_is_refused_before_anything_is_scored(world: World, tmp_path):
    share = ["kind=law >= 0.3", "n < 40 >= 0.9"]
    with pytest.raises(UsageError, match=r"--share 'n < 40 >= 0.9' asks for 2,700 of 3,000 tokens"):
        world.run(tmp_path / "out", acceptance="shortlist", share=share)
    made = {path.name for path in (tmp_path / "out" / "_run").iterdir()}
    assert "patterns" in made
    assert not made & {"covariances", "corpus_scores", "query", "token_ngrams"}


def test_several_targets_fill_shares_together_as_on_the_page(world: World, tmp_path):
    queries = {kind: world.query_of(kind) for kind in ("biology", "law")}
    groups = [f"{kind}={folder}" for kind, folder in queries.items()]
    shares = [*SHARES, "n < 20 >= 0.1"]
    flags = {"query": None, "query_group": groups, "weighted": True, "share": shares}
    manifest = world.distill(tmp_path / "out", **flags)
    rows = selected_rows(tmp_path / "out")
    check(manifest, rows)
    # Of twenty documents the uniform sample of 200 has too few.
    assert manifest["landmarks"]["scored"] > 200
    columns = read_columns(world.corpus, "kind", "n")
    expected = distill_corpus(world, queries, shares=shares, columns=columns)
    assert expected.is_landmark.sum() == manifest["landmarks"]["scored"]
    assert len(rows) == len(expected.indices)
    named = {row["beam_quad"]["example_id"]: row["beam_quad"]["target"] for row in rows}
    assert named == {
        expected.ids[i]: expected.targets[taker]
        for i, taker in zip(expected.indices, expected.takers, strict=True)
    }
    assert expected.shares is not None
    for found, own in zip(manifest["shares"]["bounds"], expected.shares["bounds"], strict=True):
        assert found["price_per_million"] == pytest.approx(own["price_per_million"], rel=1e-2)


@pytest.mark.parametrize("acceptance", ["block", "cluster", "propagate"])
def test_a_bandit_fills_shares_as_the_page_does(world: World, tmp_path, acceptance):
    manifest = world.run(tmp_path / "out", acceptance=acceptance, share=SHARES, weighted=True)
    rows = selected_rows(tmp_path / "out")
    check(manifest, rows)
    columns = read_columns(world.corpus, "kind", "n")
    page = hold_to_quad(world, rows, acceptance=acceptance, shares=SHARES, columns=columns)
    # Of the group that a share asks for, documents are scored that no pull scored, and count as all others.
    (scores,) = (tmp_path / "out" / "_run" / "share_draw_scores").glob("*/scores.json")
    assert json.loads(scores.read_text())["scored"] > 0
    assert manifest["counts"]["scored"] == np.isfinite(page.influence).sum()


def test_on_beam_after_a_kill_and_in_a_loop_the_bytes_are_the_same(world: World, tmp_path):
    """With texts left out by id, near-duplicates and a table, as an output of which some stages are done."""
    corpus, table = tmp_path / "corpus", tmp_path / "shares.csv"
    shutil.copytree(world.corpus, corpus)
    copies = [row["text"] for row in pq.read_table(corpus / "part-0.parquet").to_pylist()[:40]]
    lines = [json.dumps({"text": text, "kind": "law", "n": 500}) for text in copies]
    (corpus / "copies.jsonl").write_text("\n".join(lines))
    table.write_text("kind,share\nlaw,0.3\nnoise,0\n")
    (tmp_path / "ids.txt").write_text("part-0.parquet#1\npart-1.parquet#2\n")
    flags: dict[str, Any] = {
        "acceptance": "shortlist",
        "input": corpus,
        "share": "n > 400 <= 0.4",
        "share_by": f"kind={table}",
        "exclude": tmp_path / "ids.txt",
        "max_share_per_cluster": 0.5,
    }
    manifest = world.run(tmp_path / "loop", **flags)
    counts = manifest["counts"]
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"] == 952
    assert manifest["near_duplicates"]["documents"] > 0
    late, law, noise = (own["selected"] for own in manifest["shares"]["bounds"])
    assert late < 1200 + 40
    assert abs(law - 900) < 40
    assert noise == 0
    parsed, _ = options.parse(world.arguments(tmp_path / "beam", **flags))
    built = chain.build(parsed, look(parsed))
    built.write_plans()
    names = [stage.name for stage in built.stages]
    run_in_process(built.stages[: names.index("CutRankingProgramme")])
    world.launch(tmp_path / "beam", **flags)
    assert output_bytes(tmp_path / "beam") == output_bytes(tmp_path / "loop")


def test_what_goes_on_from_a_run_knows_its_table_as_it_was(world: World, tmp_path):
    table = tmp_path / "shares.csv"
    table.write_text("kind,share\nlaw,0.3\nnoise,0\n")
    parsed, _ = options.parse(world.arguments(tmp_path / "out", share_by=f"kind={table}"))
    bounds = read_shares(parsed)
    path = pathlib.Path(recorded.path_of(parsed.output))
    path.parent.mkdir(parents=True)
    path.write_bytes(recorded.to_bytes(parsed, bounds))
    (tmp_path / "out" / "COMPLETE").touch()
    table.write_text("kind,share\nlaw,0.5\n")
    assert read_shares(recorded.read(parsed.output, "--base")) == bounds


def test_a_refresh_of_a_refresh_finds_the_landmarks_that_were_drawn_for_other_shares(
    world: World, tmp_path
):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    world.distill(first, share=SHARES, num_landmarks=100)
    world.distill(second, base=first, share="n < 20 >= 0.1", num_landmarks=100)
    flags = {"base": second, "num_landmarks": 100}
    parsed, _ = distillation_options.parse(world.distillation_arguments(third, **flags))
    parsed = refresh.resolved(parsed)
    built = distillation_chain.build(parsed, look(parsed))
    (drawn,) = (stage for stage in built.stages if stage.name == "DrawLandmarks")
    assert files.exists(drawn.artifact)


def test_a_folder_in_place_of_a_table_is_refused_in_a_line(world: World, tmp_path):
    flags = {"acceptance": "shortlist", "share_by": f"kind={tmp_path}"}
    parsed, _ = options.parse(world.arguments(tmp_path / "out", **flags))
    with pytest.raises(
        UsageError, match=f"--share_by=kind={tmp_path}: .* cannot be read"
    ) as refused:
        look(parsed)
    assert "\n" not in str(refused.value)


def test_a_table_is_recorded_by_a_path_that_holds_in_any_folder(
    world: World, tmp_path, monkeypatch
):
    (tmp_path / "shares.json").write_text('{"law": 0.3}')
    monkeypatch.chdir(tmp_path)
    flags = {"acceptance": "shortlist", "share_by": "kind=shares.json"}
    parsed, _ = options.parse(world.arguments(tmp_path / "out", **flags))
    found = chain.build(parsed, look(parsed)).identity.config["share_by"]
    assert found == [f"kind={tmp_path}/shares.json"]


def test_a_refresh_keeps_what_was_selected_and_fills_the_shares_anew(world: World, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("part-0.parquet", "part-2.jsonl", "part-3.jsonl"):
        shutil.copy2(pathlib.Path(world.corpus) / name, corpus / name)
    flags = {"acceptance": "shortlist", "input": corpus, "share": SHARES}
    world.run(tmp_path / "first", **flags)
    before = selected_ids(tmp_path / "first")
    world.run(tmp_path / "same", base=tmp_path / "first", **flags)
    assert selected_ids(tmp_path / "same") == before
    shutil.copy2(pathlib.Path(world.corpus) / "part-1.parquet", corpus / "part-1.parquet")
    manifest = world.run(tmp_path / "next", base=tmp_path / "first", **flags)
    check(manifest, selected_rows(tmp_path / "next"))
    # What was selected before counts as better than all else.
    assert manifest["shares"]["mean"]["selected"] is None
    after = set(selected_ids(tmp_path / "next"))
    assert len(after.intersection(before)) > 0.9 * len(before)


def test_a_refresh_of_influence_distillation_fills_shares_of_examples_and_keeps_what_it_had(
    world: World, tmp_path
):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("part-0.parquet", "part-2.jsonl", "part-3.jsonl"):
        shutil.copy2(pathlib.Path(world.corpus) / name, corpus / name)
    flags = {"input": corpus, "budget_tokens": None, "budget_examples": 80, "num_landmarks": 100}
    flags |= {"share": SHARES}
    world.distill(tmp_path / "first", **flags)
    shutil.copy2(pathlib.Path(world.corpus) / "part-1.parquet", corpus / "part-1.parquet")
    world.distill(tmp_path / "next", **flags | {"base": tmp_path / "first", "budget_examples": 100})
    for name, number in (("first", 80), ("next", 100)):
        rows, manifest = selected_rows(tmp_path / name), manifest_of(tmp_path / name)
        kinds = collections.Counter(row["kind"] for row in rows)
        late = sum(row["n"] > 400 for row in rows)
        assert (len(rows), kinds["noise"]) == (number, 0)
        assert kinds["law"] >= 0.3 * number - 1
        assert late <= 0.4 * number + 1
        found = [own["selected"] for own in manifest["shares"]["bounds"]]
        assert found == [kinds["law"], 0, late]
        counts = manifest["counts"]
        assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    before, after = (set(selected_ids(tmp_path / name)) for name in ("first", "next"))
    assert len(before & after) > 0.9 * len(before)
