"""A run that goes on from another pays for what is new, and keeps what was selected."""

import collections
import json
import pathlib
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import aligned, traffic
from beam_quad.errors import UsageError
from beam_quad.stages import run_in_process
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.embed import EmbedExamples
from beam_quad.stages.read.splits import RowAlignedStage
from beam_quad.stages.read.text_stage import TextStage
from pipelines import chain, plan, refresh
from pipelines import options as quad_options
from pipelines.inputs import look
from tests.pipelines.world import (
    KINDS,
    World,
    output_bytes,
    selected,
    selected_ids,
    selected_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
SHARDS = ("part-0.parquet", "part-2.jsonl", "part-3.jsonl")
NEW = "part-1.parquet"
FLAGS = {"acceptance": "shortlist", "layers": "all+head"}


class Months:
    """A corpus that grows, and the selections made of it.

    Attributes:
      world: Where shards come from.
      input: The corpus.
      first: The first selection, of all shards but one.
    """

    def __init__(self, world: World, root: pathlib.Path) -> None:
        self.world, self.root = world, root
        self.input = root / "corpus"
        self.input.mkdir()
        for name in SHARDS:
            self.add(name)
        self.first = root / "2026-01-01"
        world.run(self.first, input=str(self.input), **FLAGS)

    def add(self, name: str) -> None:
        shutil.copy2(pathlib.Path(self.world.corpus) / name, self.input / name)

    def refresh(self, name: str, base: pathlib.Path | None = None, **flags) -> dict:
        flags = FLAGS | {"input": str(self.input), "base": base or self.first} | flags
        return self.world.run(self.root / name, **flags)


@pytest.fixture
def months(world, tmp_path_factory) -> Months:
    return Months(world, tmp_path_factory.mktemp("months"))


@pytest.fixture
def counted() -> Iterator[collections.Counter]:
    """What is read and passes through models from now on."""
    found: collections.Counter = collections.Counter()

    def count(kind: str, amount: int) -> None:
        found[kind] += amount

    traffic.report_to(count)
    yield found
    traffic._counters.remove(count)


def _rows(output: pathlib.Path) -> dict[str, dict]:
    return {row["beam_quad"]["example_id"]: row for row in selected_rows(output)}


def test_nothing_new_gives_the_same_bytes_and_passes_nothing_through_a_model(months, counted):
    manifest = months.refresh("2026-02-01")
    before, after = output_bytes(months.first), output_bytes(months.root / "2026-02-01")
    assert {k: v for k, v in before.items() if k != "manifest.json"} == {
        k: v for k, v in after.items() if k != "manifest.json"
    }
    assert counted["documents_embedded"] == counted["documents_scored"] == 0
    assert counted["bytes_read"] == 0
    assert manifest["refresh"]["added"]["documents"] == 0


def test_a_new_shard_is_all_that_is_read_and_what_was_selected_stays(months, counted):
    months.add(NEW)
    manifest = months.refresh("2026-02-01", budget_tokens=3600)
    num_new = pq.read_metadata(months.input / NEW).num_rows
    assert counted["documents_embedded"] == num_new
    # Once for embeddings, once for n-grams, once for influence, once to be written.
    assert 3 < counted["bytes_read"] / (months.input / NEW).stat().st_size < 4.01
    before, after = _rows(months.first), _rows(months.root / "2026-02-01")
    assert before.items() <= after.items()
    added = after.keys() - before.keys()
    assert added
    assert {id.split("#")[0] for id in added} == {NEW}
    counts, tokens, refresh = (manifest[name] for name in ("counts", "tokens", "refresh"))
    assert 3600 <= tokens["selected"] < 3600 + 40
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"] == 912
    assert refresh["kept"]["documents"] == len(before)
    assert refresh["added"]["documents"] == len(added)
    assert refresh["splits"] == {"new": 1, "kept": 3, "gone": 0, "changed": 0}
    # Influence was computed for the new part of the list alone.
    scored = counts["scored"] - refresh["scores_known"]
    assert counted["documents_scored"] == num_new + scored
    assert scored < 1.3 * counts["scored"] * num_new / 900


def test_the_page_and_the_manifest_say_what_new_shards_are_worth(months):
    months.add(NEW)
    found = months.refresh("2026-02-01", budget_tokens=3600)["refresh"]
    num_new = pq.read_metadata(months.input / NEW).num_rows
    card = found["scorecard"]
    assert card["new_documents"] == found["drift"]["documents"] == num_new
    assert card["old_documents"] + card["new_documents"] == 900
    # The shards are cut from one distribution.
    assert not found["drift"]["is_alarm"]
    ratio = card["selected"]["ratio"]
    # One interval in twenty leaves 1 out, so it may lie half an interval away.
    slack = (ratio["high"] - ratio["low"]) / 2
    assert ratio["low"] - slack < 1 < ratio["high"] + slack
    page = (months.root / "2026-02-01" / "report.html").read_text()
    assert "Since the last run" in page
    assert found["words"][0][1:] in page


def test_rows_tell_which_run_brought_them(months):
    months.add(NEW)
    months.refresh("2026-02-01", budget_tokens=3600)
    months.refresh("2026-03-01", months.root / "2026-02-01", budget_tokens=4200)
    runs = [months.first, months.root / "2026-02-01", months.root / "2026-03-01"]
    manifests = [json.loads((run / "manifest.json").read_text()) for run in runs]
    since = collections.Counter(row["since"] for row in selected(runs[-1]))
    assert sorted(since) == [0, 1, 2]
    chain = manifests[-1]["refresh"]["bases"]
    assert [base["configuration"] for base in chain] == [m["configuration"] for m in manifests[:2]]


def test_a_smaller_budget_lets_the_least_valuable_go(months):
    manifest = months.refresh("2026-02-01", budget_tokens=1500)
    before = {row["example_id"]: row["influence"] for row in selected(months.first)}
    after = set(selected_ids(months.root / "2026-02-01"))
    assert after < before.keys()
    assert 1500 <= manifest["tokens"]["selected"] < 1540
    kept = sum(before[id] for id in after) / len(after)
    gone = [value for id, value in before.items() if id not in after]
    assert kept > sum(gone) / len(gone)
    assert manifest["refresh"]["left"].keys() == {"not_among_the_best"}


def test_rows_of_a_shard_that_is_gone_leave_and_the_others_stay_as_they_were(months):
    (months.input / SHARDS[0]).unlink()
    manifest = months.refresh("2026-02-01")
    before, after = _rows(months.first), _rows(months.root / "2026-02-01")
    there = {id: row for id, row in before.items() if not id.startswith(SHARDS[0])}
    assert there.items() <= after.items()
    assert not [id for id in after if id.startswith(SHARDS[0])]
    left = manifest["refresh"]["left"]["shard_gone"]
    assert left["documents"] == len(before) - len(there)
    assert manifest["tokens"]["selected"] >= 3000


def test_an_edited_shard_is_one_that_left_and_one_that_came(months):
    path = months.input / SHARDS[1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-20]))
    refresh = months.refresh("2026-02-01")["refresh"]
    assert refresh["splits"] == {"new": 1, "kept": 2, "gone": 0, "changed": 1}
    assert refresh["left"].keys() == {"shard_changed"}


