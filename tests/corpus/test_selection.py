"""Chosen rows reach the output as they were."""

import datetime
import decimal
import hashlib
import json

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.corpus import output, parts, rows, splits
from beam_quad.corpus.output import Rejected, Selected
from beam_quad.errors import BadFileError
from beam_quad.records import Reason

NUM_ROWS = 500
MOMENT = datetime.datetime(2026, 2, 3, 4, 5, 6, 789000)


def typed_table() -> pa.Table:
    def column(value, data_type: pa.DataType) -> pa.Array:
        return pa.array([None if i % 7 == 3 else value for i in range(NUM_ROWS)], data_type)

    nested = pa.struct([("a", pa.list_(pa.struct([("b", pa.float32())]))), ("c", pa.binary())])
    return pa.table(
        {
            "text": [f"text {i}" for i in range(NUM_ROWS)],
            "large": column("x" * 50, pa.large_string()),
            "view": column("y" * 50, pa.string_view()),
            "bytes": column(b"\xff\x00", pa.binary()),
            "fixed": column(b"abcd", pa.binary(4)),
            "decimal": column(decimal.Decimal("12.34"), pa.decimal128(9, 2)),
            "nanos": column(1_700_000_000_123_456_789, pa.timestamp("ns", "Europe/Berlin")),
            "zoned": column(MOMENT, pa.timestamp("us", "America/New_York")),
            "naive": column(MOMENT, pa.timestamp("ms")),
            "date": column(MOMENT.date(), pa.date32()),
            "time": column(MOMENT.time(), pa.time64("us")),
            "duration": column(5, pa.duration("s")),
            "dictionary": column("tag", pa.string()).dictionary_encode(),
            "nested": column({"a": [{"b": 0.5}, None], "c": b"\x01"}, nested),
            "map": column([("k", 1)], pa.map_(pa.string(), pa.int64())),
            "small": column(3, pa.int8()),
            "unsigned": column(2**64 - 1, pa.uint64()),
            "nothing": pa.nulls(NUM_ROWS),
            "dots.in.name": column(True, pa.bool_()),
        }
    )


def provenance(num_rows: int) -> pa.StructArray:
    return output.provenance(
        [f"id{i}" for i in range(num_rows)],
        tokens=np.arange(num_rows),
        cluster=np.zeros(num_rows, np.int32),
        influence=np.where(np.arange(num_rows) % 2, 0.25, np.nan),
    )


def selection(split, row_numbers) -> Selected:
    row_numbers = np.asarray(row_numbers, dtype=np.int64)
    return Selected(split, row_numbers, provenance(len(row_numbers)))


@pytest.mark.parametrize("split_bytes", [1, 10**9])
def test_types_and_values_survive_selection(write_table, tmp_path, split_bytes):
    table = typed_table()
    plan = splits.plan_input([str(write_table(table, row_group_size=100))], split_bytes=split_bytes)
    keep = np.arange(1, NUM_ROWS, 3)
    chosen = [
        selection(s, keep[(keep >= s.first_row) & (keep < s.first_row + s.num_rows)])
        for s in plan.splits
    ]
    (part,) = output.write_selected(str(tmp_path / "p.parquet"), chosen, plan.schema)
    written = pq.read_table(part.path)
    assert written.schema.field("beam_quad").type == output.PROVENANCE_TYPE
    expected = pa.concat_tables([table.slice(i, 1) for i in keep.tolist()])
    assert written.drop_columns("beam_quad").equals(expected)
    assert part.num_rows == len(keep)


def test_mask_and_row_numbers_choose_alike(write_table):
    plan = splits.plan_input([str(write_table(typed_table(), row_group_size=100))], split_bytes=1)
    split = plan.splits[2]
    mask = np.arange(split.num_rows) % 9 == 0
    by_mask = list(rows.read_selected(split, plan.schema, mask))
    by_number = list(rows.read_selected(split, plan.schema, split.first_row + np.flatnonzero(mask)))
    assert [n.tolist() for n, _ in by_mask] == [n.tolist() for n, _ in by_number]
    assert all(a.equals(b) for (_, a), (_, b) in zip(by_mask, by_number, strict=True))
    assert by_mask[0][0][0] == split.first_row


