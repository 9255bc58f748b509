import errno
import hashlib
import os
import threading

import obstore.exceptions
import pytest
import requests

from beam_quad.artifacts import files
from beam_quad.artifacts.store import explained
from beam_quad.errors import BeamQuadError, UsageError


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


def test_a_scheme_that_fsspec_knows_is_a_store_like_any_other(tmp_path):
    root = f"memory://{tmp_path.name}"
    for name in ("a/[1].gz", "a/2", "b"):
        files.write_once(f"{root}/{name}", b"0123456789")
    files.write_once(f"{root}/b", b"other")
    files.copy(f"{root}/b", f"{tmp_path}/b")
    assert files.read_bytes(f"{tmp_path}/b") == files.read_bytes(f"{root}/b") == b"0123456789"
    found = files.find(root)
    assert [info.path[len(root) :] for info in found] == ["/a/2", "/a/[1].gz", "/b"]
    assert found == [files.stat(info.path) for info in found]
    assert files.find(f"{root}/*/[[]1].gz") == found[1:2]
    with files.open_read(f"{root}/a/[1].gz") as file:
        file.seek(-2, 2)
        assert file.read() == b"89"
    files.delete([f"{root}/b", f"{root}/none"])
    assert files.find(root) == found[:2]


@pytest.mark.parametrize(
    ("path", "words"), [("gcs://b/x", "write gs://"), ("abc://b/x", "no known scheme")]
)
def test_a_scheme_that_is_another_spelling_or_unknown_is_refused(path, words):
    with pytest.raises(UsageError, match=words):
        files.stat(path)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (obstore.exceptions.GenericError("error sending request"), BeamQuadError, "the network"),
        (requests.ConnectionError("refused"), BeamQuadError, "the network"),
        (obstore.exceptions.GenericError("NoSuchBucket"), UsageError, "there is no such bucket"),
        (obstore.exceptions.UnauthenticatedError("no"), UsageError, "AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_a_client_raises_is_one_line_with_a_remedy(error, kind, words):
    with pytest.raises(kind, match=words) as raised, explained("s3://bucket/a"):
        raise error
    assert str(raised.value).startswith("s3://bucket")
    assert "\n" not in str(raised.value)


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
