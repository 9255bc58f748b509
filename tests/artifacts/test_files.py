import errno
import hashlib
import os
import threading

import pytest

from beam_quad.artifacts import files


def names(root) -> list[str]:
    return sorted(p.name for p in root.rglob("*"))


def test_written_file_is_whole_and_hashed(tmp_path):
    path = str(tmp_path / "x" / "a.bin")
    with files.writing(path) as file:
        file.write(b"ab")
        assert not files.exists(path)
        file.write(memoryview(b"cd"))
    assert files.read_bytes(path) == b"abcd"
    assert file.sha256 == hashlib.sha256(b"abcd").hexdigest()
    assert file.size_bytes == 4
    assert names(tmp_path) == ["a.bin", "x"]


def test_an_exception_leaves_nothing(tmp_path):
    def fail():
        with files.writing(str(tmp_path / "a.bin")) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_a_file_being_written_is_not_listed(tmp_path):
    with files.writing(str(tmp_path / "a.bin")) as file:
        file.write(b"half")
        assert files.find(str(tmp_path)) == []
        assert files.find(f"{tmp_path}/*") == []
    assert [info.path for info in files.find(str(tmp_path))] == [str(tmp_path / "a.bin")]


def test_a_finished_file_is_not_replaced_unless_asked(tmp_path):
    path = str(tmp_path / "a.bin")
    files.write_once(path, b"one")
    files.write_once(path, b"two")
    assert files.read_bytes(path) == b"one"
    files.write(path, b"three")
    assert files.read_bytes(path) == b"three"
    assert names(tmp_path) == ["a.bin"]


def test_first_of_two_racing_writers_stays(tmp_path):
    path = str(tmp_path / "a.bin")
    with files.writing(path) as slow:
        slow.write(b"slow")
        files.write_once(path, b"fast")
    assert files.read_bytes(path) == b"fast"


def test_racing_threads_leave_one_whole_file(tmp_path):
    path = str(tmp_path / "a.bin")
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_once, args=(path, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.read_bytes(path) in contents
    assert names(tmp_path) == ["a.bin"]


def test_without_hard_links_a_finished_file_still_stays(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    path = str(tmp_path / "a.bin")
    files.write_once(path, b"one")
    files.write_once(path, b"two")
    assert files.read_bytes(path) == b"one"
    assert names(tmp_path) == ["a.bin"]


def test_listing_is_recursive_sorted_and_versioned(tmp_path):
    for name in ("b/c/2", "a/1", "b/1"):
        files.write_once(f"{tmp_path}/{name}", b"x")
    found = files.find(str(tmp_path))
    assert [info.path[len(str(tmp_path)) :] for info in found] == ["/a/1", "/b/1", "/b/c/2"]
    assert found[0] == files.stat(found[0].path)
    files.write(found[0].path, b"xy")
    assert files.stat(found[0].path).version != found[0].version
    assert files.stat(f"{tmp_path}/none") is None
    assert files.find(f"{tmp_path}/none") == []


def test_names_with_brackets_are_literal(tmp_path):
    for name in ("a[1].bin", "a1.bin"):
        files.write_once(f"{tmp_path}/d[0]/{name}", b"x")
    assert len(files.find(f"{tmp_path}/d[0]")) == 2
    assert len(files.find(f"{tmp_path}/d[0]/a[1].bin")) == 1
    files.delete([f"{tmp_path}/d[0]/a[1].bin", f"{tmp_path}/d[0]/none"])
    assert [info.path for info in files.find(f"{tmp_path}/d[0]")] == [f"{tmp_path}/d[0]/a1.bin"]


def test_compressed_names_are_not_decompressed(tmp_path):
    path = f"{tmp_path}/a.gz"
    files.write_once(path, b"plain")
    assert files.read_bytes(path) == b"plain"


def test_leftovers_of_killed_writers_can_be_deleted(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".tmp-0-a.bin").write_bytes(b"half")
    files.write_once(f"{tmp_path}/x/a.bin", b"whole")
    files.delete_temporaries(str(tmp_path), older_than_s=-60)
    assert names(tmp_path) == ["a.bin", "x"]


@pytest.mark.parametrize("bucket", ["gs://bucket", "s3://bucket/"])
def test_a_bucket_is_no_file(bucket):
    assert not files.exists(bucket)
    assert files.stat(bucket) is None


def test_a_full_disk_names_the_file_that_was_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.HashedFile, "write", refuse)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/out/a'$"):
        files.write_once(f"{tmp_path}/out/a", b"data")
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_cannot_be_made_is_named_by_its_own_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"'{tmp_path}/file") as raised:
        files.write_once(f"{tmp_path}/file/a", b"data")
    assert ".tmp-" not in str(raised.value)


def test_an_error_of_what_is_read_keeps_its_own_path(tmp_path):
    with pytest.raises(PermissionError, match="'/input'"), files.writing(f"{tmp_path}/a"):
        raise PermissionError(errno.EACCES, "no", "/input")
