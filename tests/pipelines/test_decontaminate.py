"""Documents that hold a text of `--decontaminate`, or of the query set."""

import json
import pathlib
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad import seeding
from beam_quad.stages.quad.shortlist import RankShortlist
from beam_quad.stages.read.embed import EmbedExamples
from pipelines import chain, distillation_chain, distillation_options, options, quad, refresh
from pipelines.inputs import look
from tests.pipelines.world import (
    World,
    output_bytes,
    read_texts,
    selected_ids,
    selected_rows,
    text_of,
)
from tests.stages.pages import distill_corpus, hold_to_quad

RANDOM = {"policy": "random", "query": None}
NUM_LEAKS = 30


@pytest.fixture(scope="module")
def leaks(world: World) -> dict[str, str]:
    """Texts of the corpus by id: of all shards, and of different lengths."""
    texts, ids = read_texts(world.corpus)
    rows = np.random.default_rng(2).permutation(len(ids))[:NUM_LEAKS]
    return {ids[row]: texts[row] for row in rows}


@pytest.fixture(scope="module")
def benchmark(leaks, tmp_path_factory) -> pathlib.Path:
    """A benchmark that holds these texts, written otherwise, in two files."""
    folder = tmp_path_factory.mktemp("benchmark")
    texts = [f"Question: {text.upper().replace(' ', ',  ')}?" for text in leaks.values()]
    pq.write_table(pa.table({"text": texts[:20]}), folder / "a.parquet")
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts[20:]))
    return folder


def contaminated(output: pathlib.Path) -> dict[str, str]:
    """Reads the details of the rows that were rejected for what they hold, by id."""
    rows = pq.read_table(output / "rejected").to_pylist()
    return {
        f"{row['shard']}#{row['row']}": row["detail"]
        for row in rows
        if row["reason"] == "contaminated"
    }


def test_what_holds_a_text_of_a_benchmark_is_rejected_and_says_which(
    world, leaks, benchmark, tmp_path
):
    output = tmp_path / "out"
    manifest = world.run(output, decontaminate=benchmark, budget_tokens=10**6, **RANDOM)
    found = contaminated(output)
    assert found.keys() == leaks.keys()
    first = next(iter(leaks))
    # All but the word before it.
    share = 1 - 1 / (1 + len(leaks[first].split()))
    assert found[first] == f"{share:.0%} of a.parquet#0: {leaks[first]!r}"
    counts = manifest["counts"]
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    assert manifest["contaminated"] == {
        "texts": NUM_LEAKS,
        "not_looked_for": 0,
        "rows": NUM_LEAKS,
        "rows_by_set": {"--decontaminate a.parquet": 20, "--decontaminate b.jsonl": 10},
    }
    page = (output / "report.html").read_text()
    assert "<mark>" in page
    assert "ocuments rejected for a text that no selection may hold: 30 (" in page


@pytest.mark.parametrize("flags", [{"acceptance": "block"}, {"acceptance": "shortlist"}, {}])
def test_nothing_that_is_fitted_depends_on_what_is_looked_for(world, benchmark, tmp_path, flags):
    def artifacts(**more) -> dict[str, str]:
        if flags:
            parsed, _ = options.parse(world.arguments(tmp_path / "out", **flags, **more))
            built = chain.build(parsed, look(parsed))
        else:
            parsed, _ = distillation_options.parse(
                world.distillation_arguments(tmp_path / "out", **more)
            )
            built = distillation_chain.build(parsed, look(parsed))
        return {stage.name: stage.artifact for stage in built.stages}

    alone, other = artifacts(), artifacts(decontaminate=benchmark)
    same = {name for name, artifact in alone.items() if other[name] == artifact}
    fitted = {"EmbedExamples", "SampleTexts", "SumCovariances", "FitQueryVectors"}
    fitted |= {"FitCenters", "AssignClusters"} if flags else {"DrawLandmarks", "Propagate"}
    fitted |= {"GatherCandidates"} if "block" in flags.values() else set()
    assert same >= fitted
    assert alone.keys() - same >= {"FindLeaks"}


@pytest.fixture(scope="module")
def copied(world: World, tmp_path_factory) -> World:
    """The world with a shard more, of documents that hold a query text each."""
    root = tmp_path_factory.mktemp("copied")
    for name in ("corpus", "query", "proxy"):
        shutil.copytree(pathlib.Path(world.root) / name, root / name)
    texts, _ = read_texts(world.query, is_query=True)
    lines = [json.dumps({"text": f"as they say: {text}", "kind": "copy", "n": 0}) for text in texts]
    (root / "corpus" / "part-4.jsonl").write_text("\n".join(lines))
    return World(root)


def num_copies(rows: list[dict]) -> int:
    return sum(row["text"].startswith("as they say") for row in rows)


@pytest.mark.parametrize("acceptance", ["block", "propagate", "shortlist"])
def test_a_copy_of_a_query_text_is_fitted_to_and_never_selected_as_on_the_page(
    copied, tmp_path, acceptance
):
    manifest = copied.run(tmp_path / "out", acceptance=acceptance)
    rows = selected_rows(tmp_path / "out")
    assert manifest["contaminated"]["rows_by_set"] == {"--query": manifest["contaminated"]["rows"]}
    assert manifest["contaminated"]["rows"] > 20
    assert num_copies(rows) == 0
    hold_to_quad(copied, rows, acceptance=acceptance)


