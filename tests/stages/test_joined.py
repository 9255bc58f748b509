"""However a corpus is cut into files and pieces, the same is selected of it."""

import collections
import gzip
import json
import pathlib
import re

import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts import traffic
from beam_quad.corpus import joining, jsonl, splits
from pipelines import inputs
from tests.pipelines.world import (
    World,
    output_bytes,
    selected,
    selected_ids,
    selected_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
FLAGS = {"acceptance": "shortlist", "layers": "all+head"}


@pytest.fixture
def few_are_many(monkeypatch):
    monkeypatch.setattr(joining, "MANY_SPLITS", 6)


def _lines(world: World) -> list[bytes]:
    """The rows of the world, bad ones too, with an id each."""
    found = []
    for name in ("part-2.jsonl", "part-3.jsonl"):
        for number, line in enumerate(
            (pathlib.Path(world.corpus) / name).read_bytes().splitlines()
        ):
            own = json.dumps({"id": f"{name}-{number}"}).encode()
            is_object = line.startswith(b"{") and line.endswith(b"}")
            found.append(own[:-1] + b", " + line[1:] if is_object else line)
    return found


def _write(
    folder: pathlib.Path, lines: list[bytes], num_files: int, first: int = 0
) -> pathlib.Path:
    """Writes runs of lines as files of two sources, half of them compressed."""
    for i in range(num_files):
        source = folder / f"source-{2 * i // num_files}"
        source.mkdir(parents=True, exist_ok=True)
        own = lines[len(lines) * i // num_files : len(lines) * (i + 1) // num_files]
        data = b"".join(line + b"\n" for line in own)
        path = source / f"f{i:03}.jsonl"
        if i % 2:
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            path.write_bytes(data)
    return folder


def _rejected(output: pathlib.Path) -> list[dict]:
    paths = sorted(output.glob("rejected/*"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def _num_pieces(output: pathlib.Path) -> int:
    return len(list((output / "_run" / "rows").rglob("*.parquet")))


def test_large_joined_and_cut_files_give_the_same_selection(
    world, tmp_path, few_are_many, monkeypatch
):
    # Whole runs of rows that are embedded together would be longer than the corpus.
    monkeypatch.setattr(jsonl, "CUT_ROWS", 64)
    lines = _lines(world)
    one = tmp_path / "one" / "all.jsonl.gz"
    one.parent.mkdir()
    one.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0))
    folders = {
        "large": _write(tmp_path / "large", lines, 2),
        "joined": _write(tmp_path / "small", lines, 30),
        "cut": one.parent,
    }
    split_bytes = {"cut": one.stat().st_size // 5}
    found, pieces = {}, {}
    for name, folder in folders.items():
        size = {"split_bytes": split_bytes.get(name, splits.SPLIT_BYTES)}
        monkeypatch.setattr(
            inputs, "plan_input", lambda *p, size=size, **o: splits.plan_input(*p, **(o | size))
        )
        output = tmp_path / f"{name}-out"
        manifest = world.run(output, input=str(folder), id_column="id", **FLAGS)
        found[name] = {row["id"]: row["text"] for row in selected_rows(output)}
        pieces[name] = _num_pieces(output)
        assert manifest["counts"]["rejected"] == 12
    assert pieces["large"] == 2
    assert pieces["joined"] in range(6, 13)
    assert pieces["cut"] in range(4, 7)
    assert len(found["large"]) > 50
    assert found["large"] == found["joined"] == found["cut"]


def test_joining_changes_no_row_of_the_output(world, tmp_path, monkeypatch):
    folder = _write(tmp_path / "small", _lines(world), 30)
    outputs = {}
    for most in (6, 1000):
        monkeypatch.setattr(joining, "MANY_SPLITS", most)
        output = tmp_path / f"{most}"
        manifest = world.run(output, input=str(folder), **FLAGS)
        page = (output / "report.html").read_text()
        sources = re.findall(r'<td class="text">source-.*?</tr>', page, re.DOTALL)
        assert len(sources) == 2
        outputs[most] = (
            selected_rows(output),
            _rejected(output),
            manifest["counts"],
            manifest["tokens"],
            sources,
        )
    assert _num_pieces(tmp_path / "6") < 13 < 30 == _num_pieces(tmp_path / "1000")
    assert outputs[6] == outputs[1000]
    assert len(outputs[6][1]) == 12


def test_a_refresh_reads_new_small_files_alone_and_copies_the_parts(world, tmp_path, few_are_many):
    lines = _lines(world)
    folder = _write(tmp_path / "small", lines[:300], 30)
    world.run(tmp_path / "first", input=str(folder), **FLAGS)
    # Between, before and after the old ones by their names.
    for i, own in enumerate(lines[300 + 10 * k : 310 + 10 * k] for k in range(14)):
        (folder / "source-0" / f"f{2 * i:03}-new.jsonl").write_bytes(b"\n".join(own))
    counted: collections.Counter = collections.Counter()

    def count(kind: str, amount: int) -> None:
        counted[kind] += amount

    traffic.report_to(count)
    try:
        base = {"base": tmp_path / "first", "budget_tokens": "+400"}
        found = world.run(tmp_path / "second", input=str(folder), **(FLAGS | base))
    finally:
        traffic._counters.remove(count)
    refresh = found["refresh"]
    assert counted["documents_embedded"] <= 140
    assert refresh["splits"]["kept"] == _num_pieces(tmp_path / "first") - refresh["splits"]["new"]
    assert 1 <= refresh["splits"]["new"] < 14
    assert refresh["splits"]["gone"] == refresh["splits"]["changed"] == 0
    before, after = output_bytes(tmp_path / "first"), output_bytes(tmp_path / "second")
    (part,) = (data for name, data in before.items() if name.startswith("selected"))
    assert part in after.values()
    assert set(selected_ids(tmp_path / "first")) < set(selected_ids(tmp_path / "second"))
    assert refresh["added"]["documents"] > 0


def test_rows_of_a_joined_file_that_is_gone_leave(world, tmp_path, few_are_many):
    folder = _write(tmp_path / "small", _lines(world), 30)
    flags = {"policy": "ngram", "acceptance": None}
    world.run(tmp_path / "first", input=str(folder), **flags)
    gone = max(
        collections.Counter(
            row["example_id"].split("#")[0] for row in selected(tmp_path / "first")
        ).items(),
        key=lambda item: item[1],
    )[0]
    (folder / gone).unlink()
    found = world.run(tmp_path / "second", input=str(folder), base=tmp_path / "first", **flags)
    ids = set(selected_ids(tmp_path / "second"))
    assert not any(own.startswith(f"{gone}#") for own in ids)
    assert found["refresh"]["splits"]["changed"] == 1
    assert found["tokens"]["selected"] >= 3000
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl*")}
    assert {own.split("#")[0] for own in ids} <= there


def test_a_bad_file_takes_no_other_with_it_that_it_is_joined_with(world, tmp_path, monkeypatch):
    folder = _write(tmp_path / "small", _lines(world), 30)
    # Its first rows can be read, and not its end.
    bad = folder / "source-0" / "f005.jsonl.gz"
    bad.write_bytes(bad.read_bytes()[:-12])
    outputs = {}
    for most in (6, 1000):
        monkeypatch.setattr(joining, "MANY_SPLITS", most)
        output = tmp_path / f"{most}"
        # All text is read again to be scored, too.
        flags = {"policy": "influence_top_k", "acceptance": None, "on_bad_file": "reject"}
        manifest = world.run(output, input=str(folder), **flags)
        assert manifest["counts"]["bad_files"] == 1
        outputs[most] = selected_rows(output), _rejected(output)
    assert [row["shard"] for row in outputs[6][1] if row["reason"] == "bad_file"] == [
        "source-0/f005.jsonl.gz"
    ]
    assert _num_pieces(tmp_path / "6") < 13
    assert outputs[6] == outputs[1000]


def test_a_part_of_a_file_without_a_usable_row_is_no_file_without_one(world, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "CUT_ROWS", 64)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "half.jsonl"
    path.write_bytes(b"no row\n" * 128 + b"".join(line + b"\n" for line in _lines(world)))
    (tmp_path / "in" / "none.jsonl").write_bytes(b'{"text": ""}\n' * 300)
    monkeypatch.setattr(
        inputs, "plan_input", lambda *p, **o: splits.plan_input(*p, **(o | {"split_bytes": 2000}))
    )
    flags = {"policy": "random", "acceptance": None}
    manifest = world.run(tmp_path / "out", input=str(tmp_path / "in"), **flags)
    assert _num_pieces(tmp_path / "out") > 6
    assert manifest["columns"]["files_without_usable_rows"] == ["none.jsonl"]
