"""Opt-outs and take-downs: rows whose ids are on the lists of `--exclude`."""

import gzip
import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad import seeding
from beam_quad.artifacts import aligned
from beam_quad.errors import UsageError
from beam_quad.stages import run_in_process
from beam_quad.stages.read.embed import EmbedExamples
from pipelines import chain, prove_chain, prove_options, quad
from pipelines import options as quad_options
from pipelines.exclude import read_excluded
from pipelines.inputs import look
from tests.pipelines.world import (
    World,
    output_bytes,
    read_texts,
    selected,
    selected_rows,
)

GONE = ("part-1.parquet", "part-3.jsonl")
RANDOM = {"policy": "random", "query": None}
KEEP_TEXTS = {
    "reserve", "sample", "candidates", "shown", "landmarks", "proof_parts", "proof_corpus", "proof_measured"
}  # fmt: skip


def ids_of(world: World, *shards: str) -> list[str]:
    """Lists the default ids of all usable rows of some shards."""
    _, ids = read_texts(world.corpus)
    return [own for own in ids if own.split("#")[0] in shards]


def texts_of(world: World, *shards: str) -> set[str]:
    """Reads the usable texts of some shards."""
    texts, ids = read_texts(world.corpus)
    own = set(ids_of(world, *shards))
    return {text for text, each in zip(texts, ids, strict=True) if each in own}


