"""`--decisions`: a row for every row that was read, which agrees with all else that a run writes."""

import collections
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.report.formatting import decimal
from pipelines import chain, options
from pipelines.inputs import look
from tests.pipelines.world import World, manifest_of, output_bytes, selected, text_of
from tests.stages.pages import shown_in_report

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def decisions(output):
    return pq.read_table(output / "decisions").to_pylist()


def hold_to_output(output):
    """Holds decisions to the manifest, the selected and the rejected rows of an output; gives the reasons."""
    rows, manifest = decisions(output), manifest_of(output)
    counts = collections.Counter(row["decision"] for row in rows)
    assert len(rows) == manifest["counts"]["read"]
    assert counts == {
        name: manifest["counts"][name] for name in ("selected", "not_selected", "rejected")
    }
    refused = collections.Counter(row["reason"] for row in rows if row["decision"] == "rejected")
    assert refused == manifest["rejected"]
    by_id = {row["example_id"]: row for row in rows if row["decision"] == "selected"}
    for why in selected(output):
        own = by_id.pop(why["example_id"])
        same = ("cluster", "block", "round", "tokens", "influence", "predicted_influence", "target")
        # What a refresh keeps was judged by an earlier run, which alone knows all of it.
        is_old = why["since"] < len(manifest.get("refresh", {}).get("bases", ()))
        for name in same:
            assert own[name] == why[name] or (is_old and own[name] is None)
        assert own["reason"] is None
    assert not by_id
    by_place = {(row["shard"], row["row"]): row for row in rows}
    for own in pq.read_table(output / "rejected").to_pylist():
        row = by_place[own["shard"], own["row"]]
        assert (row["reason"], row["detail"]) == (own["reason"], own["detail"])
    hold_to_cuts(rows)
    hold_to_page(output, {row["example_id"]: row for row in rows if row["decision"] != "rejected"})
    return {row["reason"] for row in rows if row["decision"] == "not_selected"}


def hold_to_cuts(rows):
    """Holds ranks to the cuts: what is selected reaches its own, which the lowest of it is, and nothing below does."""
    lowest = {}
    for row in rows:
        if row["cut"] is None:
            continue
        if row["decision"] == "selected":
            assert row["rank"] >= row["cut"]
            lowest[row["cut"]] = min(row["rank"], lowest.get(row["cut"], np.inf))
        elif row["reason"] in ("below_cut", "share_full"):
            assert row["rank"] <= row["cut"]
    assert all(cut == rank for cut, rank in lowest.items())


def hold_to_page(output, by_id):
    """Holds what the page says of the best and the worst examples to their decisions."""
    for example_id, why in shown_in_report(output):
        decision = by_id[example_id]
        assert why.startswith("Selected: ") == (decision["decision"] == "selected")
        hold_to_acceptance(why, manifest_of(output)["config"], decision)
        if decision["reason"] == "near_duplicate":
            assert why.startswith(f"Not selected: {decision['twin']} is nearly the same")
        hold_to_cut(why, decision)


def hold_to_cut(why, decision):
    """Holds the ranks that a sentence names to those of the decision."""
    if found := re.search(r"where the budget ends.*, at (\S+)\.$", why):
        assert found[1] == decimal(decision["cut"])
    if found := re.search(r"joint rank, .* is (\S+), (above|below) where", why):
        assert found[1] == decimal(decision["rank"])
        assert (found[2] == "above") == (decision["decision"] == "selected")
    if found := re.search(r"is full, down to .* of (\S+), and its own is (\S+)\.$", why):
        assert found.groups() == (decimal(decision["cut"]), decimal(decision["rank"]))


def hold_to_acceptance(why, config, decision):
    """Holds a sentence to the rule: what is accepted reached the threshold, and within shares ranks decide."""
    if decision["decision"] != "selected":
        return
    if config["share"]:
        # Whatever shares ask for, there is a number at the end of each.
        pattern = r"with an (estimated )?influence of \S+ it ranks above .* at \S+\.$"
        if config["acceptance"] == "shortlist":
            pattern = r"joint rank, .*, is \S+, above .* at \S+\.$"
        assert re.search(pattern, why)
    elif found := re.search(r"accepted its block.* influence of (\S+), and .* was (\S+)\.$", why):
        mean, threshold = (float(number.replace("−", "-")) for number in found.groups())
        assert mean >= threshold


@pytest.mark.parametrize("decides", [False, True])
def test_every_folder_that_is_listed_for_parts_has_a_file_of_each(world: World, tmp_path, decides):
    flags = {"policy": "random", "query": None, "decisions": decides or None}
    world.run(tmp_path / "out", **flags)
    parsed, _ = options.parse(world.arguments(tmp_path / "out", **flags))
    write = chain.build(parsed, look(parsed)).stages[-1]
    for piece in write.pieces():
        folders = [path.rpartition("/")[0] for path in write.paths(piece)]
        assert sorted(folders) == sorted(write.prefixes())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


