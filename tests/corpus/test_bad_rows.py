"""Every kind of bad row is rejected, with its reason, and takes no other row with it."""

import pytest

from beam_quad.corpus import splits
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.rows import read_rows
from beam_quad.records import Reason

GOOD = (
    b'{"text": "good", "id": "g", "n": 7, "x": 1, "d": 0.5, "b": true, "s": {"k": [1]}, "z": null}'
)

# What follows "text", "id" and "n" in a row that is good but for one thing.
TAIL = b', "id": "i", "n": 1}'

JSON_CASES = {
    "null text": (b'{"text": null' + TAIL, Reason.NULL_TEXT),
    "no text": (b'{"id": "i", "n": 1}', Reason.NULL_TEXT),
    "empty text": (b'{"text": ""' + TAIL, Reason.EMPTY_TEXT),
    "blank text": (b'{"text": " \\n\\t"' + TAIL, Reason.EMPTY_TEXT),
    "no-break spaces": (b'{"text": "\\u00a0\\u2003"' + TAIL, Reason.EMPTY_TEXT),
    "integer text": (b'{"text": 5' + TAIL, Reason.NOT_A_STRING),
    "float text": (b'{"text": 5.5' + TAIL, Reason.NOT_A_STRING),
    "bool text": (b'{"text": true' + TAIL, Reason.NOT_A_STRING),
    "list text": (b'{"text": ["a"]' + TAIL, Reason.NOT_A_STRING),
    "object text": (b'{"text": {"a": 1}' + TAIL, Reason.NOT_A_STRING),
    "cut object": (b'{"text": "a"', Reason.MALFORMED_JSON),
    "cut string": (b'{"text": "a', Reason.MALFORMED_JSON),
    "two objects": (b'{"text": "a"} {"text": "b"}', Reason.MALFORMED_JSON),
    "comma at the end": (b'{"text": "a",}', Reason.MALFORMED_JSON),
    "single quotes": (b"{'text': 'a'}", Reason.MALFORMED_JSON),
    "raw control character": (b'{"text": "a\x01b"' + TAIL, Reason.MALFORMED_JSON),
    "raw NUL": (b'{"text": "a\x00b"' + TAIL, Reason.MALFORMED_JSON),
    "bad escape": (b'{"text": "\\q"' + TAIL, Reason.MALFORMED_JSON),
    "not JSON": (b"once upon a time", Reason.MALFORMED_JSON),
    "array": (b'["a"]', Reason.MALFORMED_JSON),
    "string": (b'"a"', Reason.MALFORMED_JSON),
    "number": (b"5", Reason.MALFORMED_JSON),
    "null": (b"null", Reason.MALFORMED_JSON),
    "too deep": (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", Reason.MALFORMED_JSON),
    "Latin-1": (b'{"text": "caf\xe9"' + TAIL, Reason.INVALID_UTF8),
    "cut character": (b'{"text": "\xe2\x82"' + TAIL, Reason.INVALID_UTF8),
    "overlong": (b'{"text": "\xc0\xaf"' + TAIL, Reason.INVALID_UTF8),
    "surrogate bytes": (b'{"text": "\xed\xa0\x80"' + TAIL, Reason.INVALID_UTF8),
    "bad bytes in another field": (b'{"text": "a", "id": "\xff", "n": 1}', Reason.INVALID_UTF8),
    "high surrogate escape": (b'{"text": "\\ud800"' + TAIL, Reason.INVALID_UTF8),
    "low surrogate escape": (b'{"text": "\\udc00 a"' + TAIL, Reason.INVALID_UTF8),
    "null id": (b'{"text": "a", "id": null, "n": 1}', Reason.NULL_ID),
    "no id": (b'{"text": "a", "n": 1}', Reason.NULL_ID),
    "empty id": (b'{"text": "a", "id": "", "n": 1}', Reason.NULL_ID),
    "null tokens": (b'{"text": "a", "id": "i", "n": null}', Reason.BAD_TOKENS),
    "no tokens": (b'{"text": "a", "id": "i"}', Reason.BAD_TOKENS),
    "negative tokens": (b'{"text": "a", "id": "i", "n": -1}', Reason.BAD_TOKENS),
    "half a token": (b'{"text": "a", "id": "i", "n": 1.5}', Reason.BAD_TOKENS),
    "string tokens": (b'{"text": "a", "id": "i", "n": "7"}', Reason.BAD_TOKENS),
    "bool tokens": (b'{"text": "a", "id": "i", "n": true}', Reason.BAD_TOKENS),
    "huge tokens": (b'{"text": "a", "id": "i", "n": 9223372036854775808}', Reason.BAD_TOKENS),
    "fractional id": (b'{"text": "a", "id": 1.5, "n": 1}', Reason.SCHEMA_MISMATCH),
    "bool id": (b'{"text": "a", "id": true, "n": 1}', Reason.SCHEMA_MISMATCH),
    "id out of range": (b'{"text": "a", "id": 1e999, "n": 1}', Reason.SCHEMA_MISMATCH),
    "NaN tokens": (b'{"text": "a", "id": "i", "n": NaN}', Reason.BAD_TOKENS),
}  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), JSON_CASES.values(), ids=list(JSON_CASES))
def test_bad_json_row_is_rejected_and_its_neighbours_are_not(write_lines, read_all, line, reason):
    # A thousand good rows are what planning looks at, so that the bad one is what differs.
    path = write_lines(*[GOOD] * 1000, line, GOOD)
    *_, batch = read_all(path, batch_rows=1000, id_column="id", tokens_column="n")
    assert batch.reasons == [reason, None]
    assert batch.texts == [None, "good"]
    assert batch.details[0]
    assert batch.tokens.tolist() == [-1, 7]
    assert batch.ids[1] == "g"