def test_choosing_anew_keeps_no_row_for_having_been_selected(months):
    months.add(NEW)
    months.refresh("kept")
    manifest = months.refresh("anew", reselect=True)
    kept, anew = (selected(months.root / name) for name in ("kept", "anew"))
    assert manifest["refresh"]["left"].keys() == {"not_among_the_best"}
    assert len({row["since"] for row in anew}) == 2
    means = [sum(row["influence"] for row in rows) / len(rows) for rows in (kept, anew)]
    assert means[1] > means[0]
    assert not {row["example_id"] for row in kept if row["example_id"].startswith(NEW)}


def test_fitting_anew_keeps_what_was_selected_and_finds_another_fit(months):
    months.add(NEW)
    months.refresh("2026-02-01", refit=True, budget_tokens=3600)
    before, after = _rows(months.first), _rows(months.root / "2026-02-01")
    assert before.items() <= after.items()
    centers = list((months.first / "_run" / "centers").iterdir())
    assert len(centers) == 2


@pytest.mark.parametrize(
    ("flags", "anew"),
    [
        ({}, set()),
        ({"refit": True}, {"AssignClusters", "ScoreNgrams", "ScoreShortlist"}),
        ({"grow_clusters": True}, {"AssignClusters"}),
    ],
    ids=["kept", "refit", "grown"],
)
def test_a_plan_prices_the_files_that_the_run_then_makes(months, flags, anew):
    months.add(NEW)
    flags = (
        FLAGS | {"input": str(months.input), "base": months.first, "budget_tokens": 3600} | flags
    )
    arguments = months.world.arguments(months.root / "2026-02-01", **flags)
    options = refresh.resolved(quad_options.parse(arguments)[0])
    inputs = look(options)
    built = chain.build(options, inputs)
    planned = plan.left(plan.price(options, inputs, built), built).stages
    words = plan.describe(options, inputs, built)
    fitted = plan.sizes_of(options, inputs, built).num_clusters
    before = _files(months.root)
    assert [cost.is_made for cost in planned] == [s.artifact in before for s in built.stages]
    built.write_plans()
    run_in_process(built.stages)
    assigned = next(stage for stage in built.stages if isinstance(stage, AssignClusters))
    assert fitted == (None if "refit" in flags else assigned.centers.load().num_clusters)
    written, made_anew = _files(months.root) - before, set()
    for stage, cost in zip(built.stages, planned, strict=True):
        if not isinstance(stage, RowAlignedStage | TextStage | EmbedExamples):
            continue
        own = [split for split in inputs.corpus.splits if written & {*stage.paths(split)}]
        made_anew |= {stage.name} if len(own) > 1 else set()
        if stage.name != "ScoreShortlist":
            assert cost.documents == sum(aligned.num_rows(stage.paths(s)[0]) for s in own)
    # The list is another one, so its scores have new files; the base's are copied, not computed.
    assert made_anew == anew | {"ScoreShortlist"}
    (line,) = [line for line in words.splitlines() if line.startswith("anew")] or [""]
    assert set(re.findall(r"[A-Z]\w+", line)) == anew


