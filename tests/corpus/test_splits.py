import gzip
import itertools
import json
import os

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from beam_quad.corpus import jsonl, rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.stages.influence import score
from beam_quad.stages.read import embed

LINE = b'{"text": "a"}'


def random_texts(num: int) -> list[str]:
    return [f"{i:032x}" * 8 for i in range(num)]


def test_large_parquet_is_cut_into_runs_of_row_groups(write_table):
    path = write_table({"text": random_texts(1000)}, row_group_size=100)
    plan = splits.plan_input([str(path)], split_bytes=path.stat().st_size // 3)
    assert len(plan.splits) > 2
    assert sum(s.num_groups for s in plan.splits) == 10
    assert [s.first_row for s in plan.splits] == [s.first_group * 100 for s in plan.splits]
    assert sum(s.num_rows for s in plan.splits) == plan.num_rows == 1000
    assert plan.num_rows_exact


@pytest.mark.parametrize("split_bytes", [1, 20_000, 10**9])
def test_batches_do_not_depend_on_how_a_shard_is_split(write_table, split_bytes):
    path = write_table({"text": random_texts(1000)}, row_group_size=130)
    plan = splits.plan_input([str(path)], split_bytes=split_bytes)
    batches = [
        (batch.first_row, tuple(batch.texts))
        for split in plan.splits
        for batch in rows.read_rows(split, Columns(), 50)
    ]
    starts = [start for start, _ in batches]
    assert starts == [130 * g + o for g in range(8) for o in (0, 50, 100) if 130 * g + o < 1000]
    assert [text for _, texts in batches for text in texts] == random_texts(1000)


@pytest.mark.parametrize("split_bytes", [1, 20_000, 10**9])
def test_runs_do_not_depend_on_how_a_shard_is_split_and_stay_in_their_bounds(
    write_table, split_bytes
):
    # Row groups are whole runs of 200 rows, so that only their own ends tell that one begins.
    texts = ["short"] * 300 + random_texts(700)
    path = write_table({"text": texts}, row_group_size=200)
    plan = splits.plan_input([str(path)], split_bytes=split_bytes)
    runs = [
        (run.first_row, run.texts)
        for split in plan.splits
        for run in rows.read_runs(split, Columns(), 50, 200, 90 * 256)
    ]
    # Of 256 characters each 90 texts fit, and so one batch of 50.
    first = [0, 200, 350, *range(400, 1000, 50)]
    assert [start for start, _ in runs] == first
    assert [text for _, own in runs for text in own] == texts


def test_a_run_starts_anew_in_a_row_group_however_few_rows_the_one_before_had(write_table):
    path = write_table({"text": ["a"] * 50}, row_group_size=10)
    (split,) = splits.plan_input([str(path)]).splits
    runs = list(rows.read_runs(split, Columns(), 10, 20, 10**6))
    assert [(run.first_row, len(run)) for run in runs] == [(row, 10) for row in range(0, 50, 10)]


def test_shards_are_named_relative_to_the_common_folder(write_lines, tmp_path):
    write_lines(LINE, name="in/x/1.jsonl")
    write_lines(LINE, name="in/y/z/1.jsonl")
    plan = splits.plan_input([f"{tmp_path}/in/x/*.jsonl,{tmp_path}/in/y"])
    assert plan.root == str(tmp_path / "in")
    assert [s.shard for s in plan.splits] == ["x/1.jsonl", "y/z/1.jsonl"]


def test_plan_does_not_depend_on_the_order_or_repetition_of_patterns(write_lines, tmp_path):
    for name in "cab":
        write_lines(LINE, name=f"in/{name}.jsonl")
    one = splits.plan_input([f"{tmp_path}/in/*.jsonl"])
    two = splits.plan_input([f"{tmp_path}/in/c.jsonl", f"{tmp_path}/in,{tmp_path}/in/a.jsonl"])
    assert one == two


def test_relative_patterns_work(write_lines, tmp_path, monkeypatch):
    write_lines(LINE)
    monkeypatch.chdir(tmp_path)
    assert [s.shard for s in splits.plan_input(["in/*.jsonl"]).splits] == ["a.jsonl"]
    monkeypatch.chdir(tmp_path / "in")
    assert [s.shard for s in splits.plan_input(["*.jsonl"]).splits] == ["a.jsonl"]


def test_marker_files_under_a_glob_are_left_out(write_lines, tmp_path):
    for name in ("a.jsonl", "_SUCCESS", ".a.jsonl.crc", "_run/b.jsonl"):
        write_lines(LINE, name=f"in/{name}")
    for pattern in ("in", "in/*", "in/**"):
        plan = splits.plan_input([str(tmp_path / pattern)])
        assert [s.shard for s in plan.splits] == ["a.jsonl"]


def test_snapshot_changes_with_content(write_lines):
    path = write_lines(LINE)
    before = splits.plan_input([str(path)]).snapshot
    assert splits.plan_input([str(path)]).snapshot == before
    write_lines(LINE, LINE)
    assert splits.plan_input([str(path)]).snapshot != before


def test_empty_files_are_fine(write_lines, write_table, read_all):
    write_lines(LINE, name="in/1.jsonl")
    write_lines(name="in/2.jsonl")
    write_table({"text": pa.array([], pa.string())}, name="in/3.parquet")
    path = write_table({"text": pa.nulls(0)}, name="in/4.parquet")
    batches = read_all(path.parent)
    assert [text for batch in batches for text in batch.texts] == ["a"]
    assert splits.plan_input([str(path.parent)]).num_rows == 1


def test_schemas_are_unified(write_lines, write_table):
    write_lines(b'{"text": "a", "x": 1, "m": {"p": null, "e": {}}}', name="in/1.jsonl")
    write_lines(b'{"text": "a", "x": 0.5, "m": {"p": [1], "q": true}}', name="in/2.jsonl")
    path = write_table(
        {"text": pa.array(["a"], pa.large_string()), "y": ["s"]}, name="in/3.parquet"
    )
    schema = splits.plan_input([str(path.parent)]).schema
    assert schema.names == ["text", "x", "m", "y"]
    assert schema.field("text").type == pa.large_string()
    assert schema.field("x").type == pa.float64()
    expected = [("p", pa.list_(pa.int64())), ("e", pa.null()), ("q", pa.bool_())]
    assert schema.field("m").type == pa.struct(expected)


@pytest.mark.parametrize(
    "data_type",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_may_be_any_kind_of_string(write_lines, write_table, read_all, data_type):
    texts = pa.array(["a", None, "b"], pa.string()).cast(data_type)
    path = write_table({"text": texts})
    assert [t for b in read_all(path) for t in b.texts] == ["a", None, "b"]
    write_lines(LINE, name="in/b.jsonl")
    assert [t for b in read_all(path.parent) for t in b.texts] == ["a", None, "b", "a"]


def test_rows_of_a_long_file_are_estimated(write_lines):
    plan = splits.plan_input([str(write_lines(*[b'{"text": "%s"}' % (b"x" * 200)] * 20_000))])
    assert not plan.num_rows_exact
    assert plan.num_rows == pytest.approx(20_000, rel=0.05)
    assert plan.splits[0].num_rows == -1


def test_query_may_be_plain_text(tmp_path):
    (tmp_path / "q.txt").write_text("\ufeffwhat is\nit?", encoding="utf-8")
    plan = splits.plan_input([str(tmp_path)], is_query=True)
    (batch,) = rows.read_rows(plan.splits[0], Columns(), 10)
    assert batch.texts == ["what is\nit?"]
    assert batch.ids == ["q.txt#0"]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_large_json_lines_are_cut_into_runs_of_rows_of_which_the_last_is_open(
    write_lines, monkeypatch, ending
):
    monkeypatch.setattr(jsonl, "CUT_ROWS", 200)
    lines = [b'{"text": "%d", "n": %d}' % (i, i) for i in range(3000)]
    path = write_lines(*lines, b"", b" ")
    packed = path.with_name(f"a.jsonl{ending}")
    codec = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending]
    packed.write_bytes(codec(path.read_bytes()))
    plan = splits.plan_input([str(packed)], split_bytes=packed.stat().st_size // 4)
    assert 3 <= len(plan.splits) <= 5
    assert sum(split.size_bytes for split in plan.splits) == packed.stat().st_size
    runs = [
        (run.first_row, run.ids, run.texts)
        for split in plan.splits
        for run in rows.read_runs(split, Columns(), 50, 200, 10**6)
    ]
    (whole,) = splits.plan_input([str(packed)]).splits
    own = rows.read_runs(whole, Columns(), 50, 200, 10**6)
    assert runs == [(run.first_row, run.ids, run.texts) for run in own]
    last = plan.splits[-1]
    ((numbers, found),) = rows.read_selected(last, pa.schema([("n", pa.int64())]), [2999])
    assert numbers.tolist() == found.column("n").to_pylist() == [2999]
    read = [n for split in plan.splits for n in rows.read_numbers(split, "n", 64)]
    assert np.concatenate(read).tolist() == list(range(3000))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1), (3, 1, 2, 0)])