def write_list(path: pathlib.Path, ids: list[str], column: str = "example_id") -> pathlib.Path:
    """Writes a list of ids in the format that the name of the file says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: ids}), path)
    elif path.suffix == ".txt":
        path.write_text("".join(f"  {own}\r\n\n" for own in ids))
    else:
        lines = "\n".join(json.dumps({column: own}) for own in ids).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.fixture(scope="module")
def smaller(world: World, tmp_path_factory) -> World:
    """The world without the shards in `GONE`."""
    root = tmp_path_factory.mktemp("smaller")
    shutil.copytree(world.corpus, root / "corpus", ignore=shutil.ignore_patterns(*GONE))
    for name in ("query", "proxy"):
        (root / name).symlink_to(world.root / name)
    return World(root)


@pytest.fixture(scope="module")
def lists(world: World, tmp_path_factory) -> pathlib.Path:
    """A folder of two lists, which hold the ids of the shards in `GONE`, some of them twice, and one of no row."""
    folder = tmp_path_factory.mktemp("lists")
    ids = ids_of(world, *GONE)
    write_list(folder / "a.txt", [*ids[:300], "part-9.parquet#1"])
    write_list(folder / "b.parquet", ids[250:])
    return folder


def why(output: pathlib.Path) -> list[tuple]:
    """Reads ids and every number of the selected rows."""
    return [tuple(row.values()) for row in selected(output)]


@pytest.mark.parametrize(
    "flags",
    [
        {"acceptance": "block"},
        {"acceptance": "shortlist"},
        {"acceptance": "propagate", "weighted": True},
        {"policy": "dsir"},
    ],
    ids=["block", "shortlist", "propagate", "dsir"],
)
def test_a_selection_is_that_of_a_corpus_without_the_excluded_rows(
    world, smaller, lists, tmp_path, flags
):
    manifest = world.run(tmp_path / "out", exclude=lists, **flags)
    smaller.run(tmp_path / "smaller", **flags)
    assert why(tmp_path / "out") == why(tmp_path / "smaller")
    assert len(why(tmp_path / "out")) > 50
    number = len(ids_of(world, *GONE))
    assert manifest["excluded"] == {"ids": number + 1, "rows": number}


def test_landmarks_are_those_of_a_corpus_without_the_excluded_rows(
    world, smaller, lists, targets, tmp_path
):
    flags = {"query": None, "query_group": targets[:2], "num_landmarks": 64}
    world.distill(tmp_path / "out", exclude=lists, **flags)
    smaller.distill(tmp_path / "smaller", **flags)
    assert why(tmp_path / "out") == why(tmp_path / "smaller")


def test_an_excluded_row_is_rejected_with_its_reason(world, tmp_path):
    listed = ids_of(world, "part-0.parquet")[5:9]
    path = write_list(tmp_path / "ids.txt", listed)
    manifest = world.run(tmp_path / "out", exclude=path, budget_tokens=10**6, **RANDOM)
    rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    found = [row for row in rejected if row["reason"] == "excluded"]
    assert [f"{row['shard']}#{row['row']}" for row in found] == listed
    assert {row["detail"] for row in found} == {"its id is on the list of --exclude"}
    counts = manifest["counts"]
    assert manifest["rejected"]["excluded"] == 4
    assert counts["read"] == counts["selected"] + counts["not_selected"] + counts["rejected"]
    assert counts["selected"] == 896
    assert not set(listed) & {row["example_id"] for row in selected(tmp_path / "out")}
    assert "excluded" in (tmp_path / "out" / "report.html").read_text()


def test_what_was_read_is_counted_as_of_a_corpus_without_the_excluded_rows(
    world, smaller, lists, tmp_path
):
    totals = []
    for own, exclude in ((world, lists), (smaller, None)):
        flags = {"policy": "random", "exclude": exclude}
        own.run(tmp_path / own.root.name, **flags)
        parsed, _ = quad_options.parse(own.arguments(tmp_path / own.root.name, **flags))
        totals.append(chain.build(parsed, look(parsed)).stages[0].corpus.totals())
    names = ("usable", "tokens", "reserve", "reserve_tokens", "lengths", "length_tokens")
    left, right = ([getattr(total, name) for name in names] for total in totals)
    assert left == right
    assert totals[0].read == 912
    assert totals[0].rejected["excluded"] == len(ids_of(world, *GONE))


@pytest.mark.parametrize("name", ["ids.txt", "ids.parquet", "ids.jsonl", "ids.jsonl.gz"])
@pytest.mark.parametrize("column", ["n", "example_id"])
def test_ids_of_an_id_column_are_read_from_every_format(world, tmp_path, name, column):
    path = write_list(tmp_path / name, ["17", "402", "850"], column)
    flags = {"id_column": "n", "budget_tokens": 10**6, **RANDOM}
    manifest = world.run(tmp_path / "out", exclude=path, **flags)
    assert manifest["excluded"] == {"ids": 3, "rows": 3}
    kept = {row["n"] for row in selected_rows(tmp_path / "out")}
    assert kept == set(range(900)) - {17, 402, 850}


def test_whole_numbers_are_ids_as_text_is(world, tmp_path):
    pq.write_table(pa.table({"n": [17, 402]}), tmp_path / "ids.parquet")
    (tmp_path / "ids.jsonl").write_text('{"n": 17}\n{"n": "850"}\n')
    flags = {"id_column": "n", "budget_tokens": 10**6, **RANDOM}
    manifest = world.run(tmp_path / "out", exclude=f"{tmp_path}/ids.*", **flags)
    assert manifest["excluded"] == {"ids": 3, "rows": 3}


def test_of_a_repeated_id_every_row_is_excluded(tmp_path, world):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = [{"text": f"law{i} law2 law3", "own": f"id-{i % 3}"} for i in range(6)]
    (corpus / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = write_list(tmp_path / "ids.txt", ["id-1"])
    flags = {"input": corpus, "id_column": "own", "exclude": path, **RANDOM}
    manifest = world.run(tmp_path / "out", **flags)
    assert manifest["rejected"] == {"excluded": 2, "duplicate_id": 2}
    parsed, _ = quad_options.parse(world.arguments(tmp_path / "out", **flags))
    corpus = chain.build(parsed, look(parsed)).stages[0].corpus
    assert corpus.num_usable() == 2
    assert [row["own"] for row in selected_rows(tmp_path / "out")] == ["id-0", "id-2"]


def texts_below(root: pathlib.Path) -> dict[str, set[str]]:
    """Reads the texts of all artifacts with a column of them, by kind."""
    found: dict[str, set[str]] = {}
    for path in root.rglob("*.parquet"):
        if "text" in pq.read_schema(path).names:
            kind = path.relative_to(root).parts[0]
            texts = pq.read_table(path, columns=["text"]).column("text").to_pylist()
            found.setdefault(kind, set()).update(text for text in texts if text)
    # Of the paraphrases that are looked for there may be none.
    return {kind: texts for kind, texts in found.items() if texts}


@pytest.fixture(scope="module")
def shared(world: World, targets, tmp_path_factory) -> pathlib.Path:
    """Artifacts of runs of all kinds without `--exclude`, which have the texts of all shards."""
    root = tmp_path_factory.mktemp("shared")
    world.run(root / "block", artifacts=root / "artifacts")
    world.run(root / "shortlist", artifacts=root / "artifacts", acceptance="shortlist")
    flags = {"query": None, "query_group": targets[:2], "num_landmarks": 64}
    world.distill(root / "distilled", artifacts=root / "artifacts", **flags)
    flags = {"policy": "similarity", "prove": True}
    world.run(root / "proved", artifacts=root / "artifacts", **flags)
    draw_texts_of_a_proof(root / "proved")
    return root / "artifacts"


def draw_texts_of_a_proof(output: pathlib.Path, *flags: str) -> None:
    """Runs a proof up to its trainings."""
    arguments = [f"--output={output}", "--policies=random", "--proof_tokens=2500", *flags]
    parsed, _ = prove_options.parse(arguments)
    built = prove_chain.build(parsed, look(parsed))
    built.write_plans()
    run_in_process([stage for stage in built.stages if stage.name not in ("TrainOn", "WriteProof")])


def test_no_artifact_holds_an_excluded_text_afterwards_and_all_others_stay(
    world, shared, lists, tmp_path
):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(shared, artifacts)
    of_gone = texts_of(world, *GONE)
    before = texts_below(artifacts)
    assert set(before) == KEEP_TEXTS
    assert all(own & of_gone for own in before.values())
    world.run(tmp_path / "out", artifacts=artifacts, exclude=lists, policy="dsir")
    after = texts_below(artifacts)
    assert after == {kind: own - of_gone for kind, own in before.items()}


def test_a_file_that_loses_rows_keeps_its_groups_its_metadata_and_all_other_rows(
    world, shared, lists, tmp_path
):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(shared, artifacts)
    world.run(tmp_path / "out", artifacts=artifacts, exclude=lists, **RANDOM)
    keys = seeding.keys(ids_of(world, *GONE))
    paths = [*artifacts.glob("candidates/*/groups/*"), *artifacts.glob("reserve/*/*")]
    same = []
    for path in paths:
        old = shared / path.relative_to(artifacts)
        before, after = pq.ParquetFile(old), pq.ParquetFile(path)
        assert aligned.read_metadata(str(path)) == aligned.read_metadata(str(old))
        assert after.num_row_groups == before.num_row_groups
        for i in range(before.num_row_groups):
            table = before.read_row_group(i)
            kept = ~np.isin(table.column("key").to_numpy(), keys)
            assert after.read_row_group(i) == table.filter(pa.array(kept))
        if path.read_bytes() == old.read_bytes():
            same.append(path.name[:6])
    # The shards of which no row is excluded.
    assert sorted(same) == ["part-0", "part-2"]


def test_a_run_that_excludes_reads_and_embeds_nothing_again_and_selects_the_same(
    world, shared, lists, tmp_path, monkeypatch
):
    flags = {"exclude": lists, "acceptance": "shortlist"}
    world.run(tmp_path / "own", **flags)
    artifacts = tmp_path / "artifacts"
    shutil.copytree(shared, artifacts)
    monkeypatch.setattr(EmbedExamples, "do", lambda *_: pytest.fail("a split was read"))
    world.run(tmp_path / "out", artifacts=artifacts, **flags)
    assert why(tmp_path / "out") == why(tmp_path / "own")


def test_a_run_that_excludes_never_writes_the_texts(world, lists, tmp_path, monkeypatch):
    monkeypatch.setattr(aligned, "drop_rows", lambda *_: pytest.fail("a text was written"))
    world.run(tmp_path / "out", exclude=lists, acceptance="shortlist")
    of_gone = texts_of(world, *GONE)
    found = texts_below(tmp_path / "out" / "_run")
    assert set(found) == {"reserve", "sample", "shown"}
    assert not any(own & of_gone for own in found.values())
    page = (tmp_path / "out" / "report.html").read_text()
    assert not [text for text in of_gone if text in page]


def test_a_proof_draws_no_excluded_text_of_an_earlier_selection(world, lists, tmp_path):
    flags = {"policy": "random", "budget_tokens": 5000}
    world.run(tmp_path / "earlier", prove=True, **flags)
    world.run(tmp_path / "out", exclude=lists, prove=True, **flags)
    draw_texts_of_a_proof(tmp_path / "out", f"--against={tmp_path / 'earlier'}")
    of_gone = texts_of(world, *GONE)
    earlier = {row["text"] for row in selected_rows(tmp_path / "earlier")}
    found = texts_below(tmp_path / "out" / "_run")
    assert len(earlier & of_gone) > 50
    assert len(found["proof_parts"] & earlier) > 50
    assert not any(own & of_gone for own in found.values())


def test_beam_writes_what_the_loop_writes(world, lists, tmp_path):
    flags = {"budget_tokens": 2000, **RANDOM}
    world.run(tmp_path / "out", artifacts=tmp_path / "a", exclude=lists, **flags)
    written = output_bytes(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    world.launch(tmp_path / "out", artifacts=tmp_path / "b", exclude=f"{lists}/*", **flags)
    assert output_bytes(tmp_path / "out") == written


def test_ids_that_were_excluded_stay_excluded_with_the_same_artifacts(world, lists, tmp_path):
    flags = {"artifacts": tmp_path / "artifacts", **RANDOM}
    world.run(tmp_path / "out", exclude=lists, **flags)
    more = write_list(tmp_path / "more.txt", ids_of(world, "part-0.parquet")[:3])
    manifest = world.run(tmp_path / "more", exclude=[lists, more], **flags)
    assert manifest["rejected"]["excluded"] == len(ids_of(world, *GONE)) + 3
    number = len(ids_of(world, *GONE)) + 1
    for exclude, missing in ((None, (number, number + 3)), (more, (number,)), (lists, (3,))):
        with pytest.raises(UsageError, match="an earlier run with the artifacts") as error:
            world.run(tmp_path / "other", exclude=exclude, **flags)
        assert any(f"excluded {count:,} ids that" in str(error.value) for count in missing)


def test_another_list_is_another_run_and_another_spelling_is_not(world, lists, tmp_path, capsys):
    arguments = world.arguments(tmp_path / "out", exclude=lists, **RANDOM)
    assert quad.main(arguments) == 0
    spelled = world.arguments(
        tmp_path / "out", exclude=f"{lists}/a.txt,{lists}/b.parquet", **RANDOM
    )
    assert quad.main(spelled) == 0
    assert "complete already" in capsys.readouterr().out
    more = write_list(tmp_path / "more.txt", ["part-0.parquet#7"])
    assert quad.main([*arguments, f"--exclude={more}"]) == 2
    assert "--exclude lists other ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", b" \n\n", r"ids.txt: holds no id; leave it out"),
        ("ids.txt", b"a\xff\n", r"ids.txt: is not UTF-8: .*; repair the file"),
        ("ids.jsonl", b'{"id": "a"}', r"ids.jsonl: no row has an id in the column 'example_id'"),
        ("ids.jsonl", b'{"example_id": "a"}\n{"b": 1}', r"ids.jsonl: row 1 has no id in"),
        ("ids.jsonl", b'{"example_id": "a"}\n{"example_id": 1.5}', r"ids.jsonl: row 1 has no id"),
        ("ids.jsonl.gz", b"\x1f\x8b\x08\x00", r"ids.jsonl.gz: truncated gz stream; repair"),
        ("ids.parquet", b"PAR1", r"ids.parquet: .*; repair the file"),
        ("ids.csv", b"a\n", r"ids.csv: unknown extension"),
        (None, b"", r"--exclude=?.*nothing.* matches no file"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(world, tmp_path, name, content, message):
    path = tmp_path / (name or "nothing.txt")
    if name is not None:
        path.write_bytes(content)
    parsed, _ = quad_options.parse(world.arguments(tmp_path / "out", exclude=path, **RANDOM))
    with pytest.raises(UsageError, match=message) as error:
        look(parsed)
    assert "--exclude" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_list_of_many_ids_is_counted_once_for_each(world, tmp_path):
    ids = [f"id-{i % 150_000}" for i in range(200_000)]
    pq.write_table(
        pa.table({"example_id": pa.array(ids).dictionary_encode()}), tmp_path / "i.parquet"
    )
    path = write_list(tmp_path / "more.txt", ids[:70_000])
    flags = {"exclude": [tmp_path / "i.parquet", path], **RANDOM}
    parsed, _ = quad_options.parse(world.arguments(tmp_path / "out", **flags))
    found = read_excluded(parsed)
    assert found is not None
    assert found.num_ids == 150_000
