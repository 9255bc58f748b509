"""What rows say of their licence and their language, counted."""

import pytest

from beam_quad.corpus.labels import count_labels


@pytest.mark.parametrize(
    "others",
    [b'"score": NaN', b'"score": -Infinity', b'"title": "\\ud800"', b'"title": "\xff"', b'"n": ' + b"[" * 2000 + b"]" * 2000],
)  # fmt: skip
def test_rows_that_are_carried_as_they_were_are_counted(tmp_path, others):
    path = tmp_path / "part-0.jsonl"
    path.write_bytes(b'{"language": "de"}\n{"language": "en", ' + others + b"}\n")
    assert count_labels(str(path), ["language"]).named["language"].counts == {"de": 1, "en": 1}
