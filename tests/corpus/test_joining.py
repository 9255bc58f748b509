"""Small shards are one piece of work, and stay so when others come."""

import gzip
import shutil

import pytest

from beam_quad.corpus import joining, jsonl, rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.joining import Joins, leave_out, parts_of

TEN = [b'{"text": "%d"}' % i for i in range(10)]


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    monkeypatch.setattr(joining, "MANY_SPLITS", 4)


@pytest.fixture
def write(write_lines):
    def write_shards(names):
        return [write_lines(*TEN, name=f"in/{name}.jsonl") for name in names]

    return write_shards


@pytest.fixture
def plan(tmp_path):
    """Plans the input as a run does that ends."""

    def plan_and_keep(base=(), **options):
        joins = Joins(str(tmp_path / "joins"), base)
        found = splits.plan_input([str(tmp_path / "in")], joins=joins, **options)
        (tmp_path / "joins").mkdir(exist_ok=True)
        for path, data in joins.unwritten.items():
            with open(path, "wb") as file:
                file.write(data)
        return found

    return plan_and_keep


def joined_shards(found):
    return [[part.shard for part in parts_of(split)] for split in found.splits]


def test_small_shards_that_follow_each_other_are_joined_to_equal_pieces(write, plan):
    write(f"a-{i:02}" for i in range(12))
    found = plan()
    names = [f"a-{i:02}.jsonl" for i in range(12)]
    assert joined_shards(found) == [names[i : i + 3] for i in range(0, 12, 3)]
    assert found.num_shards == 12
    assert sum(split.size_bytes for split in found.splits) == found.size_bytes


def test_what_is_joined_stays_below_the_size_of_a_split(write, plan):
    (path, *_) = write(f"a-{i:02}" for i in range(12))
    found = plan(split_bytes=2 * path.stat().st_size)
    assert [len(own) for own in joined_shards(found)] == [2] * 6


def test_few_shards_are_not_joined(write, plan):
    write("abcd")
    assert joined_shards(plan()) == [["a.jsonl"], ["b.jsonl"], ["c.jsonl"], ["d.jsonl"]]


def test_shards_of_two_folders_are_not_joined_where_folders_are_large(write, plan):
    write(f"{folder}/{i}" for folder in "xyz" for i in range(5))
    assert [own[0] for own in joined_shards(plan())] == [
        f"{folder}/{i}.jsonl" for folder in "xyz" for i in (0, 3)
    ]


def test_shards_that_are_alone_in_their_folders_are_joined(write, plan):
    write(f"{folder}/0" for folder in range(10, 30))
    assert [len(own) for own in joined_shards(plan())] == [3] * 6 + [2]


def test_a_split_keeps_its_name_and_shards_when_others_come_between(write, plan):
    write(f"a-{i:02}" for i in range(0, 24, 2))
    before = plan().splits
    write(f"a-{i:02}" for i in range(1, 24, 2))
    after = plan().splits
    assert set(before) < set(after)
    new = [part.shard for split in set(after) - set(before) for part in parts_of(split)]
    assert sorted(new) == [f"a-{i:02}.jsonl" for i in range(1, 24, 2)]
    # Twice as many shards are joined to pieces twice as large.
    assert len(after) == 4 + 2
    assert plan().splits == after


def test_a_shard_that_was_read_alone_stays_alone(write, plan):
    write("abc")
    before = plan().splits
    write("defghijk")
    after = plan().splits
    assert set(before) < set(after)
    assert any(split.packed for split in after)


def test_the_splits_of_a_base_are_found_again_whatever_else_was_joined(
    write, plan, tmp_path, monkeypatch
):
    monkeypatch.setattr(jsonl, "CUT_ROWS", 2)
    (path, *_) = write(f"a-{i:02}" for i in range(12))
    sizes = {"split_bytes": 3 * path.stat().st_size}
    before = plan(**sizes).splits
    # Another rule now, and nothing is known of the old one; of one file it makes five, of others it joins two.
    shutil.rmtree(tmp_path / "joins")
    write(f"a-{i:02}-new" for i in range(6))
    sizes = {"split_bytes": 2 * path.stat().st_size}
    found = plan(base=before, **sizes).splits
    assert set(before) < set(found)
    assert {len(parts_of(split)) for split in set(found) - set(before)} == {2}
    shutil.rmtree(tmp_path / "joins")
    monkeypatch.setattr(joining, "MANY_SPLITS", 1000)
    whole = plan().splits
    shutil.rmtree(tmp_path / "joins")
    monkeypatch.setattr(joining, "MANY_SPLITS", 4)
    assert plan(base=whole, split_bytes=path.stat().st_size // 3).splits == whole
    # Of another content nothing is as before.
    path.write_bytes(b"".join(line + b"\n" for line in TEN[1:]))
    again = plan(base=whole, split_bytes=path.stat().st_size // 3).splits
    assert [split.shard for split in set(whole) - set(again)] == [path.name]
    assert len(again) == len(whole) + 2


def test_only_the_shards_joined_with_one_that_is_gone_are_read_anew(write, plan):
    paths = write(f"a-{i:02}" for i in range(12))
    before = plan().splits
    paths[4].unlink()
    after = plan().splits
    assert set(before) - set(after) == {before[1]}
    new = [part.shard for split in set(after) - set(before) for part in parts_of(split)]
    assert new == ["a-03.jsonl", "a-05.jsonl"]


def test_joined_rows_are_those_of_the_shards_in_batches_that_no_two_share(
    write_lines, write_table, plan, tmp_path
):
    texts = [f"t{i}" for i in range(7)]
    for i in range(8):
        if i % 2:
            write_table({"text": texts}, name=f"in/a-{i}.parquet", row_group_size=4)
        else:
            path = write_lines(*TEN, name=f"in/a-{i}.jsonl")
            path.with_name(f"a-{i}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()

    def read(found):
        return [
            (batch.first_row, batch.ids, batch.texts)
            for split in found.splits
            for batch in rows.read_runs(split, Columns(), 3, 6, 10**6)
        ]

    found = plan()
    assert any(split.packed for split in found.splits)
    assert read(found) == read(splits.plan_input([str(tmp_path / "in")]))


def test_a_shard_can_be_left_out_of_joined_ones(write, plan):
    write(f"a-{i:02}" for i in range(12))
    split = plan().splits[0]
    assert [part.shard for part in parts_of(leave_out(split, {"a-01.jsonl"}))] == [
        "a-00.jsonl",
        "a-02.jsonl",
    ]
    assert leave_out(split, {"other"}) is split
    assert parts_of(leave_out(split, {part.shard for part in parts_of(split)})) == ()


def test_other_content_of_one_shard_is_another_split(write, plan, write_lines):
    write(f"a-{i:02}" for i in range(12))
    before = plan().splits
    write_lines(*TEN[1:], name="in/a-01.jsonl")
    after = plan().splits
    assert {split.version for split in before[1:]} < {split.version for split in after}
    assert before[0].version not in {split.version for split in after}
