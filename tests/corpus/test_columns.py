"""Columns that nobody asked for cost no row, and lose nothing on their way to the output."""

import itertools
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad.corpus import output, parquet, plan, rows, schemas, splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.json_types import MAX_COLUMNS, MAX_DEPTH, MAX_FIELDS, Seen, Shapes
from beam_quad.corpus.output import Selected
from beam_quad.errors import UsageError


def carry(folder: pathlib.Path, suffix: str = "parquet", weighted: bool = False, **options):
    """Selects every row of a folder, as the stages of a run do; returns the part and the schema by which it is written."""
    corpus = splits.plan_input([str(folder)], **options)
    read = Columns(options.get("text_column", "text"), options.get("id_column"))
    total, chosen = Shapes(), []
    for split in corpus.splits:
        seen = Seen()
        batches = list(rows.read_rows(split, read, 100, seen))
        assert not any(reason for batch in batches for reason in batch.reasons)
        numbers = split.first_row + np.arange(sum(map(len, batches)))
        why = output.provenance([str(n) for n in numbers], tokens=numbers)
        chosen.append(Selected(split, numbers, why, np.ones(len(numbers)) if weighted else None))
        total += Shapes.from_json(json.loads(json.dumps(seen.shapes.as_json())))
    choice = schemas.choice_of(corpus.schema)
    schema = schemas.carried(corpus.stored, total, choice, corpus.schema)
    path = folder.parent / f"part.{suffix}"
    output.write_selected(str(path), chosen, schema, replace=True, weighted=weighted)
    return path, schema


def carried_column(folder: pathlib.Path, name: str, **options) -> tuple[pa.Field, list]:
    path, _ = carry(folder, **options)
    table = pq.read_table(path)
    return table.schema.field(name), table.column(name).to_pylist()


def document(number: int, **values) -> bytes:
    return json.dumps({"text": f"text {number}", **values}).encode()


GOOD_FIRST = 1100

