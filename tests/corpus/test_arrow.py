"""Arrow IPC: Feather files, streams, and the folders that `datasets` saves."""

import struct

import numpy as np
import pyarrow as pa
import pytest

from beam_quad.corpus import arrow, rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.errors import BadFileError, UsageError

NUM_ROWS = 5000
TABLE = pa.table(
    {
        "text": [f"text {i}" for i in range(NUM_ROWS)],
        "kind": pa.array([f"kind {i % 7}" for i in range(NUM_ROWS)]).dictionary_encode(),
        "meta": [{"id": str(i)} for i in range(NUM_ROWS)],
    }
)
WRITERS = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}


@pytest.fixture
def write_arrow(tmp_path):
    """Writes batches of 300 rows, so that none ends where a group of them does."""

    def write(kind="file", compression=None, name="in/a.arrow", table=TABLE):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with WRITERS[kind](path, table.schema, options=options) as writer:
            for batch in table.to_batches(300):
                writer.write_batch(batch)
        return path

    return write


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("compression", [None, "lz4"])
def test_rows_do_not_depend_on_how_a_file_is_cut(write_arrow, kind, compression):
    path = write_arrow(kind, compression)
    whole, cut = (
        splits.plan_input([str(path)], split_bytes=size)
        for size in (1 << 30, path.stat().st_size // 3)
    )
    assert len(whole.splits) == 1 < len(cut.splits)
    assert sum(split.num_rows for split in cut.splits) == cut.num_rows == NUM_ROWS
    read = [
        [
            (b.first_row, b.group_row, b.texts)
            for s in plan.splits
            for b in rows.read_rows(s, Columns("meta.id"), 64)
        ]
        for plan in (whole, cut)
    ]
    assert read[0] == read[1]
    assert [text for *_, texts in read[0] for text in texts] == [str(i) for i in range(NUM_ROWS)]


@pytest.mark.parametrize("kind", WRITERS)
def test_chosen_rows_have_all_their_columns(write_arrow, kind):
    (split,) = splits.plan_input([str(write_arrow(kind))]).splits
    chosen = [0, 299, 300, 1023, 1199, 1200, 4999]
    found = [batch for _, batch in rows.read_selected(split, TABLE.schema, chosen)]
    assert pa.Table.from_batches(found).to_pylist() == TABLE.take(chosen).to_pylist()


def test_a_stream_may_replace_a_dictionary_on_its_way(tmp_path):
    path = tmp_path / "a.arrows"
    texts = [[f"{word} {i}" for i in range(1100)] for word in ("old", "new")]
    columns = [pa.array(own).dictionary_encode() for own in texts]
    schema = pa.schema([("text", columns[0].type)])
    with pa.ipc.new_stream(path, schema) as writer:
        for column in columns:
            writer.write_batch(pa.record_batch([column], schema=schema))
    cut = splits.plan_input([str(path)], split_bytes=1).splits
    assert len(cut) == 2
    read = [
        text for s in reversed(cut) for b in rows.read_rows(s, Columns(), 99) for text in b.texts
    ]
    assert read == texts[1] + texts[0]


def test_planning_reads_no_values(write_arrow):
    path = write_arrow()
    with open(path, "rb") as file:
        places = [(m.start, m.end) for m in arrow._messages(file) if m.num_rows]
    data = bytearray(path.read_bytes())
    for start, end in places:
        # Past the metadata of the message.
        start += 8 + struct.unpack_from("<I", data, start + 4)[0]
        data[start:end] = bytes(end - start)
    path.write_bytes(data)
    assert splits.plan_input([str(path)]).num_rows == NUM_ROWS


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("lost", [1, 1000])
def test_a_truncated_file_is_named(write_arrow, kind, lost):
    path = write_arrow(kind)
    # Eight bytes end a stream, and say nothing.
    path.write_bytes(path.read_bytes()[: -lost - 8 * (kind == "stream")])
    with pytest.raises(UsageError, match=r"a\.arrow: not a readable Arrow file: .*is truncated"):
        splits.plan_input([str(path)])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"FEA1" + b"\0" * 99, "Feather of version 1"),
        (b"PAR1" + b"\0" * 99, "it is Parquet"),
        (b"garbage" * 99, "not a readable Arrow file"),
    ],
)
def test_what_is_no_arrow_is_named(tmp_path, content, match):
    (tmp_path / "a.feather").write_bytes(content)
    with pytest.raises(UsageError, match=match):
        splits.plan_input([str(tmp_path)])


