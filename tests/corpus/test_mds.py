"""MDS: shards that mosaicml-streaming writes are read, and what is written it reads."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from beam_quad.corpus import mds, mds_parts, output, rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.mds import Column
from beam_quad.errors import UsageError

NUM_SAMPLES = 2500
COLUMNS = [Column("meta", "json", None), Column("n", "int", 8), Column("text", "str", None)]


@pytest.fixture(scope="module")
def streaming():
    """The library that defines the format."""
    return pytest.importorskip("streaming")


def write_shard(path: pathlib.Path, num_samples=NUM_SAMPLES):
    samples = (
        (json.dumps({"i": i}).encode(), np.int64(i).tobytes(), f"text {i}".encode())
        for i in range(num_samples)
    )
    return mds_parts.write_samples(str(path), COLUMNS, samples)


def read_texts(plan, column="text"):
    return [
        text
        for split in plan.splits
        for batch in rows.read_rows(split, Columns(column), 64)
        for text in batch.texts
    ]


def carried(plan, keep):
    (split,) = plan.splits
    batches = [batch for _, batch in rows.read_selected(split, plan.schema, keep)]
    return pa.Table.from_batches(batches).to_pylist()


@pytest.mark.parametrize("split_bytes", [1, 20_000, 1 << 30])
def test_rows_do_not_depend_on_how_a_shard_is_cut(tmp_path, split_bytes):
    write_shard(tmp_path / "shard.00000.mds")
    plan = splits.plan_input([str(tmp_path)], split_bytes=split_bytes)
    assert read_texts(plan) == [f"text {i}" for i in range(NUM_SAMPLES)]
    assert plan.num_rows == NUM_SAMPLES == sum(split.num_rows for split in plan.splits)
    assert len(plan.splits) == {1: 3, 20_000: 3, 1 << 30: 1}[split_bytes]


def test_chosen_rows_have_all_columns_in_their_types(tmp_path):
    write_shard(tmp_path / "a.mds")
    plan = splits.plan_input([str(tmp_path)])
    assert plan.schema.field("n").type == pa.int64()
    assert carried(plan, [0, 1024, 2499]) == [
        {"meta": f'{{"i": {i}}}', "n": i, "text": f"text {i}"} for i in (0, 1024, 2499)
    ]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data[:-1], "is truncated"),
        (lambda data: data[:3], "is truncated, or no shard"),
        (lambda data: b"garbage" * 99, "is truncated, or no shard"),
        (lambda data: data.replace(b'"version": 2', b'"version": 3'), "version 3 of MDS"),
        (lambda data: data.replace(b"column_sizes", b"column_bytes"), "no shard of MDS"),
    ],
)
def test_what_is_no_whole_shard_is_named(tmp_path, change, match):
    path = tmp_path / "a.mds"
    write_shard(path, 9)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=rf"a\.mds: .*{match}"):
        splits.plan_input([str(path)])


def test_of_an_index_the_listed_shards_are_read_in_one_form(tmp_path):
    parts = [write_shard(tmp_path / f"shard.0000{i}.mds", 9) for i in range(2)]
    mds_parts.write_index(str(tmp_path), COLUMNS, parts)
    write_shard(tmp_path / "left-over.mds", 9)
    plan = splits.plan_input([str(tmp_path)])
    assert [split.shard for split in plan.splits] == ["shard.00000.mds", "shard.00001.mds"]
    assert plan.passed_over == {"not_listed": 2}
    (tmp_path / "shard.00001.mds").unlink()
    with pytest.raises(
        UsageError, match=r"index\.json lists shard\.00001\.mds, which is not there"
    ):
        splits.plan_input([str(tmp_path)])


@pytest.mark.parametrize("compression", [None, "zstd", "gz", "bz2"])
def test_shards_of_the_library_are_read(streaming, tmp_path, compression):
    encodings = {
        "text": "str", "raw": "bytes", "n": "int", "small": "uint8", "real": "float32", "meta": "json",
        "big": "str_int", "free": "ndarray:int32", "fixed": "ndarray:float32:2", "any": "ndarray",
    }  # fmt: skip
    samples = [
        {
            "text": f"é {i}", "raw": bytes([i % 256, 255]), "n": -i, "small": i % 256, "real": i / 2,
            "meta": {"i": [i, None]} if i else None, "big": 10**30 + i,
            "free": np.arange(1 + i % 3, dtype=np.int32),
            "fixed": np.array([i, -i], np.float32), "any": np.arange(3),
        }
        for i in range(1200)
    ]  # fmt: skip
    out = str(tmp_path / "in")
    with streaming.MDSWriter(
        out=out, columns=encodings, compression=compression, size_limit=50_000
    ) as writer:
        for sample in samples:
            writer.write(sample)
    if compression == "gz":
        # What a reader leaves behind: every shard twice.
        list(streaming.StreamingDataset(local=out, batch_size=1, validate_hash=None, keep_zip=True))
    plan = splits.plan_input([out])
    assert len(plan.splits) > 1
    assert sorted(read_texts(plan)) == sorted(sample["text"] for sample in samples)
    plan = splits.plan_input([plan.splits[0].path])
    expected = [
        {
            "text": s["text"], "raw": s["raw"], "n": s["n"], "small": s["small"], "real": s["real"],
            "meta": None if s["meta"] is None else json.dumps(s["meta"]), "big": str(s["big"]),
            "free": s["free"].tolist(), "fixed": s["fixed"].tolist(),
        }
        for s in samples[:3]
    ]  # fmt: skip
    found = carried(plan, [0, 1, 2])
    assert [{name: row[name] for name in expected[0]} for row in found] == expected
    # Of vectors that may be of any type nothing is known before they are read.
    assert plan.schema.field("any").type == pa.binary()


def test_the_library_reads_what_is_written(streaming, tmp_path, write_lines):
    table = [
        {"text": 'one\n"é"', "n": 2**60, "meta": {"a": [1.5, None]}},
        {"text": "two", "n": None, "meta": None},
        {"text": "three", "n": 3, "meta": {"a": []}},
    ]
    plan = splits.plan_input([str(write_lines(*(json.dumps(row).encode() for row in table)))])
    parts = []
    for i, chosen in enumerate(([0, 1], [2])):
        why = output.provenance(
            [str(at) for at in chosen], tokens=[1] * len(chosen), influence=[0.5] * len(chosen)
        )
        selection = output.Selected(plan.splits[0], chosen, why, np.full(len(chosen), 0.25))
        path = str(tmp_path / "out" / f"part-{i}.mds")
        parts += output.write_selected(path, [selection], plan.schema, weighted=True)
    columns = output.mds_columns(plan.schema, weighted=True)
    mds_parts.write_index(str(tmp_path / "out"), columns, parts)
    dataset = streaming.StreamingDataset(
        local=str(tmp_path / "out"), batch_size=1, validate_hash="sha256"
    )
    found = [dataset[i] for i in range(3)]
    assert [{name: row[name] for name in table[0]} for row in found] == table
    assert [row["beam_quad"]["example_id"] for row in found] == ["0", "1", "2"]
    assert {row["beam_quad"]["influence"] for row in found} == {0.5}
    assert {row["weight"] for row in found} == {0.25}


def test_a_selection_of_mds_is_the_input_of_the_next_run(tmp_path, write_table):
    path = write_table({"text": ["a", "b"], "n": [1, None]})
    plan = splits.plan_input([str(path)])
    why = output.provenance(["x", "y"], tokens=[1, 1])
    selection = output.Selected(plan.splits[0], [0, 1], why)
    output.write_selected(str(tmp_path / "out" / "part-0.mds"), [selection], plan.schema)
    again = splits.plan_input([str(tmp_path / "out")])
    assert read_texts(again) == ["a", "b"]
    assert [row["n"] for row in carried(again, [0, 1])] == ["1", None]


def test_a_shard_of_4_gib_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mds_parts, "_MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="less than 4 GiB; pass a lower --split_mb"):
        write_shard(tmp_path / "a.mds", 99)
    assert not list(tmp_path.iterdir())
    assert mds.EXTENSIONS.search("shard.00000.mds.zstd")
