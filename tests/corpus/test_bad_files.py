"""Every kind of bad file is refused when planning, or named when read."""

import bz2
import gzip
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from beam_quad.artifacts import files
from beam_quad.corpus import rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.errors import BadFileError, UsageError

LINE = b'{"text": "a"}\n'


def parquet_bytes(columns: dict, **options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


GOOD_PARQUET = parquet_bytes({"text": ["a"]})

# Name and content of a file, and what the refusal says.
REFUSED = {
    "unknown extension": ("a.csv", b"text\na\n", "unknown extension"),
    "no extension": ("a", LINE, "unknown extension"),
    "text in a corpus": ("a.txt", b"a", "unknown extension"),
    "empty Parquet": ("a.parquet", b"", "not a readable Parquet"),
    "Parquet of garbage": ("a.parquet", b"garbage" * 99, "not a readable Parquet"),
    "Parquet without footer": ("a.parquet", GOOD_PARQUET[:-9], "not a readable Parquet"),
    "Parquet with broken footer": (
        "a.parquet",
        GOOD_PARQUET[:-40] + b"\xff" * 32 + GOOD_PARQUET[-8:],
        "not a readable Parquet",
    ),
    "JSON called Parquet": ("a.parquet", LINE * 20, "not a readable Parquet"),
    "Parquet called JSON": ("a.jsonl", GOOD_PARQUET, "is Parquet"),
    "gzip called plain": ("a.jsonl", gzip.compress(LINE), "is gz by its first bytes"),
    "plain called gzip": ("a.jsonl.gz", LINE, "not compressed by its first bytes"),
    "zstd called gzip": ("a.json.gz", pa.compress(LINE, "zstd", asbytes=True), "is zst"),
    "gzip called zstd": ("a.jsonl.zst", gzip.compress(LINE), "is gz"),
    "empty called gzip": ("a.jsonl.gz", b"", "is empty"),
    "garbage after the gzip magic": (
        "a.jsonl.gz",
        b"\x1f\x8b" + b"\xff" * 99,
        "gz data cannot be decompressed",
    ),
    "UTF-16": ("a.jsonl", LINE.decode().encode("utf-16"), "UTF-16"),
    "JSON array": ("a.json", b'[\n{"text": "a"},\n{"text": "b"}\n]\n', "JSON array"),
    "no text column in JSON": ("a.jsonl", b'{"body": "a", "url": "b"}\n', "one of: body, url"),
    "no text column in Parquet": ("a.parquet", parquet_bytes({"body": ["a"]}), "one of: body"),
    "text of integers": ("a.parquet", parquet_bytes({"text": [1]}), "'text' is int64, not string"),
    "text of objects": (
        "a.jsonl",
        b'{"text": {"a": "b"}}\n',
        "'text' is struct<>, not string; pass another --text_column",
    ),
    "text of lists": ("a.parquet", parquet_bytes({"text": [["a"]]}), "not string"),
    "a pointer of git-lfs": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n",
        "git lfs pull",
    ),
    "a pointer called gzip": ("a.jsonl.gz", b"version https://git-lfs.github.com/", "git lfs pull"),
    "a pointer called Parquet": ("a.parquet", b"version https://git-lfs.github.com/", "git lfs"),
    "a page": ("a.jsonl", b"\n<!DOCTYPE html>\n<html>404</html>\n", "HTML or XML"),
    "a page called Parquet": ("a.parquet", b"<html>404</html>", "HTML or XML"),
    "a page in gzip": ("a.jsonl.gz", gzip.compress(b"<html>\n</html>\n"), "HTML or XML"),
    "a zip archive": ("a.json", b"PK\x03\x04" + b"x" * 99, "a zip archive"),
    "an object over many lines": ("a.json", b'{\n "text": "a"\n}\n', "one object over many lines"),
    "an object over two lines": ("a.json", b'{"text":\n"a"}', "one object over many lines"),
    "old line ends": ("a.jsonl", LINE.replace(b"\n", b"\r") * 3, r"tr '.r' '.n'"),
    "no line ends": ("a.jsonl", LINE.replace(b"\n", b" ") * 3, "without line ends"),
    "Python's dicts": ("a.jsonl", b"{'text': 'a'}\n", "json.dumps"),
    "Latin-1": ("a.jsonl", b'{"text": "caf\xe9"}\n' * 3, "iconv -t UTF-8"),
    "only broken rows": ("a.jsonl", b"oops\n", "none of its lines is a JSON object"),
}