def test_parts_are_read_on_from_one_another_in_any_order(write_lines, monkeypatch, order):
    monkeypatch.setattr(jsonl, "CUT_ROWS", 10)
    opened = []

    def lines_of(path, own=jsonl.lines_of):
        opened.append(path)
        return own(path)

    monkeypatch.setattr(jsonl, "lines_of", lines_of)
    path = write_lines(*[b'{"text": "%02d"}' % i for i in range(40)])
    plan = splits.plan_input([str(path)], split_bytes=path.stat().st_size // 4)
    texts = [f"{i:02}" for i in range(40)]
    for i in order:
        split = plan.splits[i]
        (batch,) = rows.read_rows(split, Columns(), 10)
        assert batch.texts == texts[10 * i : 10 * i + 10]
    # Once, and once more for each part that is read after a later one.
    assert len(opened) == 1 + sum(later < first for first, later in itertools.pairwise(order))
    opened.clear()
    for split in plan.splits:
        lines = rows.read_lines(split, [split.first_row + 2, split.first_row + 5])
        assert [json.loads(line)["text"] for _, line in lines] == [
            texts[split.first_row + 2],
            texts[split.first_row + 5],
        ]
    assert len(opened) == 1
    # Other content under the name is not read on in the old one.
    write_lines(*[b'{"text": "x%02d"}' % i for i in range(40)])
    other = splits.plan_input([str(path)], split_bytes=path.stat().st_size // 4)
    (batch,) = rows.read_rows(other.splits[1], Columns(), 10)
    assert batch.texts[0] == "x10"


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_the_rows_of_a_large_file_are_well_estimated(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(jsonl, "_LARGE_BYTES", 1 << 20)
    monkeypatch.setattr(jsonl, "_LARGE_SAMPLE_BYTES", 1 << 20)
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(30).hex().encode() for _ in range(80_000))
    path = tmp_path / f"a.jsonl{ending}"
    codec = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending]
    path.write_bytes(codec(lines))
    plan = splits.plan_input([str(path)])
    assert not plan.num_rows_exact
    assert plan.num_rows == pytest.approx(80_000, rel=0.1)


@pytest.mark.parametrize("num_rows", [100, 5000])
def test_a_cut_by_an_estimate_that_is_wrong_leaves_no_row_out(write_lines, monkeypatch, num_rows):
    monkeypatch.setattr(jsonl, "CUT_ROWS", 50)
    # The first rows are twenty times as long as the others, or the others as the first.
    lines = [b'{"text": "%s"}' % (b"a" * 40) for _ in range(1000)]
    lines += [b'{"text": "%s"}' % (b"b" * (2 if num_rows > 1000 else 800)) for _ in range(num_rows)]
    path = write_lines(*lines)
    plan = splits.plan_input([str(path)], split_bytes=path.stat().st_size // 8)
    assert len(plan.splits) > 1
    batches = [b for split in plan.splits for b in rows.read_rows(split, Columns(), 50)]
    assert [id for b in batches for id in b.ids] == [f"a.jsonl#{i}" for i in range(len(lines))]


def test_a_cut_keeps_what_is_embedded_and_scored_together():
    assert jsonl.CUT_ROWS % embed._RUN_ROWS == 0
    assert jsonl.CUT_ROWS % score._SCORED_ROWS == 0
