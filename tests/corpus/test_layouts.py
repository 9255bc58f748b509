"""The layouts that public corpora have: their texts are found with the flags that their columns ask for."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from beam_quad.corpus import output, rows, splits
from beam_quad.corpus.batches import Columns

COMPRESS = {
    "gz": gzip.compress,
    "zst": zstandard.compress,
}
# Of each corpus its files, a row of each, and the flags.
LAYOUTS = {
    "C4": (
        ["en/c4-train.00000-of-01024.json.gz", "en/c4-train.00001-of-01024.json.gz"],
        {"text": "a", "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.b/c"},
        {"pattern": "en/c4-train.*.json.gz"},
    ),
    "Dolma": (
        ["cc_en_head/cc_en_head-0000.json.gz", "wiki/wiki-0000.json.gz"],
        {
            "id": "x", "text": "a", "source": "common-crawl", "added": "2023-04-11T09:57:03.044571+00:00",
            "created": None, "version": "v0", "metadata": {"provenance": "a:1"},
            "attributes": {"toxicity": [[0, 1, 0.5]]},
        },
        {"pattern": "**", "id_column": None},
    ),
    "FineWeb": (
        ["data/CC-MAIN-2024-10/000_00000.parquet", "data/CC-MAIN-2024-18/000_00000.parquet"],
        {"text": "a", "id": "<urn:uuid:1>", "dump": "CC-MAIN", "language_score": 0.9, "token_count": 7},
        {"pattern": "data/CC-MAIN-2024-{10,18}/*", "tokens_column": "token_count"},
    ),
    "SlimPajama": (
        ["train/chunk1/example_train_0.jsonl.zst", "train/chunk2/example_train_0.jsonl.zst"],
        {"text": "a", "meta": {"redpajama_set_name": "RedPajamaC4"}},
        {"pattern": "train"},
    ),
    "RedPajama-v2": (
        ["documents/2023-06/0000/en_head.json.gz", "documents/2023-06/0001/en_middle.json.gz"],
        {"url": "u", "date_download": "2023-01-26", "raw_content": "a", "language": "en"},
        {"pattern": "documents/*/*/*.json.gz", "text_column": "raw_content"},
    ),
    "The Stack": (
        ["data/python/train-00000-of-00206.parquet", "data/c/train-00000-of-00088.parquet"],
        {"hexsha": "f", "size": 1, "ext": "py", "max_stars_count": None, "content": "a", "alphanum_fraction": 0.5},
        {"pattern": "data", "text_column": "content"},
    ),
    "partitions of Spark": (
        ["lang=en/year=2024/part-00000-1a2b.c000.snappy.parquet", "lang=de/year=2024/part-00000-3c.parquet"],
        {"text": "a"},
        {"pattern": ""},
    ),
}  # fmt: skip
# What such folders hold beside their data.
EMPTY = ("_SUCCESS", "empty.jsonl")
OTHERS = (
    "README.md",
    "dataset_infos.json",
    ".gitattributes",
    "_SUCCESS",
    "_temporary/0/a.json",
    "empty.jsonl",
)


def write(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_bytes(COMPRESS[path.suffix[1:]](json.dumps(row).encode() + b"\n"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_read_and_carried(tmp_path, layout):
    names, row, flags = LAYOUTS[layout]
    pattern, options = str(tmp_path / flags["pattern"]), {**flags}
    del options["pattern"]
    for name in names:
        write(tmp_path / name, row)
    for name in OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name in EMPTY else b'{\n "default": {}\n}')
    plan = splits.plan_input([pattern], **options)
    assert len(plan.splits) == len(names)
    text = options.get("text_column", "text")
    for split in plan.splits:
        columns = Columns(text, tokens=options.get("tokens_column"))
        (batch,) = rows.read_rows(split, columns, 9)
        assert batch.texts == ["a"]
        ((_, chosen),) = rows.read_selected(split, plan.schema, [0])
        assert row.items() <= chosen.to_pylist()[0].items()
    if layout == "partitions of Spark":
        assert plan.schema.names == ["text", "lang", "year"]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "ids.parquet"])
def test_a_selection_loads_in_datasets(tmp_path, write_lines, ending):
    datasets = pytest.importorskip("datasets")
    plan = splits.plan_input([str(write_lines(b'{"text": "a", "m": {"n": 1}}', b'{"text": "b"}'))])
    why = output.provenance(["x", "y"], tokens=[1, 1], influence=[0.5, None])
    path = str(tmp_path / f"part-00000-of-00001.{ending}")
    output.write_selected(path, [output.Selected(plan.splits[0], [0, 1], why)], plan.schema)
    kind = "json" if ending == "jsonl" else "parquet"
    loaded = datasets.load_dataset(
        kind, data_files=path, split="train", cache_dir=str(tmp_path / "cache")
    )
    if ending == "ids.parquet":
        assert list(loaded) == [
            {"example_id": "x", "score": 0.5},
            {"example_id": "y", "score": None},
        ]
        return
    assert list(loaded["text"]) == ["a", "b"]
    assert [own["example_id"] for own in loaded["beam_quad"]] == ["x", "y"]
    assert list(loaded["m"]) == [{"n": 1}, None]
