"""Files and locks on object stores, against servers that speak their protocols."""

import concurrent.futures

import numpy as np
import pyarrow as pa
import pytest

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.lock import OutputLock
from beam_quad.corpus import finding, splits
from beam_quad.errors import LockedError, UsageError
from beam_quad.stages import run_in_process
from beam_quad.stages.read.excluded import listed, lists_below
from beam_quad.stages.read.forget import ForgetTexts


def test_a_file_appears_whole_is_not_replaced_unless_asked_and_is_read_from_any_place(root):
    path = f"{root}/a.gz"
    with files.writing(path) as file:
        file.write(b"0123456789" * 700_000)
        assert files.find(root) == []
    files.write_once(path, b"other")
    with files.open_read(path) as file:
        file.seek(-5, 2)
        assert file.read() == b"56789"
        file.seek(13)
        assert file.read(4) == b"3456"
    files.write(path, b"other")
    assert files.read_bytes(path) == b"other"


def test_excluded_texts_are_dropped_from_files_on_a_store(root):
    excluded, raw = listed(root, np.array([3, 2], np.uint64))
    files.write_once(excluded.path, raw)
    path = f"{root}/reserve/{'0' * 20}/a.parquet"
    schema = pa.schema([("key", pa.uint64()), ("text", pa.large_string())])
    aligned.write_table(path, schema, {"key": [1, 2, 3, 4], "text": ["a", "b", "c", "d"]})
    run_in_process([ForgetTexts(excluded)])
    assert aligned.read_columns(path)["text"].tolist() == ["a", "d"]
    assert lists_below(root) == [excluded]


def test_a_file_without_a_byte_can_be_written(root):
    files.write_once(f"{root}/empty", b"")
    assert files.read_bytes(f"{root}/empty") == b""


def test_an_exception_leaves_nothing(root):
    def fail() -> None:
        with files.writing(f"{root}/a") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(files._found(files.Search(root))) == []


def test_a_listing_and_a_request_for_one_file_tell_the_same_version(root):
    for name in ("b/c/2", "a/1", "b/1", "[0]"):
        files.write_once(f"{root}/{name}", b"x")
    found = files.find(root)
    assert [info.path[len(root) :] for info in found] == ["/[0]", "/a/1", "/b/1", "/b/c/2"]
    assert found == [files.stat(info.path) for info in found]
    assert [info.path[len(root) :] for info in files.find(f"{root}/*/1")] == ["/a/1", "/b/1"]
    assert files.find(f"{root}/b/") == found[2:]
    for name in ("part", "part-1", "part-2/1", "pa"):
        files.write_once(f"{root}/names/{name}", b"x")
    named = [info.path.rpartition("/")[2] for info in files.find(f"{root}/names/part*")]
    assert named == ["part", "part-1"]
    assert files.find(f"{root}/none") == []


def test_an_input_on_a_store_is_found_as_on_a_disk(root):
    line = b'{"text": "a"}'
    for name in (
        "CC-1/a.jsonl",
        "CC-2/b.jsonl",
        "CC-3/c.jsonl",
        "a,b.jsonl",
        "README.md",
        "_x/a.jsonl",
    ):
        files.write_once(f"{root}/{name}", line)
    files.write_once(f"{root}/w.jsonl/part-0.jsonl", line)
    files.write_once(f"{root}/w.jsonl/_SUCCESS", b"")
    files.write_once(f"{root}/w.jsonl/part-0.crc", b"")

    def found(pattern: str) -> list[str]:
        plan = splits.plan_input([pattern], input_root=root)
        return [split.shard for split in plan.splits]

    assert found(f"{root}/CC-{{1,2}}/*.jsonl") == ["CC-1/a.jsonl", "CC-2/b.jsonl"]
    assert found(f"{root}/a,b.jsonl,{root}/CC-1") == ["CC-1/a.jsonl", "a,b.jsonl"]
    assert found(f"{root}/*.jsonl") == ["a,b.jsonl", "w.jsonl/part-0.jsonl"]
    assert found(f"{root}/**/*.jsonl") == found(root)
    with pytest.raises(UsageError, match=r"CC-4/\*\.jsonl matches no file"):
        found(f"{root}/CC-{{3,4}}/*.jsonl")


def test_bad_files_on_a_store_are_refused_or_left_out_when_planning(root):
    for name, content in (("a.jsonl", b'{"text": "a"}'), ("b.parquet", b"x"), ("c.jsonl.gz", b"x")):
        files.write_once(f"{root}/{name}", content)
    assert list(splits.plan_input([root], reject_bad_files=True).bad_files) == [
        "b.parquet",
        "c.jsonl.gz",
    ]
    with pytest.raises(UsageError, match=rf"--input={root}: {root}/(b|c).*on_bad_file=reject"):
        splits.plan_input([root])


@pytest.mark.parametrize("server", ["gs", "s3"], indirect=True)
def test_planning_asks_a_store_no_more_for_a_glob_than_for_its_name_and_its_files(server, root):
    files.write_once(f"{root}/a.jsonl", b'{"text": "a"}')
    counts = []
    for look in (files.find, lambda pattern: finding.find_files([pattern], "--input", False)):
        before = len(server.requests())
        look(f"{root}/*.jsonl")
        counts.append(len(server.requests()) - before)
    before = len(server.requests())
    assert finding.finder_of([f"{root}/{{a,b}},c/*"], f"{root}/out", ["manifest.json"]) is None
    assert len(server.requests()) == before
    assert counts[0] == counts[1] <= 3


# Azure tells when an object was written, not what is in it.
@pytest.mark.parametrize("server", ["gs", "s3"], indirect=True)
def test_the_version_of_an_object_is_that_of_its_content(root):
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        files.write_once(f"{root}/{name}", data)
    first, copy, other = (info.version for info in files.find(root))
    assert first == copy
    assert first != other
    files.write(f"{root}/a", b"one")
    assert files.stat(f"{root}/a").version == first


@pytest.mark.parametrize("server", ["gs", "s3"], indirect=True)
def test_a_folder_of_many_files_is_listed_by_as_many_requests_as_one_of_few(server, root):
    counts = []
    for num_files in (2, 20):
        for i in range(num_files):
            files.write_once(f"{root}/{num_files}/{i}", b"x")
        before = len(server.requests())
        assert len(files.find(f"{root}/{num_files}")) == num_files
        counts.append(len(server.requests()) - before)
    assert counts[0] == counts[1] <= 3


@pytest.mark.parametrize("take_over", [False, True])
def test_of_runs_that_start_at_once_never_two_have_the_lock(root, take_over):
    root = f"{root}/{take_over}"
    if take_over:
        OutputLock(root).acquire()

    def acquire(_: int) -> OutputLock | None:
        lock = OutputLock(root)
        try:
            lock.acquire(take_over)
        except LockedError:
            return None
        return lock

    def still_has(lock: OutputLock | None) -> bool:
        try:
            return lock is not None and lock.name_job("flink:h/a") is None
        except LockedError:
            return False

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert sum(map(still_has, list(pool.map(acquire, range(6))))) <= 1
    OutputLock(root).acquire(take_over=True)
    with pytest.raises(LockedError, match="take_over"):
        OutputLock(root).acquire()
    assert len(files.find(root)) == 1
