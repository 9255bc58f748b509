"""Of near-duplicates one row is selected, whatever ranks the corpus, and the budget is met all the same."""

import collections
import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import traffic
from beam_quad.errors import UsageError
from pipelines import options
from tests.pipelines.world import (
    World,
    manifest_of,
    output_bytes,
    read_texts,
    selected,
    selected_ids,
    selected_rows,
    text_of,
)
from tests.stages.pages import distill_corpus, hold_to_quad, shown_in_report

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
POLICIES = [
    {"acceptance": "shortlist", "weighted": True},
    {"acceptance": "propagate"},
    {"acceptance": "block", "near_duplicates": "drop", "weighted": True},
    {"acceptance": "block", "near_duplicates": "drop", "max_share_per_cluster": 0.25},
    {"acceptance": "instance", "near_duplicates": "drop", "weighted": True},
    {"acceptance": "cluster", "near_duplicates": "drop"},
    {"policy": "ngram"},
]
COPIES = "copies.jsonl"


def copies_of(words: list[str], rng: np.random.Generator, number: int) -> list[str]:
    """Copies of a text: as it is, in capitals, with a word more, with a word of twelve replaced."""
    made = []
    for i in range(number):
        own = list(words)
        if i % 4 == 1:
            own = [word.upper() for word in own]
        if i % 4 == 2:
            own.append(f"common{rng.integers(40)}")
        if i % 4 == 3:
            own[rng.integers(len(own))] = f"common{rng.integers(40)}"
        made.append((" " if i % 2 else "  \n").join(own))
    return made


@pytest.fixture(scope="session")
def copied(world: World, tmp_path_factory) -> World:
    """The world with a shard more: 40 texts of the query's kind, each with 4 to 10 copies."""
    root = tmp_path_factory.mktemp("copied")
    for name in ("corpus", "query", "proxy"):
        shutil.copytree(pathlib.Path(world.root) / name, root / name)
    rng = np.random.default_rng(5)
    lines = []
    for family in range(40):
        words = text_of(rng, "biology").split() + text_of(rng, "biology").split()
        for text in copies_of(words, rng, int(rng.integers(4, 11))):
            lines.append(json.dumps({"text": text, "kind": "copy", "n": family}))
    (root / "corpus" / COPIES).write_text("\n".join(rng.permutation(lines)) + "\n")
    return World(root)


def families(output: pathlib.Path, world: World) -> list[int]:
    """The families of the selected copies."""
    lines = (pathlib.Path(world.corpus) / COPIES).read_text().splitlines()
    names = [name.split("#") for name in selected_ids(output)]
    return [json.loads(lines[int(row)])["n"] for shard, row in names if shard == COPIES]


