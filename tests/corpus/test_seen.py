"""What is known of local files by their content."""

import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import files
from beam_quad.corpus import joining, parquet, rows, seen, splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.seen import SeenFiles
from beam_quad.errors import BadFileError

_LINE = b'{"text": "one two"}\n'


def plan(
    folder: pathlib.Path, records: pathlib.Path, read=("text",)
) -> tuple[splits.InputPlan, SeenFiles]:
    known = SeenFiles(str(records), read)
    return splits.plan_input([str(folder)], version_of=known.version), known


@pytest.fixture
def corpus(tmp_path):
    """A corpus of one shard, whose content is recorded."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(_LINE)
    found, _ = plan(folder, tmp_path / "seen")
    seen.record(str(tmp_path / "seen"), found.splits[0], ["text"])
    return folder


def test_a_file_that_was_touched_keeps_its_version_and_is_read_as_it_lies(corpus, tmp_path):
    before, _ = plan(corpus, tmp_path / "seen")
    os.utime(corpus / "a.jsonl", (1, 1))
    after, _ = plan(corpus, tmp_path / "seen")
    assert after.snapshot == before.snapshot
    assert after.splits[0].version == before.splits[0].version
    (batch,) = rows.read_rows(after.splits[0], Columns("text"), 64)
    assert batch.texts == ["one two"]


def test_a_copy_of_a_corpus_is_the_same_corpus(corpus, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.jsonl").write_bytes(_LINE)
    snapshots = {plan(folder, tmp_path / "seen")[0].snapshot for folder in (corpus, copy)}
    assert len(snapshots) == 1


def test_other_content_of_the_same_name_size_and_time_is_another_version(corpus, tmp_path):
    before, _ = plan(corpus, tmp_path / "seen")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jsonl").write_bytes(_LINE.replace(b"one", b"two"))
    time = (corpus / "a.jsonl").stat().st_mtime_ns
    os.utime(other / "a.jsonl", ns=(time, time))
    after, _ = plan(other, tmp_path / "seen")
    assert after.splits[0].found_version == before.splits[0].found_version
    assert after.splits[0].version != before.splits[0].version


def test_content_is_compared_once_for_a_new_place_or_time(corpus, tmp_path, monkeypatch):
    os.utime(corpus / "a.jsonl", (1, 1))
    first, known = plan(corpus, tmp_path / "seen")
    for path, data in known.unwritten.items():
        files.write_once(path, data)
    monkeypatch.setattr(seen, "content_hash", lambda path, columns: pytest.fail(f"{path} was read"))
    assert plan(corpus, tmp_path / "seen")[0] == first


def test_a_file_of_which_nothing_is_recorded_is_not_read_for_its_version(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(_LINE)
    monkeypatch.setattr(seen, "content_hash", lambda path, columns: pytest.fail(f"{path} was read"))
    found, known = plan(tmp_path / "in", tmp_path / "seen")
    assert found.splits[0].version == found.splits[0].found_version
    assert not known.unwritten


def test_a_file_that_changed_after_it_was_planned_is_not_recorded(corpus, tmp_path):
    found, _ = plan(corpus, tmp_path / "new")
    (corpus / "a.jsonl").write_bytes(_LINE * 2)
    with pytest.raises(BadFileError, match="has changed since it was planned"):
        seen.record(str(tmp_path / "new"), found.splits[0], ["text"])
    assert not (tmp_path / "new").exists()


def write_parquet(path: pathlib.Path, text: str, key: str, wide: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    options = {"write_statistics": False, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"text": [text], "key": [key], "wide": [wide]}), path, **options)


@pytest.mark.parametrize("columns", [["text"], ["text", "key"]], ids=len)
def test_a_hash_of_parquet_covers_the_columns_that_are_read(tmp_path, columns):
    path, hashes = tmp_path / "a.parquet", []
    for values in ("abx", "aby", "aox", "obx"):
        write_parquet(path, values[0], values[1], values[2].encode() * 9999)
        hashes.append(seen.content_hash(str(path), columns))
    assert hashes[0] == hashes[1]
    assert (hashes[0] == hashes[2]) == ("key" not in columns)
    assert hashes[0] != hashes[3]


def test_a_hash_of_parquet_reads_no_other_columns(tmp_path):
    write_parquet(tmp_path / "a.parquet", "a", "b", b"x" * 9999)
    (size, *sizes) = [size for _, size in parquet.places(str(tmp_path / "a.parquet"), ["text"])]
    assert len(sizes) == 1
    assert size + sum(sizes) < 5000
    assert len(list(parquet.places(str(tmp_path / "a.parquet"), ["tex"]))) == 1


@pytest.mark.parametrize("times", [(1, 1), (1, 2)], ids=["time kept", "touched"])
def test_a_copy_with_other_ids_is_another_corpus_to_a_run_that_reads_them(tmp_path, times):
    folders = [tmp_path / "a", tmp_path / "b"]
    versions = []
    for read in (["text"], ["text", "key"]):
        for folder, key, time in zip(folders, "xy", times, strict=True):
            write_parquet(folder / "a.parquet", "t", key, b"")
            os.utime(folder / "a.parquet", (1, time))
            found, known = plan(folder, tmp_path / "seen", read)
            for path, data in known.unwritten.items():
                files.write_once(path, data)
            seen.record(str(tmp_path / "seen"), found.splits[0], read)
            versions.append(found.splits[0].version)
    assert versions[0] == versions[1] == versions[2] != versions[3]


@pytest.mark.parametrize("content", [b"", b"PAR1 and more"])
def test_what_is_no_parquet_is_hashed_whole(tmp_path, content):
    for name in ("a.parquet", "a.jsonl"):
        (tmp_path / name).write_bytes(content)
    hashes = {seen.content_hash(str(path), ["text"]) for path in tmp_path.iterdir()}
    assert len(hashes) == 1


def test_the_version_of_a_small_query_file_is_its_content(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(_LINE)
    before = seen.small_version("a.jsonl", files.stat(str(path)))
    os.utime(path, (1, 1))
    assert seen.small_version("a.jsonl", files.stat(str(path))) == before
    path.write_bytes(_LINE.replace(b"one", b"two"))
    os.utime(path, (1, 1))
    assert seen.small_version("a.jsonl", files.stat(str(path))) != before


def test_joined_shards_are_recorded_together_and_known_each(tmp_path):
    folder, records = tmp_path / "in", tmp_path / "seen"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_bytes(_LINE * (1 + ord(name)))
    before, _ = plan(folder, records)
    seen.record(str(records), joining.join(before.splits), ["text"])
    assert len(list(records.iterdir())) == 1
    for name in "bc":
        os.utime(folder / f"{name}.jsonl", (1, 1))
    (folder / "c.jsonl").write_bytes(_LINE.replace(b"one", b"two") * (1 + ord("c")))
    after, _ = plan(folder, records)
    same = [a.version == b.version for a, b in zip(after.splits, before.splits, strict=True)]
    assert same == [True, True, False]
