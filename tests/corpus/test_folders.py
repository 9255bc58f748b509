"""Folders named `name=value` are columns, and what lies beside the data is passed over with a count."""

import json
import os
import pathlib

import pyarrow as pa
import pytest

from beam_quad.corpus import folders, output, rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.errors import UsageError


def test_folders_name_columns_as_hive_and_spark_write_them():
    shard = "lang=en/year=2024/title=a%2Fb%20c/empty=/null=__HIVE_DEFAULT_PARTITION__/x=1.parquet"
    assert folders.columns_of(shard) == {
        "lang": "en", "year": "2024", "title": "a/b c", "empty": "", "null": None,
    }  # fmt: skip
    assert folders.columns_of("2024=a/=b/plain/a.parquet") == {}


def selected_rows(plan):
    found = []
    for split in plan.splits:
        keep = range(sum(len(batch) for batch in rows.read_rows(split, Columns(), 9)))
        for _, batch in rows.read_selected(split, plan.schema, keep):
            found += batch.to_pylist()
    return found


def test_folders_are_columns_of_every_format_where_the_file_has_none(write_lines, write_table):
    write_lines(b'{"text": "a"}', b'{"text": "b", "lang": "own"}', name="in/lang=en/n=1/a.jsonl")
    write_table({"text": ["c", "d"]}, name="in/lang=de/n=1/b.parquet")
    path = write_table({"text": ["e"], "lang": ["own"]}, name="in/lang=de/n=2/c.parquet")
    plan = splits.plan_input([str(path.parents[2])])
    found = {row["text"]: (row["lang"], row["n"]) for row in selected_rows(plan)}
    assert found == {
        "a": ("en", "1"), "b": ("own", "1"), "c": ("de", "1"), "d": ("de", "1"), "e": ("own", "2"),
    }  # fmt: skip
    for name, expected in (("lang", ["de", "de", "own", "en", "own"]), ("n", list("11211"))):
        values = [
            text
            for split in plan.splits
            for batch in rows.read_rows(split, Columns(name), 1)
            for text in batch.texts
        ]
        assert values == expected


def test_a_folder_that_is_read_alone_names_its_column_too(write_lines):
    path = write_lines(b'{"text": "a"}', name="in/lang=en/n=1/a.jsonl")
    for pattern in (path, path.parent, path.parent.parent):
        plan = splits.plan_input([str(pattern)])
        assert [split.shard for split in plan.splits] == ["lang=en/n=1/a.jsonl"]
        assert selected_rows(plan) == [{"text": "a", "lang": "en", "n": "1"}]


def test_lines_are_written_with_the_columns_of_their_folders(write_lines, tmp_path):
    odd = b'\xef\xbb\xbf{"text": "b", "n": 123456789012345678901}\r'
    path = write_lines(b'{"text": "a"}', odd, b"oops", name="in/lang=en/a.jsonl")
    plan = splits.plan_input([str(path)])
    why = output.provenance(["0", "1"], tokens=[1, 1])
    part = str(tmp_path / "part-0.jsonl")
    selection = output.Selected(plan.splits[0], [0, 1], why)
    output.write_selected(part, [selection], plan.schema)
    lines = list(map(json.loads, pathlib.Path(part).read_text().splitlines()))
    assert [(line["text"], line["lang"]) for line in lines] == [("a", "en"), ("b", "en")]
    assert lines[1]["n"] == 123456789012345678901


def test_a_null_folder_is_no_value(write_lines, write_table):
    null = "lang=__HIVE_DEFAULT_PARTITION__"
    write_lines(b'{"text": "a"}', name=f"in/{null}/a.jsonl")
    write_table({"text": ["b"]}, name=f"in/{null}/b.parquet")
    path = write_table({"text": ["c"]}, name="in/lang=en/c.parquet")
    plan = splits.plan_input([str(path.parents[1])])
    assert [row["lang"] for row in selected_rows(plan)] == [None, None, "en"]


@pytest.mark.parametrize("pattern", ["in", "in/*", "in/**", "in/{[!b],b}*"])
def test_what_is_passed_over_is_counted(write_lines, tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    write_lines(b'{"text": "a"}', name="in/a.jsonl")
    for name in ("b.jsonl", "b.parquet", "_SUCCESS", ".a.jsonl.crc", "_temporary/0/c.jsonl"):
        write_lines(name=f"in/{name}")
    plan = splits.plan_input([pattern])
    assert [split.shard for split in plan.splits] == ["a.jsonl"]
    assert plan.passed_over == {"hidden": 3, "empty": 2}


def test_schemas_of_folders_stay_those_of_the_files(write_table):
    path = write_table({"text": ["a"], "n": [1]}, name="in/n=1/a.parquet")
    plan = splits.plan_input([os.path.dirname(path)])
    assert plan.schema.field("n").type == pa.int64()


def test_an_input_of_empty_files_alone_is_refused(write_lines):
    path = write_lines(name="in/a.jsonl")
    with pytest.raises(UsageError, match="--input: every file that it finds is empty"):
        splits.plan_input([str(path.parent)])