def test_influence_distillation_takes_no_copy_of_a_query_text_as_on_the_page(copied, tmp_path):
    copied.distill(tmp_path / "out")
    expected = distill_corpus(copied, {"query": copied.query})
    assert selected_ids(tmp_path / "out") == sorted(expected.ids[i] for i in expected.indices)
    assert num_copies(selected_rows(tmp_path / "out")) == 0


def test_a_copy_of_a_query_text_is_selected_if_that_is_asked_for(copied, tmp_path):
    manifest = copied.run(tmp_path / "kept", policy="ngram", keep_query_copies=True)
    assert "contaminated" not in manifest
    # The like of the query is what a selection takes first.
    assert num_copies(selected_rows(tmp_path / "kept")) > 15


def test_what_says_an_item_in_another_order_is_selected_and_flagged(world, tmp_path):
    rng = np.random.default_rng(4)
    items = [" ".join(text_of(rng, kind) for _ in range(3)) for kind in ("law", "code") * 2]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in items))
    shutil.copytree(world.corpus, tmp_path / "corpus")
    rewrites = [" ".join(rng.permutation(text.split())) for text in items]
    lines = [json.dumps({"text": text, "kind": "rewrite", "n": 0}) for text in rewrites]
    (tmp_path / "corpus" / "part-4.jsonl").write_text("\n".join(lines))
    manifest = world.run(
        tmp_path / "out", input=tmp_path / "corpus", decontaminate=tmp_path / "items.jsonl", query=None,
        policy="cluster_uniform", budget_tokens=10**6,
    )  # fmt: skip
    assert manifest["contaminated"]["rows"] == 0
    assert set(rewrites) <= {row["text"] for row in selected_rows(tmp_path / "out")}
    found = manifest["paraphrases"]
    assert found["texts"] == found["rows"] == len(items)
    assert found["rows_by_set"] == {"--decontaminate items.jsonl": len(items)}
    flagged = re.findall(
        r"<code>part-4.jsonl#(\d+)</code><span>has 100 % of the words of items.jsonl#(\d+)",
        (tmp_path / "out" / "report.html").read_text(),
    )
    assert sorted(flagged) == sorted((str(i), str(i)) for i in range(len(items)))
    # Their texts are found by those who are to forget some.
    (path,) = (tmp_path / "out" / "_run" / "paraphrases").glob("*/flags.parquet")
    stored = pq.read_table(path)
    assert set(stored["text"].to_pylist()) == {text[:400] for text in rewrites}
    assert stored["key"].to_pylist() == seeding.keys(stored["document"].to_pylist()).tolist()


def test_a_split_of_which_nothing_is_selected_or_sampled_has_no_paraphrases(
    world, benchmark, tmp_path, monkeypatch
):
    monkeypatch.setattr("beam_quad.stages.write.paraphrases._SAMPLED", 1e-9)
    manifest = world.run(
        tmp_path / "out", decontaminate=benchmark / "b.jsonl", query=None, policy="cluster_uniform", budget_tokens=40,
    )  # fmt: skip
    assert 0 < manifest["counts"]["selected"] < 4
    assert manifest["paraphrases"]["rows"] == 0


def test_a_refresh_with_another_benchmark_lets_go_what_leaks_now_and_embeds_nothing_again(
    world, leaks, benchmark, tmp_path, monkeypatch
):
    flags = {"acceptance": "shortlist"}
    world.run(tmp_path / "base", decontaminate=benchmark / "b.jsonl", **flags)
    leaving = set(selected_ids(tmp_path / "base")) & leaks.keys()
    assert leaving
    monkeypatch.setattr(EmbedExamples, "_embed", None)
    flags |= {"base": tmp_path / "base", "decontaminate": benchmark}
    manifest = world.run(tmp_path / "next", **flags)
    parsed, _ = options.parse(world.arguments(tmp_path / "next", **flags))
    built = chain.build(parsed := refresh.resolved(parsed), look(parsed))
    (ranks,) = (stage for stage in built.stages if isinstance(stage, RankShortlist))
    for split in ranks.corpus.splits():
        places = ranks.corpus.places(split)
        of_split = ranks.read(split)
        named = ["{}#{}".format(*places.of(row)) for row in range(len(of_split))]
        # Neither is their known influence compared with that of others.
        assert np.isnan(
            [rank for name, rank in zip(named, of_split, strict=True) if name in leaks]
        ).all()
        assert np.isfinite(of_split).any()
    assert manifest["refresh"]["left"].keys() == {"contaminated"}
    assert manifest["refresh"]["left"]["contaminated"]["documents"] == len(leaving)
    assert manifest["refresh"]["added"]["documents"] > 0
    assert contaminated(tmp_path / "next").keys() == leaks.keys()
    assert not set(selected_ids(tmp_path / "next")) & leaks.keys()


def test_a_launch_on_beam_writes_the_same_bytes(world, benchmark, tmp_path):
    for name, run in (("loop", world.run), ("beam", world.launch)):
        run(tmp_path / name, decontaminate=benchmark, **RANDOM)
    assert output_bytes(tmp_path / "beam") == output_bytes(tmp_path / "loop")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"decontaminate_words": 5}, "--decontaminate_words must be at least 8"),
        (
            {"decontaminate_threshold": 1},
            "--decontaminate_threshold must be at least 0 and below 1",
        ),
        ({"decontaminate": "nowhere"}, "--decontaminate"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(world, tmp_path, capsys, flags, message):
    assert quad.main(world.arguments(tmp_path / "out", **RANDOM, **flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
