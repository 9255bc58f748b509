"""Documents that hold a text of `--decontaminate`, or of the query set."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.stages.read.embed import EmbedExamples
from pipelines import quad
from tests.pipelines.test_exclude import why, write_list
from tests.pipelines.world import World, output_bytes, read_texts, selected_rows

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
    assert "30 documents hold a text that no selection may" in page


@pytest.mark.parametrize(
    "flags",
    [
        {"acceptance": "block"},
        {"acceptance": "shortlist"},
        {"policy": "dsir"},
    ],
    ids=["block", "shortlist", "dsir"],
)
def test_a_selection_is_that_of_a_corpus_without_them(world, leaks, benchmark, tmp_path, flags):
    excluded = write_list(tmp_path / "ids.txt", list(leaks))
    world.run(tmp_path / "out", decontaminate=benchmark, **flags)
    world.run(tmp_path / "without", exclude=excluded, **flags)
    assert why(tmp_path / "out") == why(tmp_path / "without")
    assert len(why(tmp_path / "out")) > 50


def test_another_benchmark_embeds_nothing_again_and_leaves_what_others_see(
    world, benchmark, tmp_path, monkeypatch
):
    flags = {"artifacts": tmp_path / "artifacts", "acceptance": "shortlist"}
    world.run(tmp_path / "alone", acceptance="shortlist")
    world.run(tmp_path / "with", decontaminate=benchmark, **flags)
    with monkeypatch.context() as patched:
        patched.setattr(EmbedExamples, "_embed", None)
        world.run(tmp_path / "without", **flags)
        world.run(tmp_path / "other", decontaminate=benchmark / "b.jsonl", **flags)
    assert why(tmp_path / "without") == why(tmp_path / "alone") != why(tmp_path / "with")
    assert len(contaminated(tmp_path / "other")) == 10


def test_a_copy_of_a_query_text_is_selected_only_if_that_is_asked_for(world, tmp_path):
    texts, _ = read_texts(world.query, is_query=True)
    shutil.copytree(world.corpus, tmp_path / "corpus")
    copies = [f"as they say: {text}" for text in texts]
    lines = "\n".join(json.dumps({"text": text}) for text in copies)
    (tmp_path / "corpus" / "part-4.jsonl").write_text(lines)
    flags = {"input": tmp_path / "corpus", "acceptance": "shortlist"}
    manifest = world.run(tmp_path / "out", **flags)
    assert manifest["contaminated"]["rows_by_set"] == {"--query": len(copies)}
    assert not {row["text"] for row in selected_rows(tmp_path / "out")} & set(copies)
    manifest = world.run(tmp_path / "kept", keep_query_copies=True, **flags)
    assert "contaminated" not in manifest
    # The like of the query is what a selection takes first.
    assert len({row["text"] for row in selected_rows(tmp_path / "kept")} & set(copies)) > 15


def test_a_launch_on_beam_writes_the_same_bytes_and_a_refresh_asks_for_the_same_texts(
    world, benchmark, tmp_path, capsys
):
    flags = {"decontaminate": benchmark, "acceptance": "shortlist"}
    world.run(tmp_path / "loop", **flags)
    world.launch(tmp_path / "beam", **flags)
    assert output_bytes(tmp_path / "beam") == output_bytes(tmp_path / "loop")
    base = {"base": tmp_path / "beam", "artifacts": tmp_path / "beam" / "_run"}
    refreshed = world.run(tmp_path / "next", **flags, **base)
    assert refreshed["contaminated"]["rows"] == NUM_LEAKS
    other = flags | base | {"decontaminate": benchmark / "a.parquet"}
    assert quad.main(world.arguments(tmp_path / "refused", **other)) == 2
    assert "--decontaminate has another content than that of --base" in capsys.readouterr().err


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
