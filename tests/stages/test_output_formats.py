"""A selection as ids, MDS and tokens of Megatron holds the rows that a selection in Parquet holds."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import transformers

from beam_quad.corpus import rows, splits
from beam_quad.corpus.batches import Columns
from beam_quad.errors import UsageError
from tests.corpus.test_megatron import read_documents
from tests.pipelines.world import World, manifest_of, selected_rows

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
RANDOM = {"policy": "random", "acceptance": None, "query": None}


@pytest.fixture(scope="module")
def in_parquet(world: World, tmp_path_factory):
    output = tmp_path_factory.mktemp("parquet") / "out"
    world.run(output, **RANDOM)
    return selected_rows(output)


@pytest.fixture(scope="module")
def tokenizer(world: World, tmp_path_factory):
    """A folder of a tokenizer alone, which has a token that ends a text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(world.proxy)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.save_pretrained(folder)
    return folder


def test_ids_are_written_with_their_scores(world: World, tmp_path, finished):
    flags = {"artifacts": finished / "_run", "output_format": "ids"}
    world.run(tmp_path / "out", **flags)
    table = pq.read_table(tmp_path / "out" / "selected")
    why = [row["beam_quad"] for row in selected_rows(finished)]
    assert table.column_names == ["example_id", "score"]
    assert table["example_id"].to_pylist() == [own["example_id"] for own in why]
    expected = [
        own["block_influence"] if own["influence"] is None else own["influence"] for own in why
    ]
    assert table["score"].to_pylist() == expected
    assert {own["influence"] is None for own in why} == {True, False}


def test_mds_is_one_dataset_of_the_selected_rows(world: World, tmp_path, in_parquet):
    output = tmp_path / "out"
    manifest = world.run(output, output_format="mds", **RANDOM)
    plan = splits.plan_input([str(output / "selected")])
    found = [
        text
        for split in plan.splits
        for batch in rows.read_rows(split, Columns(), 64)
        for text in batch.texts
    ]
    assert found == [row["text"] for row in in_parquet]
    assert plan.passed_over == {"not_listed": 1}
    assert "selected/index.json" in {file["path"] for file in manifest["files"]}


def test_tokens_of_megatron_are_those_of_the_tokenizer_with_an_end(
    world, tmp_path, in_parquet, tokenizer
):
    output = tmp_path / "out"
    world.run(output, output_format="megatron", output_tokenizer=tokenizer, **RANDOM)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
    found = [
        document
        for path in sorted((output / "selected").glob("*.bin"))
        for document in read_documents(path.with_suffix(""))[0]
    ]
    texts = [row["text"] for row in in_parquet]
    assert tokenizer.eos_token == "<end>"
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert found == [[*ids, tokenizer.eos_token_id] for ids in encoded]
    names = {file["path"].rpartition(".")[2] for file in manifest_of(output)["files"]}
    assert names == {"bin", "idx", "parquet"}


@pytest.mark.parametrize("output_format", ["ids", "mds", "megatron"])
def test_a_run_that_goes_on_writes_every_part_anew(
    world: World, tmp_path, output_format, tokenizer
):
    flags = RANDOM | {"output_format": output_format, "input_root": world.corpus}
    flags |= {"output_tokenizer": tokenizer} if output_format == "megatron" else {}
    world.run(tmp_path / "one", input=world.corpus + "/part-[012].*", **flags)
    changes = {"base": tmp_path / "one", "budget_tokens": "+300"}
    manifest = world.run(tmp_path / "two", **flags, **changes)
    parts = [file for file in manifest["files"] if "part-" in file["path"]]
    written = [
        file["rows"] for file in parts if file["path"].endswith((".ids.parquet", ".mds", ".bin"))
    ]
    assert sum(written) == manifest["counts"]["selected"]
    assert np.array(written).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output_tokenizer": "x"}, "--output_tokenizer makes the tokens of --output_format=meg"),
        (
            {"output_format": "megatron", "prompt_column": "kind"},
            "holds tokens alone, and --prompt_column says more",
        ),
        (
            {"output_format": "megatron"},
            "has no token that ends a text .* pass another --output_tokenizer",
        ),
        (
            {"output_format": "megatron", "output_tokenizer": "no/where"},
            "check --output_tokenizer",
        ),
        (
            {"output_format": "megatron", "proxy_model": None, "tokens_column": "n"},
            "--output_format=megatron needs --output_tokenizer",
        ),
    ],
)
def test_what_cannot_be_written_as_asked_is_refused(world: World, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        world.run(tmp_path / "out", **RANDOM | flags)
    assert not (tmp_path / "out").exists()