@pytest.mark.parametrize(("name", "content", "match"), REFUSED.values(), ids=list(REFUSED))
def test_bad_file_is_refused_when_planning(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=match) as refusal:
        splits.plan_input([str(tmp_path / name)])
    assert "\n" not in str(refusal.value)


def test_files_of_which_nothing_can_be_used_are_left_out_when_asked(tmp_path, caplog):
    (tmp_path / "good.jsonl").write_bytes(LINE)
    (tmp_path / "good.parquet").write_bytes(GOOD_PARQUET)
    bad = {
        "1.parquet": b"x", "2.parquet": GOOD_PARQUET[:-9], "3.jsonl.gz": b"x", "4.jsonl": b"<html>\n",
        "5.json": b'{\n "text": "a"\n}\n', "6.jsonl": b'{"error": "none"}\n',
        "7.parquet": parquet_bytes({"body": ["a"]}),
    }  # fmt: skip
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    plan = splits.plan_input([str(tmp_path)], reject_bad_files=True)
    assert sorted(plan.bad_files) == sorted(bad)
    assert [split.shard for split in plan.splits] == sorted([*bad, "good.jsonl", "good.parquet"])
    assert plan.num_rows == 2
    assert "7 of 9 files are left out; the first is" in caplog.text


MANY = 1001

# More rows than planning looks at, of which none can be used.
LATE_ROWS = {
    "no JSON": [b"oops\n"] * MANY,
    "half an object": [b'{"text": "a"\n'] * MANY,
    "arrays": [b"[1]\n"] * MANY,
    "half an array": [b'[{"text"\n'] + [LINE] * 3,
    "Latin-1": [b'{"text": "caf\xe9"}\n'] * MANY,
    "null and a number": [b'{"text": 1}\n'] + [b'{"text": null}\n'] * MANY,
}


@pytest.mark.parametrize("bad", LATE_ROWS.values(), ids=list(LATE_ROWS))
@pytest.mark.parametrize("reject", [True, False])
def test_bad_first_rows_do_not_speak_for_those_that_follow(tmp_path, bad, reject):
    (tmp_path / "a.jsonl").write_bytes(b"".join(bad) + LINE * 2000)
    plan = splits.plan_input([str(tmp_path)], reject_bad_files=reject)
    assert not plan.bad_files
    (split,) = plan.splits
    found = [text for b in rows.read_rows(split, Columns(), 5000) for text in b.texts]
    num_good = 2000 + bad.count(LINE)
    assert found == [None] * (len(found) - num_good) + ["a"] * num_good


@pytest.mark.parametrize("reject", [True, False])
@pytest.mark.parametrize("late", [b'{"body": "b"}\n', b'{"text": 5}\n'])
def test_first_rows_without_a_usable_column_are_refused_only_if_no_file_has_it(
    tmp_path, reject, late
):
    (tmp_path / "a.jsonl").write_bytes(late * MANY + LINE * 2000)
    with pytest.raises(UsageError, match=r"^--input=.*a\.jsonl.*; pass (another )?--text_column"):
        splits.plan_input([str(tmp_path)], reject_bad_files=reject)
    (tmp_path / "b.jsonl").write_bytes(LINE)
    assert not splits.plan_input([str(tmp_path)], reject_bad_files=reject).bad_files


def test_another_kind_of_text_is_told_by_its_first_lines_however_long_it_is(tmp_path):
    for content, match in [
        (b"<html>\n" * 9999, "HTML"),
        (b'{\n"text": "a"\n' * 9999, "one object over many lines"),
        (b"[\n" + b'{"text": "a"},\n' * 9999, "JSON array"),
        (b"{'text': 'a'}\n" * 9999, "Python's dicts"),
    ]:
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(UsageError, match=match):
            splits.plan_input([str(tmp_path)])


def test_an_input_of_bad_files_alone_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(
        UsageError, match=r"--input: no file can be used; the first is .*a\.parquet"
    ):
        splits.plan_input([str(tmp_path)], reject_bad_files=True)


