"""What is known of local files by their content."""

import os
import pathlib

import pytest

from beam_quad.errors import BadFileError
from beam_quad.io import files, rows, seen, splits
from beam_quad.io.batches import Columns
from beam_quad.io.seen import SeenFiles

_LINE = b'{"text": "one two"}\n'


def plan(folder: pathlib.Path, records: pathlib.Path) -> tuple[splits.InputPlan, SeenFiles]:
    known = SeenFiles(str(records))
    return splits.plan_input([str(folder)], version_of=known.version), known


@pytest.fixture
def corpus(tmp_path):
    """A corpus of one shard, whose content is recorded."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(_LINE)
    found, _ = plan(folder, tmp_path / "seen")
    seen.record(str(tmp_path / "seen"), found.splits[0])
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
    monkeypatch.setattr(seen, "content_hash", lambda path: pytest.fail(f"{path} was read"))
    assert plan(corpus, tmp_path / "seen")[0] == first


def test_a_file_of_which_nothing_is_recorded_is_not_read_for_its_version(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(_LINE)
    monkeypatch.setattr(seen, "content_hash", lambda path: pytest.fail(f"{path} was read"))
    found, known = plan(tmp_path / "in", tmp_path / "seen")
    assert found.splits[0].version == found.splits[0].found_version
    assert not known.unwritten


def test_a_file_that_changed_after_it_was_planned_is_not_recorded(corpus, tmp_path):
    found, _ = plan(corpus, tmp_path / "new")
    (corpus / "a.jsonl").write_bytes(_LINE * 2)
    with pytest.raises(BadFileError, match="has changed since it was planned"):
        seen.record(str(tmp_path / "new"), found.splits[0])
    assert not (tmp_path / "new").exists()


def test_the_version_of_a_small_query_file_is_its_content(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(_LINE)
    before = seen.small_version("a.jsonl", files.stat(str(path)))
    os.utime(path, (1, 1))
    assert seen.small_version("a.jsonl", files.stat(str(path))) == before
    path.write_bytes(_LINE.replace(b"one", b"two"))
    os.utime(path, (1, 1))
    assert seen.small_version("a.jsonl", files.stat(str(path))) != before