# First values of a column, one that comes after the first rows, and its type then: None for JSON text.
LATE = {
    "null, then a string": (None, "en", pa.string()),
    "whole, then a fraction": (0, 0.25, pa.float64()),
    "whole, then negative": (7, -7, pa.int64()),
    "whole, then 64 bits unsigned": (7, 2**64 - 1, pa.uint64()),
    "whole, then large": (7, 2**60, pa.int64()),
    "object, then one with another key": (
        {"a": 1},
        {"b": "x"},
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
    "empty list, then items": ([], ["a"], pa.list_(pa.string())),
    "fraction, then NaN": (0.5, float("inf"), pa.float64()),
    "number, then string": (1, "1", None),
    "bool, then number": (True, 1, None),
    "signed, then unsigned": (-1, 2**63, None),
    "large, then a fraction": (2**53 + 1, 0.5, None),
    "fraction, then large": (0.5, 2**53 + 1, None),
    "whole, then beyond 64 bits": (1, 2**70 + 1, None),
    "string, then object": ("a", {"b": 1}, None),
    "object, then list": ({"b": 1}, [], None),
    "deep inside": ({"a": [{"b": 1}]}, {"a": [{"b": "x"}]}, None),
}


@pytest.mark.parametrize(("first", "late", "expected"), LATE.values(), ids=list(LATE))
def test_value_that_comes_late_is_carried_without_loss(write_lines, first, late, expected):
    path = write_lines(*[document(i, x=first) for i in range(GOOD_FIRST)], document(-1, x=late))
    field, values = carried_column(path.parent, "x")
    if expected is None:
        assert schemas.is_json_text(field)
        assert [json.loads(values[0]), json.loads(values[-1])] == [first, late]
    else:
        assert field.type == expected
        assert not schemas.is_json_text(field)
        fields = first.keys() | late.keys() if isinstance(late, dict) else ()
        filled = [{**dict.fromkeys(fields), **v} if fields else v for v in (first, late)]
        assert [values[0], values[-1]] == filled


def test_column_that_comes_late_follows_the_others_by_name(write_lines):
    late = document(-1, z=1, b=2)
    path, _ = carry(write_lines(*[document(i, k=1) for i in range(GOOD_FIRST)], late).parent)
    table = pq.read_table(path)
    assert table.column_names == ["text", "k", "b", "z", "beam_quad"]
    assert table.slice(GOOD_FIRST).drop_columns("beam_quad").to_pylist() == [
        {"text": "text -1", "k": None, "b": 2, "z": 1}
    ]


def test_json_text_is_written_as_the_row_has_it(write_lines):
    values = [
        b"1.50",
        b'"\\u00e9"',
        b"NaN",
        b"123456789012345678901",
        b'{"a" :  [1e999, -0.0]}',
        b"null",
    ]
    path = write_lines(*[b'{"x": 1, "text": "a", "x": %s}' % value for value in values])
    field, found = carried_column(path.parent, "x")
    assert schemas.is_json_text(field)
    assert found == [None if v == b"null" else v.decode() for v in values]


def test_why_a_column_is_json_text_names_the_types(write_lines):
    path = write_lines(document(0, x={"v": 1}), document(1, x={"v": "s"}))
    _, schema = carry(path.parent)
    assert schemas.why_json_text(schema.field("x")) == "v: int64 and string"


def test_keys_of_their_own_in_every_row_are_json_text(write_lines):
    path = write_lines(*[document(i, m={f"k{i}": 0.5}) for i in range(MAX_FIELDS + 1)])
    field, values = carried_column(path.parent, "m")
    assert schemas.is_json_text(field)
    assert values[7] == '{"k7": 0.5}'


def test_as_many_fields_as_are_allowed_are_a_struct(write_lines):
    path = write_lines(*[document(i, m={f"k{i}": 0.5}) for i in range(MAX_FIELDS)])
    field, _ = carried_column(path.parent, "m")
    assert field.type.num_fields == MAX_FIELDS


@pytest.mark.parametrize("levels", [MAX_DEPTH, 200, 900, 9000])
def test_deep_nesting_is_json_text(write_lines, levels, tmp_path):
    deep = "[" * levels + "1" + "]" * levels
    path = write_lines(document(0), b'{"text": "a", "tree": %s}' % deep.encode())
    corpus = splits.plan_input([str(path)])
    plan.write_plan(str(tmp_path / "plan.json.gz"), corpus)
    assert plan.read_plan(str(tmp_path / "plan.json.gz")) == corpus
    field, values = carried_column(path.parent, "tree")
    assert schemas.is_json_text(field)
    assert values == [None, deep]


def test_columns_of_their_own_in_every_row_are_carried_in_one(write_lines, tmp_path):
    path = write_lines(*[document(i, **{f"k{i}": i}) for i in range(MAX_COLUMNS + 5)])
    written, _ = carry(path.parent)
    table = pq.read_table(written)
    assert table.column_names == ["text", "other_columns", "beam_quad"]
    assert table.column("text")[9].as_py() == "text 9"
    assert table.column("other_columns")[9].as_py() == '{"k9": 9}'


def test_columns_of_parquet_take_of_such_rows_what_fits_and_the_rest_stays_text(
    write_lines, write_table
):
    write_table({"text": ["p"], "id": [7], "n": [0.5]}, name="in/p.parquet")
    odd = [("s0", 1), (8, 2**53 + 1), (True, 2**70 + 1), (None, "x"), (1.5, 2.5)]
    lines = [document(i, id=key, n=n) for i, (key, n) in enumerate(odd)]
    more = [document(i, **{f"k{i}": i}) for i in range(MAX_COLUMNS)]
    path = write_lines(*lines, *more)
    table = pq.read_table(carry(path.parent)[0]).slice(0, len(odd))
    assert [table.schema.field(name).type for name in ("id", "n")] == [pa.int64(), pa.float64()]
    assert table.column("text").to_pylist() == [f"text {i}" for i in range(len(odd))]
    assert table.column("id").to_pylist() == [None, 8, None, None, None]
    assert table.column("n").to_pylist() == [1.0, None, None, None, 2.5]
    others = table.column("other_columns").to_pylist()
    assert [json.loads(text) for text in others] == [
        {"id": "s0"}, {"n": 2**53 + 1}, {"id": True, "n": 2**70 + 1}, {"n": "x"}, {"id": 1.5},
    ]  # fmt: skip


def test_strings_that_utf_8_cannot_hold_are_escaped(write_lines):
    lines = [b'{"text": "a", "u": "caf\xe9"}', b'{"text": "b", "u": "x\\ud800y"}']
    path = write_lines(*lines)
    field, values = carried_column(path.parent, "u")
    assert field.type == pa.string()
    assert values == ["caf\\xe9", "x\\ud800y"]
    seen = Seen()
    list(rows.read_rows(splits.plan_input([str(path)]).splits[0], Columns(), 9, seen))
    assert seen.shapes.columns["u"].is_escaped
    assert not seen.shapes.columns["text"].is_escaped


@pytest.mark.parametrize(
    "value", [b"NaN", b"1e999", b'"\\ud800"', b'"\xff"', b"[" * 900 + b"]" * 900, b"1" * 99]
)
def test_json_lines_are_carried_as_they_were_whatever_they_hold(write_lines, value):
    line = b'{"text": "a",  "x": %s}' % value
    path, _ = carry(write_lines(line, b"\xef\xbb\xbf" + line, document(0, x="s")).parent, "jsonl")
    written = path.read_bytes().splitlines()
    assert [row.partition(b',"beam_quad":')[0] for row in written[:2]] == [line[:-1]] * 2


def test_what_a_rejected_row_holds_does_not_count(write_lines):
    seen = Seen()
    path = write_lines(document(0, x=1), b'{"text": null, "x": "s", "y": 1}')
    list(rows.read_rows(splits.plan_input([str(path)]).splits[0], Columns(), 9, seen))
    assert seen.shapes.columns.keys() == {"text", "x"}
    assert seen.shapes.columns["x"].is_exact


VALUES = [
    1, 2**60, -(2**60), 2**64 - 1, 2**70, 0.5, "s", True, {"a": 1}, {"a": "s"}, {"b": [1]}, [{"c": {}}], [0.5],
    {f"k{i}": i for i in range(MAX_FIELDS)}, json.loads("[" * 40 + "]" * 40), None,
]  # fmt: skip


def test_shapes_do_not_depend_on_the_order_of_rows():
    parts = []
    for value in VALUES:
        seen = Seen()
        seen.add({"x": value})
        parts.append(seen.shapes)
    expected = {
        tuple(sorted(trio)): sum((parts[i] for i in trio), Shapes()).as_json()
        for trio in itertools.combinations(range(len(parts)), 3)
    }
    for trio in itertools.permutations(range(len(parts)), 3):
        a, b, c = (parts[i] for i in trio)
        assert (a + (b + c)).as_json() == expected[tuple(sorted(trio))]
        seen = Seen()
        for i in trio:
            if not seen.fits([{"x": VALUES[i]}]):
                seen.add({"x": VALUES[i]})
        assert seen.shapes.as_json() == expected[tuple(sorted(trio))]


def struct_of(value, **options) -> pa.Array:
    return pa.array([value], pa.struct([pa.field("a", pa.int64(), **options)]))


# A column of two files, and its type in the output: None for JSON text.
PAIRS = {
    "string and int": (pa.array(["s"]), pa.array([1]), None),
    "int and fraction": (pa.array([1]), pa.array([0.5]), pa.float64()),
    "large int and fraction": (pa.array([2**53 + 1]), pa.array([0.5]), None),
    "short int and fraction": (pa.array([1], pa.int32()), pa.array([0.5]), pa.float64()),
    "int32 and float32": (
        pa.array([2**24 + 1], pa.int32()),
        pa.array([0.5], pa.float32()),
        pa.float64(),
    ),
    "signed and unsigned": (pa.array([-1]), pa.array([2**64 - 1], pa.uint64()), None),
    "int8 and uint8": (pa.array([-1], pa.int8()), pa.array([200], pa.uint8()), pa.int16()),
    "int32 and int64": (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
    "null and list": (pa.nulls(1), pa.array([[1]]), pa.list_(pa.int64())),
    "string and large": (pa.array(["s"]), pa.array(["t"], pa.large_string()), pa.large_string()),
    "list and large": (
        pa.array([[1]]),
        pa.array([[2]], pa.large_list(pa.int64())),
        pa.large_list(pa.int64()),
    ),
    "lists of other sizes": (
        pa.array([[1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([[3]], pa.list_(pa.int64(), 1)),
        pa.list_(pa.int64()),
    ),
    "dictionary and string": (pa.array(["s"]).dictionary_encode(), pa.array(["t"]), pa.string()),
    "milliseconds and microseconds": (
        pa.array([1], pa.timestamp("ms")),
        pa.array([2], pa.timestamp("us")),
        pa.timestamp("us"),
    ),
    "nanoseconds and years beyond": (
        pa.array([1], pa.timestamp("ns")),
        pa.array([253402300799000000], pa.timestamp("us")),
        None,
    ),
    "time zones": (
        pa.array([1], pa.timestamp("us", "UTC")),
        pa.array([1], pa.timestamp("us")),
        None,
    ),
    "decimals": (
        pa.array(["1.25"]).cast(pa.decimal128(3, 2)),
        pa.array(["12.5"]).cast(pa.decimal128(3, 1)),
        pa.decimal128(4, 2),
    ),
    "string and bytes": (pa.array(["s"]), pa.array([b"\xff"]), pa.binary()),
    "struct and struct": (
        struct_of({"a": 1}),
        pa.array([{"b": "x"}]),
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
    "structs that conflict": (struct_of({"a": 1}), pa.array([{"a": "x"}]), None),
    "extension and storage": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
        pa.array([b"1" * 16], pa.binary(16)),
        pa.binary(16),
    ),
}


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize(("one", "two", "expected"), PAIRS.values(), ids=list(PAIRS))
def test_types_of_parquet_files_join_without_loss(write_table, one, two, expected, is_swapped):
    pair = (two, one) if is_swapped else (one, two)
    for i, column in enumerate(pair):
        path = write_table({"text": ["a"], "x": column}, name=f"in/{i}.parquet")
    field, values = carried_column(path.parent, "x")
    if expected is None:
        assert schemas.is_json_text(field)
        assert all(isinstance(json.loads(value), (str, int, float, dict)) for value in values)
    elif pa.types.is_struct(expected):
        assert {f.name: f.type for f in field.type} == {f.name: f.type for f in expected}
        assert sorted(values, key=lambda v: str(v["a"])) == [
            {"a": 1, "b": None},
            {"a": None, "b": "x"},
        ]
    else:
        assert field.type == expected
        plain = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in pair]
        assert values == [c.cast(expected)[0].as_py() for c in plain]


def test_reason_of_parquet_files_names_both(write_table):
    write_table({"text": ["a"], "x": [1]}, name="in/1.parquet")
    path = write_table({"text": ["b"], "x": ["s"]}, name="in/2.parquet")
    _, schema = carry(path.parent)
    why = schemas.why_json_text(schema.field("x"))
    assert why == "int64 in 1.parquet and string in 2.parquet"


def test_strings_inside_structs_may_be_no_utf_8(write_table, string_array):
    inside = pa.StructArray.from_arrays([string_array([b"x\xff"])], ["u"])
    write_table({"text": ["a"], "m": inside}, name="in/1.parquet")
    path = write_table({"text": ["b"], "m": ["s"]}, name="in/2.parquet")
    _, values = carried_column(path.parent, "m")
    assert values == [r'{"u": "x\\xff"}', '"s"']


def test_nan_of_a_parquet_file_stays_nan_in_json_text(write_table):
    write_table({"text": ["a"], "x": [{"v": float("nan"), "b": b"\x00"}]}, name="in/1.parquet")
    path = write_table({"text": ["b"], "x": ["s"]}, name="in/2.parquet")
    _, values = carried_column(path.parent, "x")
    assert values == ['{"v": NaN, "b": "AA=="}', '"s"']


@pytest.mark.parametrize(
    "column",
    [
        struct_of({"a": 1}, nullable=False),
        pa.array([[1]], pa.list_(pa.field("item", pa.int64(), nullable=False))),
        pa.array([[{"a": 1}]], pa.list_(struct_of({"a": 1}, nullable=False).type)),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.field("value", pa.int64(), nullable=False))),
        pa.array([[1]], pa.list_(pa.field("item", pa.int64(), nullable=False), 1)),
    ],
    ids=lambda column: str(column.type),
)
def test_required_field_of_a_column_that_another_file_lacks_is_null_there(write_table, column):
    write_table({"text": ["a"], "m": column}, name="in/1.parquet")
    path = write_table({"text": ["b"]}, name="in/2.parquet")
    field, values = carried_column(path.parent, "m")
    assert not schemas.is_json_text(field)
    assert values == [column[0].as_py(), None]


@pytest.mark.parametrize(("whole", "is_text"), [(2**53, False), (2**53 + 1, True)])
def test_late_fractions_join_whole_numbers_of_parquet_that_a_double_holds(
    write_lines, write_table, whole, is_text
):
    write_table({"text": ["p"] * 3, "x": [whole, 1, 2]}, name="in/p.parquet", row_group_size=1)
    path = write_lines(*[document(i) for i in range(GOOD_FIRST)], document(-1, x=0.5))
    field, values = carried_column(path.parent, "x")
    assert schemas.is_json_text(field) == is_text
    assert float(values[-3]) == whole or is_text


def test_statistics_are_asked_for_columns_only_that_meet_doubles(write_table, monkeypatch):
    asked, exact_columns = [], parquet.exact_columns
    monkeypatch.setattr(
        parquet,
        "exact_columns",
        lambda path, names: asked.append(names) or exact_columns(path, names),
    )
    path = write_table({"text": ["a"], "x": [1], "y": [1]}, name="in/1.parquet")
    splits.plan_input([str(path.parent)])
    assert not asked
    write_table({"text": ["a"], "x": [0.5], "y": [1]}, name="in/2.parquet")
    splits.plan_input([str(path.parent)])
    assert asked == [{"x"}]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_json_lines_and_parquet_meet_in_one_column(write_lines, write_table, suffix):
    write_lines(document(0, x={"v": 1}, y=1), name="in/1.jsonl")
    path = write_table({"text": ["b"], "x": ["s"], "y": [0.5]}, name="in/2.parquet")
    written, _ = carry(path.parent, suffix)
    if suffix == "jsonl":
        found = [json.loads(line) for line in written.read_text().splitlines()]
        assert [(row["x"], row["y"]) for row in found] == [({"v": 1}, 1), ("s", 0.5)]
    else:
        table = pq.read_table(written)
        assert table.column("x").to_pylist() == ['{"v": 1}', '"s"']
        assert table.column("y").to_pylist() == [1.0, 0.5]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_selection_is_the_input_of_the_next_run(write_lines, write_table, suffix, tmp_path):
    path, _ = carry(write_lines(document(0, x=1), document(1, x="s")).parent, suffix, weighted=True)
    again = tmp_path / "again"
    again.mkdir()
    path = path.rename(again / f"a.{suffix}")
    written, schema = carry(again, suffix, weighted=True)
    assert output.renamed_columns(schema, True) == {
        "beam_quad": "beam_quad_1",
        "weight": "weight_1",
    }
    if suffix == "parquet":
        table = pq.read_table(written)
        assert (
            table.column("beam_quad_1").to_pylist() == pq.read_table(path)["beam_quad"].to_pylist()
        )
        assert table.column("x").to_pylist() == ["1", '"s"']
        assert schemas.is_json_text(table.schema.field("x"))
        names = table.column_names
    else:
        first, before = (json.loads(p.read_text().splitlines()[0]) for p in (written, path))
        assert first["beam_quad_1"] == before["beam_quad"]
        assert first["x"] == 1
        names = list(first)
    assert names == ["text", "x", "beam_quad_1", "weight_1", "beam_quad", "weight"]


CHOICES = {
    ("id", "m*"): ["text", "id", "m1"],
    ("!raw", "!m?"): ["text", "id"],
    ("*", "!id"): ["text", "raw", "m1", "late"],
    ("!text",): ["text", "id", "raw", "m1", "late"],
}


@pytest.mark.parametrize(("patterns", "kept"), CHOICES.items(), ids=str)
def test_chosen_columns_of_json_lines_are_carried(write_lines, patterns, kept):
    first = [document(i, id="i", raw="<p>", m1={"a": 1}) for i in range(GOOD_FIRST)]
    path = write_lines(*first, document(-1, id="i", late=1))
    table = pq.read_table(carry(path.parent, columns=patterns)[0])
    assert table.column_names == [
        *(n for n in kept if n != "late" or patterns[0] != "!raw"),
        "beam_quad",
    ] or (patterns == ("!raw", "!m?") and table.column_names == ["text", "id", "late", "beam_quad"])
    lines = carry(path.parent, "jsonl", columns=patterns)[0].read_text().splitlines()
    assert list(json.loads(lines[0])) == [*(n for n in kept if n != "late"), "beam_quad"]


def test_columns_left_out_of_parquet_are_not_read(write_table, monkeypatch):
    path = write_table({"text": ["a"], "raw": ["<p>"], "m": [{"raw": 1}]})
    read = []
    iter_batches = pq.ParquetFile.iter_batches

    def watched(self, *args, columns=None, **options):
        read.append(columns)
        return iter_batches(self, *args, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    written, _ = carry(path.parent, columns=["!raw"])
    assert pq.read_schema(written).names == ["text", "m", "beam_quad"]
    assert read == [["text"], ["text", "m"]]


def test_choice_that_names_no_column_is_refused(write_lines):
    path = write_lines(document(0, raw="x"))
    with pytest.raises(
        UsageError, match="--columns: no column is named 'rwa'; there are: text, raw"
    ):
        splits.plan_input([str(path)], columns=["!rwa"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_text_id_and_tokens_may_lie_in_structs(write_lines, write_table, read_all, name):
    found = [{"m": {"t": "a", "k": 5, "in": {"n": 7}}}, {"m": None}]
    if name == "a.jsonl":
        path = write_lines(*[json.dumps(row).encode() for row in found])
    else:
        path = write_table(pa.Table.from_pylist(found))
    options = {"text_column": "m.t", "id_column": "m.k", "tokens_column": "m.in.n"}
    (batch,) = read_all(path, **options)
    assert batch.texts == ["a", None]
    assert batch.ids[0] == "5"
    assert batch.tokens.tolist() == [7, -1]
    with pytest.raises(UsageError, match=r"no column 'm\.x'; pass --text_column, one of: m"):
        splits.plan_input([str(path)], text_column="m.x")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_column_with_dots_in_its_name_comes_before_a_struct(
    write_lines, write_table, read_all, name
):
    row = {"m.t": "flat", "m": {"t": "nested"}}
    if name == "a.jsonl":
        path = write_lines(json.dumps(row).encode())
    else:
        path = write_table(pa.Table.from_pylist([row]))
    (batch,) = read_all(path, text_column="m.t")
    assert batch.texts == ["flat"]
    assert pq.read_table(carry(path.parent, text_column="m.t", columns=["!m"])[0])[
        "m.t"
    ].to_pylist() == ["flat"]


@pytest.mark.parametrize("data_type", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_text_may_be_bytes(write_table, read_all, data_type):
    texts = pa.array(["ü".encode(), b"\xff", None, b"b"], data_type)
    (batch,) = read_all(write_table({"text": texts}), batch_rows=9)
    assert batch.texts == ["ü", None, None, "b"]
    assert [str(reason) for reason in batch.reasons] == [
        "None",
        "invalid_utf8",
        "null_text",
        "None",
    ]


@pytest.mark.parametrize("data_type", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_text_that_is_stored_as_bytes_is_carried_as_text(write_table, data_type):
    path = write_table({"text": pa.array(["ü".encode(), b"b"], data_type), "raw": [b"a", b"c"]})
    (path.parent / "b.jsonl").write_text(json.dumps({"text": "c"}))
    table = pq.read_table(carry(path.parent)[0])
    assert table["text"].to_pylist() == ["ü", "b", "c"]
    assert pa.types.is_binary(table.schema.field("raw").type)
