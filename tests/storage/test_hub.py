"""A data set on the hub, read as a corpus and written to with a token."""

from collections.abc import Iterator

import pytest
from huggingface_hub import HfFileSystem

from beam_quad.artifacts import files
from beam_quad.errors import UsageError
from tests import hub as models
from tests.storage import hub

ROOT = f"hf://{hub.REPOSITORY}"


@pytest.fixture
def held(tmp_path, monkeypatch) -> Iterator[dict[str, bytes]]:
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    with hub.serving() as (address, held), models.connected(address, tmp_path):
        HfFileSystem.clear_instance_cache()
        yield held
    HfFileSystem.clear_instance_cache()


def test_a_data_set_is_listed_and_read_from_any_place(held):
    held.update({"a/1.jsonl": b"0123456789", "a/2.jsonl": b"x", "b.jsonl": b"0123456789"})
    found = files.find(f"{ROOT}/**/*.jsonl")
    assert [info.path for info in found] == [f"{ROOT}/{name}" for name in sorted(held)]
    assert found == [files.stat(info.path) for info in found]
    assert found[0].version == found[2].version != found[1].version
    assert files.find(f"{ROOT}/a") == found[:2]
    assert files.find(f"{ROOT}/none") == []
    with files.open_read(found[0].path) as file:
        file.seek(-4, 2)
        assert file.read(2) == b"67"


def test_a_file_is_written_with_a_token_once_and_deleted(held):
    path = f"{ROOT}/out/a"
    assert files.stat(path) is None
    files.write_once(path, b"one")
    files.write_once(path, b"two")
    assert held == {"out/a": b"one"}
    files.write(path, b"two")
    assert files.read_bytes(path) == b"two"
    # By another process, behind this one's back.
    held["out/b"] = b"three"
    assert files.stat(f"{ROOT}/out/b").size_bytes == 5
    files.delete([path, f"{ROOT}/out/none"])
    assert [info.path for info in files.find(ROOT)] == [f"{ROOT}/out/b"]


def test_without_a_right_to_it_a_data_set_is_denied_in_one_line(held, monkeypatch):
    with pytest.raises(UsageError, match=r"access denied .*HF_TOKEN"):
        files.find("hf://datasets/me/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    HfFileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match=r"access denied .*HF_TOKEN"):
        files.write_once(f"{ROOT}/a", b"one")