def _files(folder: pathlib.Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file()}


def test_new_columns_are_in_every_part(months):
    table = pq.read_table(pathlib.Path(months.world.corpus) / NEW)
    pq.write_table(table.append_column("extra", [["x"] * len(table)]), months.input / NEW)
    months.refresh("2026-02-01", budget_tokens=3600)
    parts = sorted((months.root / "2026-02-01" / "selected").glob("*"))
    assert {tuple(pq.read_schema(part).names) for part in parts} == {
        tuple(pq.read_schema(parts[0]).names)
    }
    assert "extra" in pq.read_schema(parts[0]).names
    before, after = _rows(months.first), _rows(months.root / "2026-02-01")
    assert before.keys() < after.keys()


@pytest.mark.parametrize("output_format", ["jsonl", "jsonl.zst"])
def test_parts_in_json_lines_lose_the_rows_that_left(world, tmp_path, output_format):
    flags = FLAGS | {"output_format": output_format, "artifacts": tmp_path / "artifacts"}
    corpus = tmp_path / "corpus"
    shutil.copytree(world.corpus, corpus)
    world.run(tmp_path / "first", input=str(corpus), **flags)
    (corpus / SHARDS[2]).unlink()
    again = world.run(tmp_path / "second", input=str(corpus), base=tmp_path / "first", **flags)
    ids = [set(_json_ids(tmp_path / name)) for name in ("first", "second")]
    there = {id for id in ids[0] if not id.startswith(SHARDS[2])}
    assert there <= ids[1]
    assert len(ids[1]) == again["counts"]["selected"]
    assert not [id for id in ids[1] if id.startswith(SHARDS[2])]