@pytest.mark.parametrize(
    ("flags", "reasons"),
    [
        (
            {"acceptance": "block"},
            {"block_not_pulled", "block_not_accepted", "below_cut"},
        ),
        ({"acceptance": "block", "share": "kind=law >= 0.8"}, {"share_full", "below_cut"}),
        ({"acceptance": "cluster", "share": "kind=law >= 0.8"}, {"share_full", "below_cut"}),
        (
            {"acceptance": "shortlist", "max_share_per_cluster": 0.3, "layers": "attention"},
            {"not_shortlisted", "share_full", "below_cut"},
        ),
    ],
    ids=["block", "block within shares", "cluster within shares", "shortlist"],
)
def test_decisions_agree_with_what_is_written(world: World, artifacts, tmp_path, flags, reasons):
    world.run(tmp_path / "out", artifacts=artifacts, decisions=True, **flags)
    assert hold_to_output(tmp_path / "out") == reasons
    rows = decisions(tmp_path / "out")
    if "block_not_pulled" in reasons:
        for row in rows:
            assert (row["round"] is None) == (
                row["reason"] == "block_not_pulled" or row["decision"] == "rejected"
            )
    else:
        is_scored = [row["influence"] is not None for row in rows]
        assert sum(is_scored) == manifest_of(tmp_path / "out")["counts"]["scored"]
        below = [row for row in rows if row["reason"] in ("below_cut", "share_full")]
        assert None not in [row["cut"] for row in below]


@pytest.mark.parametrize("acceptance", ["block", "propagate"])
def test_a_run_that_goes_on_decides_of_all_rows_again(
    world: World, artifacts, tmp_path, acceptance
):
    flags = {"artifacts": artifacts, "decisions": True, "acceptance": acceptance}
    world.run(
        tmp_path / "one", input=[world.corpus + "/part-[012].*"], input_root=world.corpus, **flags
    )
    flags |= {"input_root": world.corpus, "budget_tokens": "+300"}
    world.run(tmp_path / "two", base=tmp_path / "one", **flags)
    assert "left_out_before" in hold_to_output(tmp_path / "two")


def test_decisions_of_targets_agree_with_what_is_written(
    world: World, distilled, targets, tmp_path
):
    flags = {"query": None, "query_group": targets, "artifacts": distilled / "_run"}
    world.distill(tmp_path / "out", decisions=True, **flags)
    assert hold_to_output(tmp_path / "out") == {"below_cut"}
    for row in decisions(tmp_path / "out"):
        known = [row["influence"], row["predicted_influence"]]
        assert known.count(None) == (2 if row["decision"] == "rejected" else 1)


def test_twin_leak_and_length_are_named(world: World, tmp_path):
    rng = np.random.default_rng(3)
    texts = [text_of(rng, "law") for _ in range(40)]
    texts += [texts[0].upper(), texts[1] + " " + texts[2], " ".join(texts[5:]) * 2]
    corpus, leaks = tmp_path / "in" / "a.jsonl", tmp_path / "b.jsonl"
    corpus.parent.mkdir()
    lines = [json.dumps({"text": text, "id": f"id {i}"}) for i, text in enumerate(texts)]
    corpus.write_text("\n".join(lines))
    leaks.write_text(json.dumps({"text": texts[1]}))
    flags = {"policy": "random", "acceptance": None, "query": None, "budget_tokens": 1000}
    output = tmp_path / "out"
    world.run(
        output, input=corpus.parent, id_column="id", decontaminate=leaks, decisions=True, **flags
    )
    found = {row["example_id"]: row for row in decisions(output)}
    assert found["id 42"]["reason"] == "too_long"
    for name in ("id 1", "id 41"):
        assert (found[name]["reason"], found[name]["leak"]) == ("contaminated", "b.jsonl#0")
    pair = sorted([found["id 0"], found["id 40"]], key=lambda row: row["decision"])
    assert [row["reason"] for row in pair] == ["near_duplicate", None]
    assert pair[0]["twin"] == f"a.jsonl#{pair[1]['row']}"


def test_decisions_change_nothing_else(world: World, tmp_path):
    flags = {"policy": "random", "acceptance": None}
    for name, decides in (("with", True), ("without", None)):
        world.run(tmp_path / name, decisions=decides, **flags)
    both = [output_bytes(tmp_path / name) for name in ("with", "without")]
    for own in both:
        del own["manifest.json"]
    assert both[0] == both[1]
    assert not (tmp_path / "without" / "decisions").exists()
    written = {part["path"] for part in manifest_of(tmp_path / "with")["files"]}
    assert {f"decisions/{p.name}" for p in (tmp_path / "with" / "decisions").iterdir()} < written
