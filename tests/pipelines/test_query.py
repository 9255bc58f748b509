"""How many texts of the query set are used, and what is said of the others."""

import pathlib

import pytest

from pipelines import influence_distillation, quad
from tests.pipelines.world import manifest_of

GOOD = b'{"text": "biology1 biology2 biology3"}\n'


@pytest.fixture
def query(tmp_path) -> pathlib.Path:
    """Two texts that can be used, and one for each of six reasons that cannot."""
    folder = tmp_path / "query"
    folder.mkdir()
    bad = b'{"text": 1\n{"text": null}\n{"text": ""}\n{"text": "biology1"}\n'
    (folder / "a.jsonl").write_bytes(GOOD * 2 + bad)
    (folder / "b.txt").write_bytes("biology1 biology2".encode("utf-16"))
    (folder / "c.txt").write_bytes("biology1 biology2".encode("utf-16-le"))
    (folder / "d.txt").write_bytes(b"caf\xe9 biology2")
    return folder


UNUSED = {"empty_text": 1, "invalid_utf8": 3, "malformed_json": 1, "null_text": 1}


@pytest.mark.parametrize(
    ("main", "policy", "unused"),
    [
        (quad.main, "influence_top_k", {**UNUSED, "too_short": 1}),
        (quad.main, "dsir", UNUSED),
        (quad.main, "similarity", UNUSED),
        (quad.main, "loss_drop", {**UNUSED, "too_short": 1}),
        (influence_distillation.main, None, {**UNUSED, "too_short": 1}),
    ],
)
def test_unused_texts_are_counted_by_reason(world, query, tmp_path, capsys, main, policy, unused):
    output = tmp_path / "out"
    flags = {"query": None, "query_group": f"own={query}", "curvature": "identity"}
    if policy is None:
        arguments = world.distillation_arguments(output, **flags)
    else:
        arguments = world.arguments(output, policy=policy, **flags)
    assert main(arguments) == 0
    used = 9 - sum(unused.values())
    assert manifest_of(output)["query"] == {"own": {"used": used, "unused": unused}}
    told = capsys.readouterr()
    line = f"warning: {used} of 9 texts of query group own are used, {9 - used} cannot be: 1 empty"
    assert line in told.err
    assert "; check --query_group=own" in told.err
    assert line in told.out
    assert f"{used} of 9 texts of query group own" in (output / "report.html").read_text()


def test_a_query_of_good_texts_is_no_warning(world, tmp_path, capsys):
    assert quad.main(world.arguments(tmp_path / "out", plan=True)) == 0
    told = capsys.readouterr().err
    assert "25 of 25 query texts are used\n" in told
    assert "warning" not in told


@pytest.mark.parametrize("text", ["biology1", ""])
def test_a_group_without_a_usable_text_is_refused(world, tmp_path, capsys, text):
    (tmp_path / "q.jsonl").write_text(f'{{"text": "{text}"}}\n')
    flags = {"query": None, "query_group": f"own={tmp_path}/q.jsonl"}
    assert quad.main(world.arguments(tmp_path / "out", **flags)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --query_group=own: no usable text in ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_of_a_large_query_set_the_first_texts_are_looked_at(world, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_bytes(b'{"text": "biology1"}\n' * 3000 + GOOD * 2000)
    arguments = world.arguments(tmp_path / "out", query=tmp_path / "q.jsonl", plan=True)
    assert quad.main(arguments) == 0
    told = capsys.readouterr().err
    assert "(of the first that were looked at)" in told
    assert "too_short" in told