def _json_ids(output: pathlib.Path) -> Iterator[str]:
    import pyarrow as pa

    for part in sorted((output / "selected").iterdir()):
        with pa.input_stream(part, compression="detect") as file:
            for line in file.read().splitlines():
                yield json.loads(line)["beam_quad"]["example_id"]


@pytest.mark.parametrize(
    "policy", ["random", "ngram", "similarity", "cluster_uniform", "influence_top_k", "dsir"]
)
def test_every_policy_keeps_what_it_selected_and_fills_the_budget(world, tmp_path, policy):
    flags = {"policy": policy, "acceptance": None}
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in SHARDS:
        shutil.copy2(pathlib.Path(world.corpus) / name, corpus / name)
    world.run(tmp_path / "first", input=str(corpus), **flags)
    shutil.copy2(pathlib.Path(world.corpus) / NEW, corpus / NEW)
    base = tmp_path / "first"
    manifest = world.run(
        tmp_path / "second", input=str(corpus), base=base, budget_tokens=3600, **flags
    )
    assert set(selected_ids(tmp_path / "first")) < set(selected_ids(tmp_path / "second"))
    assert 3600 <= manifest["tokens"]["selected"] < 3640


def test_the_last_of_a_chain_of_refreshes_costs_what_the_first_did(months, counted):
    lines = (pathlib.Path(months.world.corpus) / SHARDS[2]).read_bytes().splitlines(keepends=True)
    costs, base = [], months.first
    for month in range(2, 6):
        part = lines[55 * (month - 2) : 55 * (month - 1)]
        (months.input / f"month-{month}.jsonl").write_bytes(b"".join(part))
        counted.clear()
        name = f"2026-{month:02d}-01"
        months.refresh(name, base, budget_tokens="+200")
        costs.append(dict(counted))
        base = months.root / name
    # Of shards of fifty documents a month selects eight, and may read an old shard for one of them.
    for kind, most in {"documents_embedded": 1.2, "documents_scored": 1.3, "bytes_read": 2}.items():
        assert max(cost[kind] for cost in costs[1:]) <= most * costs[0][kind]
    assert len(list((base / "selected").iterdir())) <= 5


def test_a_folder_of_dated_outputs_stands_for_the_newest_before_this_one(months):
    for name in ("2026-02-01", "2026-03-01"):
        months.refresh(name, months.root)
    chain = json.loads((months.root / "2026-03-01" / "manifest.json").read_text())["refresh"][
        "bases"
    ]
    assert len(chain) == 2
    # A retry on the same day is the same run.
    before = output_bytes(months.root / "2026-02-01")
    shutil.rmtree(months.root / "2026-02-01")
    months.refresh("2026-02-01", months.root)
    assert output_bytes(months.root / "2026-02-01") == before


def test_the_first_run_of_a_schedule_has_no_base(world, tmp_path):
    (tmp_path / "selections").mkdir()
    manifest = world.run(
        tmp_path / "selections" / "2026-01-01", base=tmp_path / "selections", policy="random"
    )
    assert "refresh" not in manifest


def test_documents_far_from_all_open_clusters_that_later_runs_keep(months):
    rng = np.random.default_rng(5)
    for shard in range(4):
        kinds = ["other" if i < 60 else KINDS[i % 5] for i in range(120)]
        texts = [" ".join(f"{kind}{n}" for n in rng.integers(0, 40, 30)) for kind in kinds]
        lines = [json.dumps({"text": text}) for text in texts]
        (months.input / f"part-{5 + shard}.jsonl").write_text("\n".join(lines))
    months.refresh("fixed", budget_tokens=4000)
    found = months.refresh("grown", grow_clusters=True, budget_tokens=4000)
    words = [" ".join(_refresh_words(months.root / name)) for name in ("fixed", "grown")]
    assert "pass --grow_clusters" in words[0]
    assert "--grow_clusters" not in words[1]
    assert found["refresh"]["kept"]["documents"] == len(selected(months.first))
    months.refresh("after", months.root / "grown", budget_tokens="+500")
    rows = {name: _rows(months.root / name) for name in ("fixed", "grown", "after")}
    # Of those that stay in their cluster no id changes, and the next run assigns as this one did.
    assert rows["grown"].items() <= rows["after"].items()
    runs = sorted((months.first / "_run" / "grown_centers").iterdir())
    assert len(runs) == 1
    assert json.loads((runs[0] / "fit.json").read_text())["opened"] >= 1