def test_columns_that_a_file_lacks_are_null(write_lines, write_table):
    write_lines(b'{"text": "a", "x": 1, "m": {"p": {}}}', name="in/1.jsonl")
    path = write_table({"text": ["b"], "x": [0.5]}, name="in/2.parquet")
    plan = splits.plan_input([str(path.parent)])
    batches = [b for s in plan.splits for _, b in rows.read_selected(s, plan.schema, [0])]
    found = [row for batch in batches for row in batch.to_pylist()]
    assert found == [
        {"text": "a", "x": 1.0, "m": {"p": None}},
        {"text": "b", "x": 0.5, "m": None},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst"])
def test_json_lines_are_carried_as_they_were(write_lines, tmp_path, suffix):
    lines = [
        b'{"text": "a",   "x" : 1.50, "u": "\\u00e9"}\r',
        b'  {"x": 2, "text": "b", "x": 3}  ',
        b'{"text": "skipped"}',
        '{"text":"ü","u":"💡"}'.encode(),
    ]
    plan = splits.plan_input([str(write_lines(*lines))])
    path = str(tmp_path / f"p.{suffix}")
    (part,) = output.write_selected(path, [selection(plan.splits[0], [0, 1, 3])], plan.schema)
    raw = (tmp_path / f"p.{suffix}").read_bytes()
    assert part.sha256 == hashlib.sha256(raw).hexdigest()
    assert part.size_bytes == len(raw)
    if suffix.endswith("zst"):
        raw = pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read()
    written = raw.splitlines()
    for line, original in zip(written, [lines[0], lines[1], lines[3]], strict=True):
        assert line.startswith(original.rstrip()[:-1] + b',"beam_quad":{"example_id":')
        assert orjson.loads(line)["beam_quad"].keys() == {f.name for f in output.PROVENANCE_TYPE}
    assert orjson.loads(written[0])["beam_quad"]["influence"] is None
    assert orjson.loads(written[1])["beam_quad"]["influence"] == 0.25


def test_raw_lines_are_given_by_row(write_lines):
    lines = [b'{"text": "%d"} ' % i for i in range(5000)]
    plan = splits.plan_input([str(write_lines(b"", *lines))])
    chosen = list(rows.read_lines(plan.splits[0], [0, 17, 4999]))
    assert chosen == [(i, lines[i]) for i in (0, 17, 4999)]


def test_parquet_rows_become_plain_json(write_table, tmp_path):
    plan = splits.plan_input([str(write_table(typed_table()))])
    path = str(tmp_path / "p.jsonl")
    output.write_selected(path, [selection(plan.splits[0], [0, 3])], plan.schema)
    first, second = map(json.loads, (tmp_path / "p.jsonl").read_text().splitlines())
    assert first.pop("beam_quad")["example_id"] == "id0"
    assert first == {
        "text": "text 0",
        "large": "x" * 50,
        "view": "y" * 50,
        "bytes": "/wA=",
        "fixed": "YWJjZA==",
        "decimal": "12.34",
        "nanos": "2023-11-14 23:13:20.123456789+0100",
        "zoned": "2026-02-02T23:05:06.789000-05:00",
        "naive": "2026-02-03T04:05:06.789000",
        "date": "2026-02-03",
        "time": "04:05:06.789000",
        "duration": 5,
        "dictionary": "tag",
        "nested": {"a": [{"b": 0.5}, None], "c": "AQ=="},
        "map": [["k", 1]],
        "small": 3,
        "unsigned": 2**64 - 1,
        "nothing": None,
        "dots.in.name": True,
    }
    assert second["decimal"] is None


def test_invalid_bytes_of_another_column_are_shown_in_json(write_table, tmp_path, string_array):
    path = write_table({"text": ["a"], "url": string_array([b"x\xff"])})
    plan = splits.plan_input([str(path)])
    output.write_selected(str(tmp_path / "p.jsonl"), [selection(plan.splits[0], [0])], plan.schema)
    assert json.loads((tmp_path / "p.jsonl").read_text())["url"] == "x\\xff"


@pytest.mark.parametrize("suffix", output.WRITERS)
def test_two_runs_write_the_same_bytes(write_table, tmp_path, suffix):
    plan = splits.plan_input([str(write_table(typed_table(), row_group_size=100))])
    chosen = [selection(plan.splits[0], range(0, NUM_ROWS, 2))]
    paths = [str(tmp_path / f"{i}.{suffix}") for i in range(2)]
    one, two = [output.write_selected(path, chosen, plan.schema)[0] for path in paths]
    assert one.sha256 == two.sha256


def test_dictionaries_of_several_shards_go_into_one_part(write_table, tmp_path):
    for i in range(3):
        tags = pa.array([f"tag{i}", None, "all"]).dictionary_encode()
        path = write_table({"text": ["a", "b", "c"], "tag": tags}, name=f"in/{i}.parquet")
    plan = splits.plan_input([str(path.parent)])
    chosen = [selection(split, [0, 2]) for split in plan.splits]
    (part,) = output.write_selected(str(tmp_path / "p.parquet"), chosen, plan.schema)
    tags = pq.read_table(part.path)["tag"]
    assert pa.types.is_dictionary(tags.type)
    assert tags.to_pylist() == ["tag0", "all", "tag1", "all", "tag2", "all"]


def test_empty_part_keeps_its_schema(write_table, tmp_path):
    plan = splits.plan_input([str(write_table(typed_table()))])
    (part,) = output.write_selected(str(tmp_path / "p.parquet"), [], plan.schema)
    assert part.num_rows == 0
    assert pq.read_schema(part.path).names == output.output_schema(plan.schema).names


def test_damage_leaves_no_part(write_lines, tmp_path):
    path = write_lines(b'{"text": "a"}')
    plan = splits.plan_input([str(path)])
    with pytest.raises(BadFileError, match="has no row 5"):
        output.write_selected(
            str(tmp_path / "p.parquet"), [selection(plan.splits[0], [0, 5])], plan.schema
        )
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_rows_that_do_not_ascend_are_refused(write_lines):
    plan = splits.plan_input([str(write_lines(b'{"text": "a"}'))])
    with pytest.raises(ValueError, match="ascend"):
        list(rows.read_selected(plan.splits[0], plan.schema, [3, 1]))


def test_rejected_rows_are_written(tmp_path):
    rejected = [
        Rejected("a.jsonl", 3, Reason.NULL_TEXT, "no text"),
        Rejected("b.parquet", None, Reason.BAD_FILE, "truncated"),
    ]
    part = output.write_rejected(str(tmp_path / "part-00000-of-00001.parquet"), iter(rejected))
    assert pq.read_table(part.path).to_pylist() == [
        {"shard": "a.jsonl", "row": 3, "reason": "null_text", "detail": "no text"},
        {"shard": "b.parquet", "row": None, "reason": "bad_file", "detail": "truncated"},
    ]
    assert parts.part_name(0, 1) == "part-00000-of-00001.parquet"
