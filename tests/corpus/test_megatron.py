"""Megatron's indexed datasets, read by the layout that Megatron documents."""

import itertools
import json
import struct

import numpy as np
import pytest

from beam_quad.corpus import megatron, output, splits


def read_documents(prefix):
    """Reads all documents as `IndexedDataset` of Megatron does, by its own steps."""
    index = (prefix.parent / f"{prefix.name}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, num_sequences, num_bounds = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    dtype = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}[code]
    at = 9 + 8 + 1 + 8 + 8
    lengths = np.frombuffer(index, "<i4", num_sequences, at)
    at += lengths.nbytes
    starts = np.frombuffer(index, "<i8", num_sequences, at)
    at += starts.nbytes
    bounds = np.frombuffer(index, "<i8", num_bounds, at)
    assert at + bounds.nbytes == len(index)
    tokens = (prefix.parent / f"{prefix.name}.bin").read_bytes()
    assert sum(lengths) * np.dtype(dtype).itemsize == len(tokens)
    sequences = [
        np.frombuffer(tokens, dtype, length, start).tolist()
        for length, start in zip(lengths.tolist(), starts.tolist(), strict=True)
    ]
    documents = [
        [token for sequence in sequences[first:last] for token in sequence]
        for first, last in itertools.pairwise(bounds)
    ]
    return documents, dtype


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"),
    [(1000, "<u2"), (65_499, "<u2"), (65_500, "<i4"), (200_000, "<i4")],
)
def test_documents_are_read_back(tmp_path, vocabulary_size, dtype):
    documents = [np.array(own) for own in ([5, 6, 0], [0], [vocabulary_size - 1, 1, 2, 0])]
    path = tmp_path / "part-00000-of-00001.bin"
    parts = megatron.write_tokens(str(path), documents, vocabulary_size)
    assert read_documents(path.with_suffix("")) == ([own.tolist() for own in documents], dtype)
    assert [part.num_rows for part in parts] == [3, 0]


def test_no_document_is_an_empty_dataset(tmp_path):
    megatron.write_tokens(str(tmp_path / "a.bin"), [], 9)
    assert read_documents(tmp_path / "a") == ([], "<u2")


def test_a_token_beyond_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="token 9 is beyond a vocabulary of 9"):
        megatron.write_tokens(str(tmp_path / "a.bin"), [np.array([9])], 9)
    assert not list(tmp_path.iterdir())


class Letters:
    """Every letter is a token, and 0 ends a text."""

    vocabulary_size = 128

    def encode(self, texts):
        return [np.array([*map(ord, text), 0]) for text in texts]


@pytest.mark.parametrize("column", ["text", "meta.text"])
def test_chosen_texts_of_every_format_become_documents(tmp_path, write_lines, write_table, column):
    write_lines(
        json.dumps({"text": "ab", "meta": {"text": "ab"}}).encode(), b"oops",
        json.dumps({"text": "c", "meta": {"text": "c"}, "x": 1}).encode(), name="in/a.jsonl",
    )  # fmt: skip
    path = write_table({"text": ["d", "e"], "meta": [{"text": "d"}, {"text": "e"}]}, "in/b.parquet")
    plan = splits.plan_input([str(path.parent)], text_column=column)
    selections = [
        output.Selected(
            split, chosen, output.provenance(["x"] * len(chosen), tokens=[1] * len(chosen))
        )
        for split, chosen in zip(plan.splits, ([0, 2], [1]), strict=True)
    ]
    output.write_selected(str(tmp_path / "p.bin"), selections, plan.schema, encoder=Letters())
    found, _ = read_documents(tmp_path / "p")
    assert ["".join(map(chr, own[:-1])) for own in found] == ["ab", "c", "e"]
    assert {own[-1] for own in found} == {0}
