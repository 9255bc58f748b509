"""What an input's patterns find, what they refuse, and what they pass over."""

import os
import socket
import threading

import pytest

from beam_quad.artifacts import files
from beam_quad.corpus import finding
from beam_quad.errors import UsageError

LINE = b'{"text": "a"}'


@pytest.fixture
def find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def find(*patterns, is_query=False):
        found = finding.find_files(patterns, "--input", is_query)
        return [os.path.relpath(info.path, tmp_path) for info in found.infos]

    return find


@pytest.fixture
def write(tmp_path):
    def write(*names):
        for name in names:
            path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(LINE)

    return write


@pytest.mark.parametrize("pattern", ["in", "in/*/*.jsonl", "in/**", "in/**/*.jsonl", "in/l*/*"])
def test_a_linked_folder_is_searched(find, write, pattern):
    write("big/b.jsonl")
    os.makedirs("in")
    os.symlink(os.path.abspath("big"), "in/linked")
    assert find(pattern) == ["in/linked/b.jsonl"]


def test_a_linked_file_is_found(find, write):
    write("big/b.jsonl")
    os.makedirs("in")
    os.symlink("../big/b.jsonl", "in/a.jsonl")
    assert find("in") == find("in/*") == find("in/a.jsonl") == ["in/a.jsonl"]


def test_links_that_lead_round_end(find, write):
    write("in/x/a.jsonl", "in/y/b.jsonl")
    os.symlink("..", "in/x/up")
    os.symlink("../y", "in/x/y")
    os.symlink("../x", "in/y/x")
    assert find("in") == find("in/**") == ["in/x/a.jsonl", "in/y/b.jsonl"]


def test_a_file_found_twice_by_links_is_read_once_by_its_own_name_and_logged(find, write, caplog):
    write("in/z/a.jsonl")
    os.symlink("z", "in/link")
    os.symlink("z/a.jsonl", "in/0.jsonl")
    assert find("in", "in/link") == ["in/z/a.jsonl"]
    assert "2 names by links" in caplog.text
    assert find("in/link,./in/z/../link/a.jsonl", os.path.abspath("in/link")) == ["in/link/a.jsonl"]


def test_files_whose_own_name_is_no_shard_are_found_by_their_links(find, write):
    write("in/blobs/0a1b")
    os.makedirs("in/snapshots/1")
    os.symlink("../../blobs/0a1b", "in/snapshots/1/a.jsonl")
    assert find("in") == ["in/snapshots/1/a.jsonl"]


@pytest.mark.parametrize("pattern", ["in", "in/*.jsonl", "in/**", "in/b.jsonl"])
def test_a_broken_link_is_named(find, write, pattern):
    write("in/a.jsonl")
    os.symlink("/nowhere/b.jsonl", "in/b.jsonl")
    with pytest.raises(UsageError, match=r"--input.*in/b\.jsonl: is a link to /nowhere/b\.jsonl"):
        find(pattern)


def test_a_broken_link_that_no_pattern_asks_for_is_no_matter(find, write):
    write("in/a.jsonl", "in/x/b.jsonl")
    os.symlink("nowhere", "in/.#a.jsonl")
    os.symlink("nowhere", "in/x/c.jsonl")
    assert find("in/*.jsonl") == ["in/a.jsonl"]