def left_out(output: pathlib.Path) -> dict[str, str]:
    """What is said of the rows that were left out for a near-duplicate."""
    tables = [pq.read_table(path) for path in sorted((output / "rejected").glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    return {
        f"{row['shard']}#{row['row']}": row["detail"]
        for row in rows
        if row["reason"] == "near_duplicate"
    }


@pytest.mark.parametrize("flags", POLICIES)
def test_of_a_family_one_row_is_selected_the_budget_is_met_and_the_page_selects_the_same(
    copied, tmp_path, flags
):
    manifest = copied.run(tmp_path / "out", **flags)
    chosen = families(tmp_path / "out", copied)
    assert len(chosen) == len(set(chosen)) > 0
    counts, tokens = manifest["counts"], manifest["tokens"]
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    least = 3000 - 80 * ("max_share_per_cluster" in flags)
    assert least <= tokens["selected"] < 3000 + 100
    assert manifest["near_duplicates"]["documents"] == len(left_out(tmp_path / "out")) > 0
    if "acceptance" in flags:
        changes = {name: value for name, value in flags.items() if name != "weighted"}
        hold_to_quad(copied, selected_rows(tmp_path / "out"), **changes)


def test_families_would_fill_the_selection_if_they_were_kept(copied, tmp_path):
    manifest = copied.run(tmp_path / "out", acceptance="shortlist", near_duplicates="keep")
    chosen = collections.Counter(families(tmp_path / "out", copied))
    assert chosen.most_common(1)[0][1] >= 4
    assert sum(chosen.values()) >= 2 * len(chosen)
    assert manifest["near_duplicates"] == {"documents": 0, "tokens": 0}
    assert not (tmp_path / "out" / "_run" / "signatures").exists()


def test_a_row_that_is_left_out_names_the_one_that_ranks_higher(copied, tmp_path):
    copied.run(tmp_path / "out", policy="ngram")
    texts, ids = read_texts(copied.corpus)
    named = dict(zip(ids, texts, strict=True))
    chosen = set(selected_ids(tmp_path / "out"))
    for row, detail in left_out(tmp_path / "out").items():
        twin = detail.split()[0]
        assert twin in chosen
        assert row not in chosen
        words, others = (set(named[name].lower().split()) for name in (row, twin))
        assert len(words & others) > 0.8 * len(words | others)


@pytest.mark.parametrize("rule", ["block", "instance", "cluster"])
def test_what_a_bandit_accepted_is_selected_unless_it_is_a_copy(copied, tmp_path, rule):
    flags = {"acceptance": rule, "artifacts": tmp_path / "artifacts"}
    copied.run(tmp_path / "keep", **flags)
    copied.run(tmp_path / "drop", **flags, near_duplicates="drop")
    accepted, chosen = (set(selected_ids(tmp_path / name)) for name in ("keep", "drop"))
    said = left_out(tmp_path / "drop")
    assert accepted - chosen <= set(said)
    assert len(chosen - accepted) > 0
    assert set(said.values()) <= {
        f"{name} is nearly the same, and ranks higher; counted as not selected" for name in chosen
    }
    # The page says of what only fills the budget up that it was not accepted.
    for example_id, why in shown_in_report(tmp_path / "drop"):
        if why.startswith("Selected: "):
            assert ("fills the budget up" in why) == (example_id not in accepted)


def test_influence_distillation_leaves_out_what_the_page_leaves_out(copied, tmp_path):
    queries = {kind: copied.query_of(kind) for kind in ("biology", "law")}
    groups = [f"{kind}={folder}" for kind, folder in queries.items()]
    copied.distill(tmp_path / "out", query=None, query_group=groups)
    chosen = families(tmp_path / "out", copied)
    assert len(chosen) == len(set(chosen)) > 0
    expected = distill_corpus(copied, queries)
    assert selected_ids(tmp_path / "out") == sorted(expected.ids[i] for i in expected.indices)
    assert manifest_of(tmp_path / "out")["tokens"]["selected"] >= 3000


def test_weights_of_the_second_order_are_of_one_row_of_a_family(copied, tmp_path):
    copied.distill(tmp_path / "out", order=2, weighted=True, interaction_landmarks=32)
    chosen = families(tmp_path / "out", copied)
    assert len(chosen) == len(set(chosen)) > 0


def test_beam_leaves_the_files_of_a_plain_loop(copied, tmp_path):
    for name, run in (("loop", copied.run), ("beam", copied.launch)):
        run(tmp_path / name, acceptance="shortlist")
    loop, beam = output_bytes(tmp_path / "loop"), output_bytes(tmp_path / "beam")
    assert loop == beam
    assert left_out(tmp_path / "loop")


def test_texts_are_signed_while_they_are_read_and_read_again_only_where_they_were_not(
    copied, tmp_path
):
    counted: collections.Counter = collections.Counter()
    traffic.report_to(counter := lambda kind, amount: counted.update({kind: amount}))
    size = sum(path.stat().st_size for path in pathlib.Path(copied.corpus).iterdir())
    try:
        read = {}
        for name, keeps in (("keep", "keep"), ("again", "drop"), ("drop", "drop")):
            before = counted["bytes_read"]
            # The third run has artifacts of its own.
            artifacts = tmp_path / ("own" if name == "drop" else "shared")
            copied.run(tmp_path / name, policy="random", near_duplicates=keeps, artifacts=artifacts)
            read[name] = (counted["bytes_read"] - before) / size
    finally:
        traffic._counters.remove(counter)
    # One reading more to write what is selected.
    assert read["keep"] == pytest.approx(read["drop"], rel=0.01)
    assert read["again"] == pytest.approx(read["keep"], rel=0.01)
    assert output_bytes(tmp_path / "again") == output_bytes(tmp_path / "drop")


@pytest.mark.parametrize("acceptance", ["shortlist", "propagate", "block"])
def test_what_the_base_selected_stays_and_new_copies_of_it_do_not_come(
    copied, tmp_path, acceptance
):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("part-0.parquet", "part-2.jsonl", COPIES):
        shutil.copy2(pathlib.Path(copied.corpus) / name, corpus / name)
    flags = {"acceptance": acceptance, "input": corpus, "near_duplicates": "drop"}
    # With copies in it that were kept.
    kept = {} if acceptance == "propagate" else {"near_duplicates": "keep"}
    copied.run(tmp_path / "first", **flags | kept)
    before = set(selected_ids(tmp_path / "first"))
    again = (corpus / COPIES).read_text().replace("common17", "common27")
    (corpus / "more.jsonl").write_text(again)
    shutil.copy2(pathlib.Path(copied.corpus) / "part-1.parquet", corpus / "part-1.parquet")
    manifest = copied.run(tmp_path / "next", **flags, base=tmp_path / "first", budget_tokens=4500)
    after = set(selected_ids(tmp_path / "next"))
    assert before < after
    rows = [json.loads(line)["n"] for line in again.splitlines()]
    of_base = {rows[int(name.split("#")[1])] for name in before if name.startswith(COPIES)}
    came = [rows[int(name.split("#")[1])] for name in after if name.startswith("more")]
    assert of_base
    assert not of_base & set(came)
    assert len(came) == len(set(came))
    assert manifest["near_duplicates"]["documents"] == len(left_out(tmp_path / "next")) > 0
    assert len(selected(tmp_path / "next")) == manifest["counts"]["selected"]


def test_near_duplicates_are_left_out_by_default_from_a_threshold_above_0(world, tmp_path):
    flags = {"acceptance": "block", "near_duplicates": None}
    parsed, _ = options.parse(world.arguments(tmp_path / "out", **flags))
    assert parsed.near_duplicates == "drop"
    with pytest.raises(UsageError, match=r"must lie in \(0, 1\]"):
        options.parse(world.arguments(tmp_path / "out", **flags, near_duplicate_threshold=0))