def _refresh_words(output: pathlib.Path) -> list[str]:
    return json.loads((output / "manifest.json").read_text())["refresh"]["words"]


def test_excluding_ids_is_a_refresh_of_a_corpus_without_them(months, counted):
    rows = {row["example_id"] for row in selected(months.first)}
    gone = [f"{SHARDS[0]}#{i}" for i in range(pq.read_metadata(months.input / SHARDS[0]).num_rows)]
    (months.root / "gone.txt").write_text("\n".join(gone))
    counted.clear()
    found = months.refresh("excluded", exclude=months.root / "gone.txt")
    assert counted["documents_embedded"] == counted["documents_scored"] == 0
    assert found["excluded"]["rows"] == found["rejected"]["excluded"] == len(gone)
    assert "centers" in found["excluded"]["known_to"]
    left = found["refresh"]["left"]
    assert left["excluded"]["documents"] == len(rows.intersection(gone)) > 0
    (months.input / SHARDS[0]).unlink()
    # The list binds what shares the artifacts.
    without = months.refresh("without", exclude=months.root / "gone.txt")
    assert without["counts"]["selected"] == found["counts"]["selected"]
    names = [set(_rows(months.root / name)) for name in ("excluded", "without")]
    assert names[0] == names[1]
    same = [_without_since(months.root / name) for name in ("excluded", "without")]
    assert same[0] == same[1]


def _without_since(output: pathlib.Path) -> list[dict]:
    return [
        row | {"beam_quad": row["beam_quad"] | {"since": None}} for row in selected_rows(output)
    ]


def test_no_artifact_holds_the_text_of_an_excluded_row(months):
    row = selected_rows(months.first)[0]
    (months.root / "gone.txt").write_text(row["beam_quad"]["example_id"])
    months.refresh("excluded", exclude=months.root / "gone.txt")
    for path in (months.first / "_run").rglob("*.parquet"):
        table = pq.read_table(path)
        if "text" in table.column_names:
            assert row["text"] not in table.column("text").to_pylist()
    assert row["text"] not in [r["text"] for r in selected_rows(months.root / "excluded")]


def test_a_bandit_fills_what_excluded_rows_leave(months):
    flags = {"acceptance": "block", "layers": None}
    months.world.run(months.root / "first", input=str(months.input), **flags)
    gone = sorted(selected_ids(months.root / "first"))[::2]
    (months.root / "gone.txt").write_text("\n".join(gone))
    months.add(NEW)
    flags |= {"exclude": months.root / "gone.txt"}
    found = months.refresh("second", months.root / "first", budget_tokens=2000, **flags)
    assert found["refresh"]["left"]["excluded"]["documents"] == len(gone)
    assert found["tokens"]["selected"] >= 2000 or "are missing" in found["shortfall"]
    assert found["refresh"]["added"]["tokens"] > 200


def test_a_file_that_could_not_be_read_does_not_end_the_next_run(months):
    (months.input / "part-9.parquet").write_bytes(b"PAR1 no footer")
    flags = {"on_bad_file": "reject", "policy": "random", "acceptance": None, "layers": None}
    months.world.run(months.root / "first", input=str(months.input), **flags)
    months.add(NEW)
    found = months.refresh("second", months.root / "first", budget_tokens="+300", **flags)
    assert found["counts"]["bad_files"] == 1
    assert found["refresh"]["kept"]["tokens"] >= 3000
    # Once it can be read it is new.
    shutil.copy2(months.input / NEW, months.input / "part-9.parquet")
    again = months.refresh("third", months.root / "second", budget_tokens="+300", **flags)
    assert again["refresh"]["splits"]["new"] == 1