@pytest.mark.parametrize("pattern", ["in", "in/*/*.jsonl"])
def test_a_folder_that_may_not_be_listed_is_named(find, write, monkeypatch, pattern):
    write("in/a.jsonl", "in/x/b.jsonl")
    listdir = os.listdir

    def deny(folder):
        if folder.endswith("/x"):
            raise PermissionError(13, "Permission denied", folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", deny)
    with pytest.raises(UsageError, match=r"--input=in.*/in/x: may not be listed"):
        find(pattern)
    assert find("in/*.jsonl") == ["in/a.jsonl"]


@pytest.mark.parametrize("pattern", ["in", "in/**", "in/*/*.jsonl", "in/**/*.jsonl"])
def test_the_folder_of_a_disk_that_none_but_root_may_list_is_passed_over(
    find, write, monkeypatch, pattern
):
    write("in/x/a.jsonl", "in/lost+found/b.jsonl")
    listdir = os.listdir

    def deny(folder):
        if folder.endswith("lost+found"):
            raise PermissionError(13, "Permission denied", folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", deny)
    assert find(pattern) == ["in/x/a.jsonl"]
    assert [os.path.basename(info.path) for info in files.find("in")] == ["a.jsonl"]


@pytest.mark.parametrize("pattern", ["in/lost+found", "in/lost+found/*"])
def test_the_folder_of_a_disk_is_searched_where_it_is_named(find, write, pattern):
    write("in/lost+found/b.jsonl")
    assert find(pattern) == ["in/lost+found/b.jsonl"]


def test_a_file_that_may_not_be_read_is_named(find, write, monkeypatch):
    write("in/a.jsonl")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"--input=in: .*/in/a\.jsonl: may not be read"):
        find("in")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_named(find, write, kind):
    write("in/a.jsonl")
    if kind == "pipe":
        os.mkfifo("in/b.jsonl")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("in/b.jsonl")
    with pytest.raises(UsageError, match=r"in/b\.jsonl: is no file but a pipe, socket or device"):
        find("in")


def test_braces_and_commas_are_alternatives_unless_a_name_holds_them(find, write):
    write("in/CC-1/a.jsonl", "in/CC-2/b.jsonl", "in/CC-3/c.jsonl", "in/a,b.jsonl", "in/{x,y}.jsonl")
    assert find("in/CC-{1,2}/*.jsonl,in/a,b.jsonl") == [
        "in/CC-1/a.jsonl", "in/CC-2/b.jsonl", "in/a,b.jsonl",
    ]  # fmt: skip
    assert find("in/CC-{2..3}/?.jsonl") == ["in/CC-2/b.jsonl", "in/CC-3/c.jsonl"]
    assert find("in/{x,y}.jsonl") == ["in/{x,y}.jsonl"]
    assert find("in/a[,]*") == ["in/a,b.jsonl"]


def test_alternatives_are_looked_for_at_once(find, write, monkeypatch):
    write("in/0.jsonl", "in/1.jsonl", "in/2.jsonl")
    together, stat = threading.Barrier(3), files.stat

    def wait(path):
        together.wait(10)
        return stat(path)

    monkeypatch.setattr(files, "stat", wait)
    assert find("in/{0..2}.jsonl") == ["in/0.jsonl", "in/1.jsonl", "in/2.jsonl"]


def test_an_alternative_that_matches_nothing_is_named(find, write):
    write("in/CC-1/a.jsonl")
    with pytest.raises(UsageError, match=r"--input=in/CC-\{1,2\}/\*: in/CC-2/\* matches no file"):
        find("in/CC-{1,2}/*")


def test_files_of_folders_named_like_files_are_found_by_their_glob(find, write):
    write("in/a.parquet/part-0.parquet", "in/a.parquet/_SUCCESS", "in/a.parquet/part-0.crc")
    write("in/x/b.parquet")
    assert find("in/*.parquet") == ["in/a.parquet/part-0.parquet"]


def test_a_glob_that_matches_only_folders_says_how_to_write_it(find, write):
    write("in/x/a.jsonl")
    with pytest.raises(
        UsageError, match=r"in/\* matches no file; it matches folders: write in/\*/\*\*"
    ):
        find("in/*")


@pytest.mark.parametrize("pattern", ["in", "in/*", "in/**"])
def test_what_is_no_shard_is_passed_over_and_logged(find, write, caplog, pattern):
    write("in/a.jsonl", "in/README.md", "in/LICENSE", "in/notes.txt", "in/.gitattributes")
    assert find(pattern) == ["in/a.jsonl"]
    assert "--input: passed over 3 files of unknown extensions, such as" in caplog.text
    assert "README.md" in caplog.text


@pytest.mark.parametrize("pattern", ["in/README.md", "in/*.md", "in/*.{jsonl,md}", "other"])
def test_what_is_asked_for_by_name_and_is_no_shard_is_refused(find, write, pattern):
    write("in/a.jsonl", "in/README.md", "other/README.md")
    with pytest.raises(UsageError, match=r"--input.*README\.md: unknown extension"):
        find(pattern)


def test_a_text_is_a_query_and_no_corpus(find, write):
    write("in/a.jsonl", "in/b.txt")
    assert find("in", is_query=True) == ["in/a.jsonl", "in/b.txt"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9.jsonl", "a b.jsonl", "a%20#?.jsonl", "[x].jsonl", "é.jsonl", "a\nb.JSONL"]
)
def test_odd_names_are_found_and_can_be_read(find, write, tmp_path, name):
    write(os.path.join(b"in", os.fsencode(name)))
    expected = os.path.join("in", os.fsdecode(name))
    assert (
        find("in")
        == find("in/*.[jJ]*")
        == find(
            os.fsdecode(os.path.join("in", name if isinstance(name, str) else os.fsdecode(name)))
        )
        == [expected]
    )
    assert files.read_bytes(f"{tmp_path}/{expected}") == LINE


@pytest.mark.parametrize(
    ("pattern", "folder", "is_found"),
    [
        ("in", "in/out", True),
        ("in", "in", True),
        ("in", "in/_out", False),
        ("in", "in/x/.out", False),
        ("in/**", "in/out", True),
        ("in/*.json", "in", True),
        ("in/*.json", "in/out", False),
        ("in/*/*", "in/out", True),
        ("in/*/*/*.parquet", "in/out", True),
        ("in/*/*.parquet", "in/out", False),
        ("link", "in/out", True),
        ("in", "link/out", True),
        ("elsewhere,in", "in/out", True),
        ("{elsewhere,in}", "in/out", True),
        ("in", "inside", False),
        ("in/out.jsonl", "in/out", False),
        ("gs://b/in", "gs://b/in/out", True),
        ("gs://b/in/*.parquet", "gs://b/in/out", False),
        ("gs://b/in", "gs://b/in-out", False),
        ("s3://b", "s3://b/out", True),
        ("in", "gs://b/in/out", False),
    ],
)
def test_a_pattern_that_would_find_what_is_written_is_told(find, write, pattern, folder, is_found):
    write("in/a.jsonl")
    os.symlink("in", "link")
    names = ("selected/part-0.parquet", "manifest.json")
    assert (finding.finder_of([pattern], folder, names) is not None) == is_found
