"""A file is opened by the planner once, and of very many JSON Lines files a sample is."""

import json

import pyarrow as pa
import pytest

from beam_quad.corpus import formats, jsonl, splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.kept import KeptSummaries
from beam_quad.corpus.splits import plan_input


@pytest.fixture
def opened(monkeypatch):
    """Which files are opened for planning."""
    found = []
    for module in (formats.parquet, formats.jsonl):

        def summarise(info, columns, own=module.summarise):
            found.append(info.path.rsplit("/", 1)[-1])
            return own(info, columns)

        monkeypatch.setattr(module, "summarise", summarise)

    def exact_columns(path, names, own=formats.parquet.exact_columns):
        found.append(f"{path.rsplit('/', 1)[-1]} again")
        return own(path, names)

    monkeypatch.setattr(formats.parquet, "exact_columns", exact_columns)
    return found


def plan_and_keep(folder, **options):
    kept = KeptSummaries(str(folder / "kept"), Columns(options.get("text_column", "text")))
    plan = plan_input([str(folder / "in")], kept=kept, **options)
    for path, data in kept.unwritten.items():
        (folder / "kept" / path.split("/")[-2]).mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return plan


def test_a_restart_opens_no_file_and_a_refresh_only_new_ones(
    write_lines, write_table, tmp_path, opened
):
    write_lines(b'{"text": "a", "z": {"q": 1.5, "p": []}, "b": "x"}', name="in/1.jsonl")
    write_table({"text": ["a"], "n": pa.array([3])}, name="in/2.parquet")
    write_table({"text": ["a"], "n": pa.array([2.5])}, name="in/3.parquet")
    first = plan_and_keep(tmp_path)
    assert sorted(opened) == ["1.jsonl", "2.parquet", "2.parquet again", "3.parquet"]
    opened.clear()
    assert plan_and_keep(tmp_path) == first == plan_input([str(tmp_path / "in")])
    assert first.schema.names == ["text", "z", "b", "n"]
    opened.clear()
    plan_and_keep(tmp_path)
    assert opened == []
    write_lines(b'{"text": "a"}', name="in/4.jsonl")
    write_lines(b'{"text": "another"}', name="in/1.jsonl")
    plan_and_keep(tmp_path)
    assert sorted(opened) == ["1.jsonl", "4.jsonl"]


def test_a_run_that_reads_other_columns_opens_the_files_anew(write_lines, tmp_path, opened):
    write_lines(b'{"text": "a", "body": "b"}')
    plan_and_keep(tmp_path)
    plan_and_keep(tmp_path, text_column="body")
    assert opened == ["a.jsonl"] * 2


def test_what_is_wrong_with_a_file_is_looked_at_again(write_lines, tmp_path, opened):
    write_lines(b'{"text": "a"}', name="in/1.jsonl")
    (tmp_path / "in/2.parquet").write_bytes(b"PAR1 no footer")
    for _ in range(2):
        opened.clear()
        plan = plan_and_keep(tmp_path, reject_bad_files=True)
        assert set(plan.bad_files) == {"2.parquet"}
        assert "2.parquet" in opened


def test_of_many_json_lines_files_a_sample_tells_the_schema_and_how_many_rows_there_are(
    write_lines, write_table, tmp_path, opened, monkeypatch
):
    monkeypatch.setattr(splits, "SAMPLED_FILES", 5)
    for i in range(40):
        rows = [{"text": f"text {i} {row}", "n": row} for row in range(20 + i % 3)]
        write_lines(*(json.dumps(row).encode() for row in rows), name=f"in/{i:02}.jsonl")
    write_table({"text": ["a"] * 30}, name="in/a.parquet")
    plan = plan_input([str(tmp_path / "in")])
    assert len(opened) == 6
    assert plan.schema.names == ["text", "n"]
    assert not plan.num_rows_exact
    assert plan.num_rows == pytest.approx(30 + sum(20 + i % 3 for i in range(40)), rel=0.05)
    # Another file changes the sample by that file at most.
    sampled = set(opened)
    write_lines(b'{"text": "a"}', name="in/40.jsonl")
    opened.clear()
    plan_input([str(tmp_path / "in")])
    assert len(set(opened) - sampled) <= 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_file_that_is_cut_is_opened_in_any_case(write_lines, tmp_path, opened, monkeypatch, size):
    monkeypatch.setattr(splits, "SAMPLED_FILES", 0)
    monkeypatch.setattr(jsonl, "CUT_ROWS", 10)
    path = write_lines(*[b'{"text": "abc"}'] * 100)
    plan = plan_input([str(tmp_path / "in")], split_bytes=-(-path.stat().st_size // size))
    assert (len(plan.splits), len(opened)) == ((1, 0) if size == 1 else (3, 1))