GOOD_JSON = {
    "NUL": (b'{"text": "a\\u0000b"}', "a\0b"),
    "surrogate pair": (b'{"text": "\\ud83d\\ude00"}', "😀"),
    "carriage return at the end": (b'{"text": "a"}\r', "a"),
    "spaces around": (b'  {"text": "a"}\t ', "a"),
    "line separator inside": ('{"text": "a\u2028b"}'.encode(), "a\u2028b"),
    "key given twice": (b'{"text": "a", "text": "b"}', "b"),
    "NaN": (b'{"text": "a", "d": NaN}', "a"),
    "Infinity": (b'{"text": "a", "d": [Infinity, -Infinity]}', "a"),
    "number out of range": (b'{"text": "a", "d": 1e999}', "a"),
    "more digits than Python reads": (b'{"text": "a", "d": ' + b"7" * 5000 + b"}", "a"),
    "mark of byte order": (b'\xef\xbb\xbf{"text": "a"}', "a"),
    "deep nesting": (b'{"text": "a", "d": ' + b"[" * 900 + b"]" * 900 + b"}", "a"),
    "nesting beyond all parsers": (b'{"text": "a", "d": ' + b"[" * 9000 + b"]" * 9000 + b"}", "a"),
    "bad bytes elsewhere": (b'{"text": "a", "url": "caf\xe9"}', "a"),
    "half a surrogate pair elsewhere": (b'{"text": "a", "m": {"u": ["\\ud800"]}}', "a"),
    "key of bad bytes": (b'{"text": "a", "\xff": 1}', "a"),
    "very long": (b'{"text": "' + b"x" * 5_000_000 + b'"}', "x" * 5_000_000),
}


@pytest.mark.parametrize(("line", "text"), GOOD_JSON.values(), ids=list(GOOD_JSON))
def test_odd_but_good_json_row_is_read(write_lines, read_all, line, text):
    (batch,) = read_all(write_lines(line, b'{"text": "next"}'))
    assert batch.texts == [text, "next"]
    assert batch.reasons == [None, None]


PARQUET_CASES = {
    "null": (None, Reason.NULL_TEXT),
    "empty": (b"", Reason.EMPTY_TEXT),
    "blank": (b" \r\n", Reason.EMPTY_TEXT),
    "Latin-1": (b"caf\xe9", Reason.INVALID_UTF8),
    "surrogate": (b"\xed\xa0\x80", Reason.INVALID_UTF8),
    "cut character": (b"\xf0\x9f\x98", Reason.INVALID_UTF8),
}


