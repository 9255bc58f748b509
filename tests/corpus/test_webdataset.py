"""Tar archives of WebDataset: samples are rows."""

import gzip
import io
import json
import tarfile

import pytest

from beam_quad.corpus import jsonl, output, rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.errors import BadFileError, UsageError
from beam_quad.records import Reason


@pytest.fixture
def write_tar(tmp_path):
    """Writes an archive of members, by name."""

    def write(members, name="in/a.tar", form=tarfile.PAX_FORMAT):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=form) as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        raw = data.getvalue()
        path.write_bytes(gzip.compress(raw) if path.suffix in (".gz", ".tgz") else raw)
        return path

    return write


def read(plan, **columns):
    return [
        batch for split in plan.splits for batch in rows.read_rows(split, Columns(**columns), 64)
    ]


def carried(plan, keep):
    (split,) = plan.splits
    found = [batch for _, batch in rows.read_selected(split, plan.schema, keep)]
    return [row for batch in found for row in batch.to_pylist()]


LONG = "folder/" + "n" * 200


@pytest.mark.parametrize("name", ["in/a.tar", "in/a.tar.gz", "in/a.tgz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_samples_are_rows_with_their_names(write_tar, name, form):
    members = [
        ("x/1.json", b'{"url": "u",\n "text": "not this"}'), ("x/1.jpg", b"\xff\xd8"), ("x/1.txt", "é".encode()),
        ("x/2.TXT", b"two\nlines"), ("._x", b"of a Mac"),
        (f"{LONG}.json", b'{"text": "three", "__key__": "own"}'),
    ]  # fmt: skip
    plan = splits.plan_input([str(write_tar(members, name, form))])
    assert [text for batch in read(plan) for text in batch.texts] == ["é", "two\nlines", "three"]
    assert carried(plan, [0, 1, 2]) == [
        {"url": "u", "__key__": "x/1", "text": "é"},
        {"url": None, "__key__": "x/2", "text": "two\nlines"},
        {"url": None, "__key__": LONG, "text": "three"},
    ]
    assert read(plan, id="__key__")[0].ids == ["x/1", "x/2", LONG]


def test_samples_that_cannot_be_used_are_rejected_alone(write_tar):
    members = [
        ("1.txt", b"good"), ("2.jpg", b"x"), ("3.txt", b"bad \xff"), ("4.json", b"[1]"),
        ("5.json", b'{"text": '), ("6.json", b""), ("7.json", b'{"text": "good too"}'),
        ("8.json", b'{"__key__": 1, "text": '),
    ]  # fmt: skip
    (batch,) = read(splits.plan_input([str(write_tar(members))]))
    assert batch.texts == ["good", *[None] * 5, "good too", None]
    malformed = Reason.MALFORMED_JSON
    assert batch.reasons == [
        None, Reason.NULL_TEXT, Reason.INVALID_UTF8, malformed, malformed, malformed, None, malformed,
    ]  # fmt: skip


def test_a_large_archive_is_cut_into_runs_of_samples(write_tar, monkeypatch):
    monkeypatch.setattr("beam_quad.corpus.jsonl.CUT_ROWS", 100)
    path = write_tar([(f"{i:04d}.txt", f"text {i}".encode()) for i in range(1000)])
    plan = splits.plan_input([str(path)], split_bytes=path.stat().st_size // 4)
    assert len(plan.splits) > 2
    texts = [text for batch in read(plan) for text in batch.texts]
    assert texts == [f"text {i}" for i in range(1000)]


def test_chosen_samples_are_written_as_lines(write_tar, tmp_path):
    path = write_tar([("1.txt", b"a"), ("2.txt", b"b"), ("2.json", b'{"n":  1.50}')])
    plan = splits.plan_input([str(path)])
    why = output.provenance(["x"], tokens=[1])
    part = tmp_path / "p.jsonl"
    output.write_selected(str(part), [output.Selected(plan.splits[0], [1], why)], plan.schema)
    (line,) = part.read_text().splitlines()
    assert line.startswith('{"n":  1.50,"__key__":"2","text":"b","beam_quad":')
    assert json.loads(line)["beam_quad"]["example_id"] == "x"


@pytest.mark.parametrize("num_bytes", [600, 1024, 1536, 1600, 2048])
def test_a_truncated_archive_is_named(write_tar, num_bytes):
    path = write_tar([("1.txt", b"a"), ("2.txt", b"b" * 300)])
    assert len(list(jsonl.lines_of(str(path)))) == 2
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(BadFileError, match=r"a\.tar.*truncated"):
        list(jsonl.lines_of(str(path)))


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"garbage" * 999, "no tar archive"), (b"PAR1" * 200, "is no tar archive: .* Parquet")],
)
def test_what_is_no_archive_is_named(tmp_path, content, match):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UsageError, match=match):
        splits.plan_input([str(tmp_path)])
