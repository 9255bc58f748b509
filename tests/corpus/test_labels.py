"""What rows say of their licence and their language, counted."""

import itertools

import pytest

from beam_quad.corpus.labels import LabelCounts, count_labels


@pytest.mark.parametrize(
    "others",
    [b'"score": NaN', b'"score": -Infinity', b'"title": "\\ud800"', b'"title": "\xff"', b'"n": ' + b"[" * 2000 + b"]" * 2000],
)  # fmt: skip
def test_rows_that_are_carried_as_they_were_are_counted(tmp_path, others):
    path = tmp_path / "part-0.jsonl"
    path.write_bytes(b'{"language": "de"}\n{"language": "en", ' + others + b"}\n")
    assert count_labels(str(path), ["language"]).named["language"].counts == {"de": 1, "en": 1}


def test_a_column_of_very_many_values_is_counted_as_one_in_any_order():
    parts = [
        LabelCounts({f"https://{i}": 1 for i in range(first, first + 6000)})
        for first in (0, 3000, 6000)
    ]
    for a, b, c in itertools.permutations(parts):
        assert (a + b + c).counts == (a + (b + c)).counts == {"more than 10,000 values": 18_000}
    assert len((parts[0] + parts[1]).counts) == 9000