@pytest.mark.parametrize(("raw", "reason"), PARQUET_CASES.values(), ids=list(PARQUET_CASES))
def test_bad_parquet_text_is_rejected_alone(write_table, read_all, string_array, raw, reason):
    texts = string_array([b"a", raw, "ünï\0".encode()])
    (batch,) = read_all(write_table({"text": texts}))
    assert batch.reasons == [None, reason, None]
    assert batch.texts == ["a", None, "ünï\0"]


def test_parquet_ids_and_tokens_are_checked(write_table, read_all):
    columns = {"text": list("abcd"), "key": [1, None, 3, 4], "n": [5.0, 6.0, None, -2.0]}
    batches = read_all(write_table(columns), id_column="key", tokens_column="n", batch_rows=9)
    (batch,) = batches
    assert batch.reasons == [None, Reason.NULL_ID, Reason.BAD_TOKENS, Reason.BAD_TOKENS]
    assert batch.ids == ["1", "a.parquet#1", "3", "4"]
    assert batch.tokens.tolist() == [5, -1, -1, -1]


def test_invalid_id_bytes_are_rejected(write_table, read_all, string_array):
    columns = {"text": ["a", "b"], "key": string_array([b"\xff", b"ok"])}
    (batch,) = read_all(write_table(columns), id_column="key")
    assert batch.reasons == [Reason.INVALID_UTF8, None]
    assert batch.ids == ["a.parquet#0", "ok"]


def test_blank_lines_are_no_rows(write_lines, read_all):
    lines = [b"", b'{"text": "a"}', b"  \t\r", b'{"text": null}', b"\r", b'{"text": "b"}', b""]
    (batch,) = read_all(write_lines(*lines))
    assert batch.ids == ["a.jsonl#0", "a.jsonl#1", "a.jsonl#2"]
    assert batch.texts == ["a", None, "b"]


def test_byte_order_mark_at_the_start_is_skipped(write_lines, read_all):
    (batch,) = read_all(write_lines(b'\xef\xbb\xbf{"text": "a"}'))
    assert batch.texts == ["a"]


def test_file_without_a_last_newline_keeps_its_last_row(tmp_path, read_all):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "b"}')
    (batch,) = read_all(tmp_path)
    assert batch.texts == ["a", "b"]


def test_a_text_column_of_mixed_types_is_no_schema_error(write_lines, read_all):
    (batch,) = read_all(write_lines(b'{"text": 1}', b'{"text": "a"}', b'{"text": [2]}'))
    assert batch.texts == [None, "a", None]


def test_an_id_that_no_double_holds_is_called_a_number(write_lines, read_all):
    (batch,) = read_all(write_lines(b'{"text": "a", "key": 1e999}'), id_column="key")
    assert batch.details == ["the id is a number beyond 64 bits, neither string nor integer"]


def test_integer_ids_of_any_size_are_exact(write_lines, read_all):
    lines = [b'{"text": "a", "key": %d}' % value for value in (7, 2**64 + 1, -(2**70) - 3)]
    (batch,) = read_all(
        write_lines(*lines, b'{"text": "b", "key": "s"}'), id_column="key", batch_rows=9
    )
    assert batch.ids == ["7", str(2**64 + 1), str(-(2**70) - 3), "s"]


def test_blank_lines_with_a_mark_of_byte_order_are_no_rows(write_lines, read_all):
    (batch,) = read_all(write_lines(b'{"text": "a"}', b"\xef\xbb\xbf\r", b'{"text": "b"}'))
    assert batch.ids == ["a.jsonl#0", "a.jsonl#1"]


def test_details_are_one_short_line(write_lines, read_all):
    line = b'{"text": "a", "n": "' + b"\\nk" * 1000 + b'"}'
    path = write_lines(*[b'{"text": "a", "n": 1}'] * 1000, line)
    *_, batch = read_all(path, batch_rows=1000, tokens_column="n")
    assert 0 < len(batch.details[0]) <= 200
    assert "\n" not in batch.details[0]


def test_a_line_of_100_megabytes_is_read(write_lines):
    path = write_lines(b'{"text": "' + b"y" * 100_000_000 + b'"}', b'{"text": "b"}')
    plan = splits.plan_input([str(path)])
    (batch,) = read_rows(plan.splits[0], Columns(), 8)
    assert len(batch.texts[0]) == 100_000_000
    assert batch.texts[1] == "b"