def test_a_file_that_may_not_be_read_is_not_left_out(write_lines, monkeypatch):
    write_lines(LINE, name="in/b.jsonl")
    path = write_lines(LINE)
    read = files.open_read

    def deny(wanted, *rest):
        if wanted == str(path):
            raise PermissionError(13, "Permission denied", wanted)
        return read(wanted, *rest)

    monkeypatch.setattr(files, "open_read", deny)
    with pytest.raises(UsageError, match=r"a\.jsonl: cannot be read: .*Permission denied"):
        splits.plan_input([str(path.parent)], reject_bad_files=True)


def test_a_bad_query_file_names_its_flag_and_no_flag_of_the_corpus(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(b"<html>\n")
    with pytest.raises(
        UsageError, match=r"^--query=.*q\.jsonl: .*HTML.*; repair the file"
    ) as refusal:
        splits.plan_input([f"{tmp_path}/*"], is_query=True, flag="--query")
    assert "--on_bad_file" not in str(refusal.value)


def test_a_message_stays_one_line_where_a_name_holds_line_ends(tmp_path):
    (tmp_path / "a\nb.jsonl").write_bytes(b"<html>\n")
    with pytest.raises(UsageError, match=r"a\\nb\.jsonl") as refusal:
        splits.plan_input([str(tmp_path)])
    assert "\n" not in str(refusal.value)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["text", "x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="two columns named 'x'"):
        splits.plan_input([str(tmp_path)])


@pytest.mark.parametrize(
    ("option", "column", "match"),
    [
        ("id_column", "f", "the id column 'f' is double"),
        ("tokens_column", "s", "the tokens column 's' is string"),
        ("id_column", "none", "has no column 'none'; pass --id_column"),
        ("tokens_column", "none", "has no column 'none'; pass --tokens_column"),
    ],
)
def test_unfit_column_is_refused(write_table, option, column, match):
    path = write_table({"text": ["a"], "f": [0.5], "s": ["x"]})
    with pytest.raises(UsageError, match=match):
        splits.plan_input([str(path)], **{option: column})


@pytest.mark.parametrize("pattern", ["none/*.jsonl", "none", "none.jsonl", "", ","])
def test_pattern_without_a_match_is_refused(tmp_path, pattern):
    with pytest.raises(UsageError, match=r"--input.* (matches no file|is empty)"):
        splits.plan_input([str(tmp_path / pattern) if "n" in pattern else pattern])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_missing_text_of_query_files_names_their_flag(tmp_path, name):
    content = LINE if name == "a.jsonl" else GOOD_PARQUET
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UsageError, match="no column 'prompt'; pass --query_text_column, one of: text"
    ):
        splits.plan_input([str(tmp_path)], text_column="prompt", is_query=True, flag="--query")


def test_file_outside_the_root_is_refused(write_lines, tmp_path):
    path = write_lines(LINE, name="in/1.jsonl")
    with pytest.raises(UsageError, match="outside --input_root"):
        splits.plan_input([str(path)], input_root=str(tmp_path / "other"))


CODECS = {
    "gz": gzip.compress,
    "zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def random_lines(num_lines: int) -> bytes:
    return b"".join(b'{"text": "%s"}\n' % os.urandom(20).hex().encode() for _ in range(num_lines))


def read_everything(path) -> list[str | None]:
    plan = splits.plan_input([str(path)])
    (split,) = plan.splits
    return [text for b in rows.read_rows(split, Columns(), 100) for text in b.texts]


@pytest.mark.parametrize("codec", CODECS)
def test_all_members_of_a_compressed_file_are_read(tmp_path, codec):
    path = tmp_path / f"a.jsonl.{codec}"
    members = [random_lines(50) for _ in range(3)]
    path.write_bytes(b"".join(map(CODECS[codec], members)))
    expected = [line[10:-2].decode() for line in b"".join(members).splitlines()]
    assert read_everything(path) == expected


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_that_pad_a_compressed_file_are_no_part_of_it(tmp_path, codec):
    path = tmp_path / f"a.jsonl.{codec}"
    member = CODECS[codec](LINE)
    for padding in (b"\0", b"\0" * 200_000):
        path.write_bytes(member + padding)
        assert read_everything(path) == ["a"]
    path.write_bytes(member + b"\0" * 100 + member)
    assert read_everything(path) == ["a", "a"]


@pytest.mark.parametrize("codec", CODECS)
def test_what_follows_a_compressed_file_and_is_no_padding_is_damage(tmp_path, codec):
    path = tmp_path / f"a.jsonl.{codec}"
    path.write_bytes(CODECS[codec](LINE * 5000) + b"garbage" * 20)
    plan = splits.plan_input([str(path)])
    with pytest.raises(BadFileError):
        list(rows.read_rows(plan.splits[0], Columns(), 100))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.jsonl.zstd", "zst"), ("a.json.gzip", "gz"), ("a.NDJSON.ZST", "zst")]
)
def test_other_names_of_codecs_are_known(tmp_path, name, codec):
    (tmp_path / name).write_bytes(CODECS[codec](LINE))
    assert read_everything(tmp_path / name) == ["a"]


@pytest.mark.parametrize("name", ["a.parq", "a.parquet.gzip", "a.snappy.parquet", "a.PQ"])
def test_other_names_of_parquet_are_known(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD_PARQUET)
    assert read_everything(tmp_path / name) == ["a"]


def test_windows_and_skippable_frames_of_zstd_are_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    long = stream.compress(LINE) + stream.flush()
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(skippable + long + skippable + CODECS["zst"](LINE))
    assert read_everything(path) == ["a", "a"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("num_lost", [1, 9, 5000])
def test_truncated_compressed_file_is_named(tmp_path, codec, num_lost):
    path = tmp_path / f"a.jsonl.{codec}"
    (tmp_path / "good.jsonl").write_bytes(LINE)
    path.write_bytes(CODECS[codec](random_lines(3000))[:-num_lost])
    plan = splits.plan_input([str(tmp_path)])
    with pytest.raises(BadFileError, match=r"a\.jsonl") as refusal:
        list(rows.read_rows(plan.splits[0], Columns(), 100))
    assert refusal.value.path == str(path)


# Without zstd: pyarrow writes its frames without checksums.
@pytest.mark.parametrize("codec", ["gz", "bz2", "xz"])
def test_flipped_byte_in_a_compressed_file_is_named(tmp_path, codec):
    path = tmp_path / f"a.jsonl.{codec}"
    raw = bytearray(CODECS[codec](random_lines(40_000)))
    raw[len(raw) * 3 // 4] ^= 0xFF
    path.write_bytes(raw)
    plan = splits.plan_input([str(path)])
    with pytest.raises(BadFileError):
        list(rows.read_rows(plan.splits[0], Columns(), 100))


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_corrupt_parquet_page_is_named(tmp_path, compression):
    path = tmp_path / "a.parquet"
    table = {"text": [os.urandom(100).hex() for _ in range(2000)]}
    raw = bytearray(parquet_bytes(table, compression=compression, write_page_checksum=True))
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    plan = splits.plan_input([str(path)])
    with pytest.raises(BadFileError, match=r"a\.parquet"):
        list(rows.read_rows(plan.splits[0], Columns(), 100))
    with pytest.raises(BadFileError, match=r"a\.parquet"):
        list(rows.read_selected(plan.splits[0], plan.schema, [1, 1999]))


@pytest.mark.parametrize("change", ["rewrite", "remove"])
def test_file_that_changed_since_planning_is_named(write_lines, change):
    path = write_lines(b'{"text": "a"}')
    plan = splits.plan_input([str(path)])
    path.unlink()
    if change == "rewrite":
        path.write_bytes(LINE * 2)
    with pytest.raises(BadFileError, match="since it was planned"):
        list(rows.read_rows(plan.splits[0], Columns(), 100))
    with pytest.raises(BadFileError, match="since it was planned"):
        list(rows.read_lines(plan.splits[0], [0]))


def test_file_that_changed_while_it_was_read_is_named(write_lines):
    path = write_lines(*[LINE] * 3)
    (split,) = splits.plan_input([str(path)]).splits
    batches = rows.read_rows(split, Columns(), 1)
    next(batches)
    os.utime(path, (1, 1))
    with pytest.raises(BadFileError, match="has changed since it was planned"):
        list(batches)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), OSError(5, "I/O error")])
def test_failing_network_or_disk_is_not_a_bad_file(write_table, monkeypatch, error):
    class Failing:
        closed = False

        def read(self, *_):
            raise error

        seek = tell = size = read

        def readable(self):
            return True

        def close(self):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    plan = splits.plan_input([str(write_table({"text": ["a"]}))])
    monkeypatch.setattr(files, "open_read", lambda path: Failing())
    with pytest.raises(type(error)):
        list(rows.read_rows(plan.splits[0], Columns(), 100))
