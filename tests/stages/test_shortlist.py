"""The chain of the shortlist, in a plain loop, held to the page in memory."""

import gzip
import shutil

import pytest

from tests.pipelines.world import World, selected, selected_rows
from tests.stages.pages import hold_to_quad

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
FLAGS = {"acceptance": "shortlist", "weighted": True}


def test_the_shortlist_selects_what_the_page_selects(world: World, tmp_path):
    world.run(tmp_path / "out", **FLAGS)
    hold_to_quad(world, selected_rows(tmp_path / "out"), acceptance="shortlist")
    assert sum(row["kind"] == "biology" for row in selected_rows(tmp_path / "out")) > 100


def test_caps_are_those_of_the_page(world: World, tmp_path):
    changes = {"max_share_per_cluster": 0.2, "shortlist": 4.0}
    world.run(tmp_path / "out", **FLAGS, **changes)
    hold_to_quad(world, selected_rows(tmp_path / "out"), acceptance="shortlist", **changes)
    tokens: dict[int, int] = {}
    for row in selected(tmp_path / "out"):
        tokens[row["cluster"]] = tokens.get(row["cluster"], 0) + row["tokens"]
    assert max(tokens.values()) < 0.2 * 3000 + 40


def test_query_groups_count_by_their_weights_as_on_the_page(world: World, tmp_path):
    queries = {kind: world.query_of(kind) for kind in ("biology", "law")}
    groups = [f"{kind}={folder}" for kind, folder in queries.items()]
    world.run(
        tmp_path / "out",
        acceptance="shortlist",
        query=None,
        query_group=groups,
        query_weight="law=2",
    )
    hold_to_quad(
        world,
        selected_rows(tmp_path / "out"),
        queries,
        acceptance="shortlist",
        query_weights={"biology": 1.0, "law": 2.0},
    )


def test_influence_is_scored_for_the_shortlist_alone(world: World, tmp_path):
    counts = world.run(tmp_path / "out", acceptance="shortlist", shortlist=1.5)["counts"]
    assert counts["selected"] < counts["scored"] < 2 * counts["selected"]
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"] == 912
    assert counts["rejected"] == 12


def test_what_is_missing_of_the_budget_is_said_with_what_mends_it(world: World, tmp_path):
    manifest = world.run(
        tmp_path / "out", acceptance="shortlist", shortlist=1.0, max_share_per_cluster=0.05
    )
    assert (
        "raise --max_share_per_cluster, raise --shortlist, give a larger" in manifest["shortfall"]
    )


@pytest.mark.parametrize("flags", [{"acceptance": "shortlist"}, {"policy": "ngram"}])
def test_a_file_of_which_nothing_can_be_read_is_left_out(world: World, tmp_path, flags):
    corpus = tmp_path / "corpus"
    shutil.copytree(world.corpus, corpus)
    (corpus / "bad.jsonl.gz").write_bytes(gzip.compress(b'{"text": "law1 law2"}\n' * 99)[:-20])
    counts = world.run(tmp_path / "out", input=corpus, on_bad_file="reject", **flags)["counts"]
    assert (counts["bad_files"], counts["read"]) == (1, 912)