def test_values_that_cannot_be_decompressed_are_damage(write_arrow):
    path = write_arrow("stream", "lz4")
    (split,) = splits.plan_input([str(path)]).splits
    with open(path, "rb") as file:
        batch = next(m for m in arrow._messages(file) if m.num_rows)
    data = bytearray(path.read_bytes())
    data[batch.end - 400 : batch.end] = b"\xff" * 400
    path.write_bytes(data)
    unchecked = splits.plan_input([str(path)]).splits[0]
    with pytest.raises(BadFileError, match=r"a\.arrow"):
        list(rows.read_rows(unchecked, Columns("meta.id"), 64))
    assert split.num_rows == unchecked.num_rows


def test_whole_numbers_meet_doubles_without_statistics(write_arrow, write_table):
    write_arrow(table=pa.table({"text": ["a"], "n": [2**60 + 1]}))
    path = write_table({"text": ["b"], "n": [0.5]}, name="in/b.parquet")
    plan = splits.plan_input([str(path.parent)])
    found = [b for s in plan.splits for _, b in rows.read_selected(s, plan.schema, np.array([0]))]
    assert pa.Table.from_batches(found)["n"].to_pylist() == [str(2**60 + 1), "0.5"]


def saved(write_arrow, *names):
    """Writes a folder as `Dataset.save_to_disk` does."""
    path = write_arrow("stream", name="in/data/" + names[0], table=pa.table({"text": ["a"]}))
    for name in names[1:]:
        write_arrow("stream", name="in/data/" + name, table=pa.table({"text": ["b"]}))
    files = ", ".join(f'{{"filename": "{name}"}}' for name in names)
    (path.parent / "state.json").write_text(f'{{\n  "_data_files": [{files}]\n}}')
    (path.parent / "dataset_info.json").write_text('{\n  "features": {}\n}')
    (path.parent.parent / "dataset_dict.json").write_text('{"splits": ["data"]}')
    return path.parent


def test_of_a_saved_dataset_the_listed_files_are_read(write_arrow):
    folder = saved(write_arrow, "data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    write_arrow("stream", name="in/data/cache-0a1b.arrow", table=pa.table({"text": ["c"]}))
    write_arrow("stream", name="in/data/left-over.arrow", table=pa.table({"text": ["d"]}))
    for pattern, num_others in ((folder, 4), (folder.parent, 5)):
        plan = splits.plan_input([str(pattern)])
        assert [s.shard.rpartition("/")[2] for s in plan.splits] == [
            "data-00000-of-00002.arrow", "data-00001-of-00002.arrow",
        ]  # fmt: skip
        assert plan.passed_over == {"not_listed": num_others}
    # What `datasets` keeps of a `map` would be every row once more.
    plan = splits.plan_input([str(folder / "*.arrow")])
    assert len(plan.splits) == 3


def test_a_saved_dataset_that_is_not_whole_is_refused(write_arrow):
    folder = saved(write_arrow, "data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UsageError, match=r"state\.json lists data-00001-of-00002\.arrow, which is"):
        splits.plan_input([str(folder)])
    assert splits.plan_input([str(folder / "data-00000-of-00002.arrow")]).num_rows == 1


def test_what_datasets_saves_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    texts = {"train": [f"a {i}" for i in range(2500)], "test": ["b"]}
    saved = {name: datasets.Dataset.from_dict({"text": own}) for name, own in texts.items()}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    plan = splits.plan_input([str(tmp_path / "saved")])
    read = [
        text for s in plan.splits for b in rows.read_rows(s, Columns(), 512) for text in b.texts
    ]
    assert read == texts["test"] + texts["train"]