def test_what_a_run_of_other_options_left_in_the_output_is_not_taken_for_its_rows(months):
    months.refresh("second", budget_tokens=1500)
    index = months.root / "second" / "_run" / "selected"
    (other,) = index.iterdir()
    stale = index / "another configuration"
    shutil.copytree(other, stale)
    found = months.refresh("third", months.root / "second", budget_tokens=1500)
    assert found["refresh"]["left"] == {}


def test_rows_with_and_without_weights_are_not_mixed(months):
    flags = {"output_format": "jsonl", "weighted": True}
    months.world.run(months.root / "first", input=str(months.input), **FLAGS, **flags)
    months.add(NEW)
    flags |= {"weighted": None, "budget_tokens": "+300"}
    months.refresh("second", months.root / "first", **flags)
    lines = [
        json.loads(line)
        for part in sorted((months.root / "second" / "selected").iterdir())
        for line in part.read_text().splitlines()
    ]
    assert not any("weight" in line for line in lines)


def test_a_base_that_lost_what_it_selected_is_refused(months):
    (index,) = (months.first / "_run" / "selected").iterdir()
    next(index.glob("*.parquet")).unlink()
    with pytest.raises(UsageError, match="lacks which rows of 1 splits --base selected"):
        months.refresh("2026-02-01")
    assert not (months.root / "2026-02-01").exists()


def test_a_budget_with_a_plus_is_so_much_more_than_the_bases(months):
    months.add(NEW)
    manifest = months.refresh("2026-02-01", budget_tokens="+500")
    assert manifest["budget"]["amount"] == 3500
    assert 3500 <= manifest["tokens"]["selected"] < 3540


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"seed": 1}, "--seed was 0 in --base=.* and is 1; pass the same, or drop --base"),
        ({"acceptance": "block"}, "--acceptance was shortlist .* and is block"),
        ({"output_format": "jsonl"}, "--output_format was parquet .* and is jsonl"),
        ({"weighted": True}, "--weighted weighs a selection as a whole; pass --reselect"),
        ({"artifacts": "elsewhere"}, "has its artifacts in .*; leave --artifacts out"),
        ({"base": "nothing", "reselect": True}, "--base=.*nothing"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused_in_one_line(months, flags, words):
    with pytest.raises(UsageError, match=words) as caught:
        months.refresh("2026-02-01", **flags)
    assert "\n" not in str(caught.value)
    assert not (months.root / "2026-02-01").exists()


def test_another_query_set_is_refused(months):
    with pytest.raises(UsageError, match="--query has another content than that of --base"):
        months.refresh("2026-02-01", query=months.world.query_of("law"))


def test_a_base_without_its_artifacts_is_refused(months):
    shutil.rmtree(months.first / "_run" / "centers")
    with pytest.raises(UsageError, match="is gone; pass --refit to fit anew, or drop --base"):
        months.refresh("2026-02-01")
    shutil.rmtree(months.first / "_run")
    with pytest.raises(UsageError, match="is missing"):
        months.refresh("2026-02-01")
    assert not (months.root / "2026-02-01").exists()


def test_a_base_that_is_not_finished_is_refused(months):
    (months.first / "COMPLETE").unlink()
    with pytest.raises(UsageError, match="is not finished; run its command to the end first"):
        months.refresh("2026-02-01")


def test_influence_distillation_keeps_what_it_selected(world, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in SHARDS:
        shutil.copy2(pathlib.Path(world.corpus) / name, corpus / name)
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("law", "biology")]
    flags = {"input": str(corpus), "query": None, "query_group": groups}
    world.distill(tmp_path / "first", **flags)
    shutil.copy2(pathlib.Path(world.corpus) / NEW, corpus / NEW)
    flags |= {"base": tmp_path / "first", "budget_tokens": 3600}
    manifest = world.distill(tmp_path / "second", **flags)
    assert set(selected_ids(tmp_path / "first")) < set(selected_ids(tmp_path / "second"))
    assert 3600 <= manifest["tokens"]["selected"] < 3640
    assert manifest["refresh"]["added"]["documents"] > 0
