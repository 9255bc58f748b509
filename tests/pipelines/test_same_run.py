"""The same run, however its command is spelled and wherever its input lies; and what another run is refused for."""

import os
import pathlib
import shutil

import pytest

from beam_quad.stages.read.embed import EmbedExamples
from pipelines import quad
from tests.pipelines.world import World, output_bytes, selected

RANDOM = {"policy": "random", "query": None}


def _arguments(world: World, output: pathlib.Path, **flags: object) -> list[str]:
    return world.arguments(output, **(RANDOM | flags))


@pytest.fixture(scope="module")
def small(world, tmp_path_factory) -> World:
    """A corpus of two small shards, and the proxy."""
    root = tmp_path_factory.mktemp("small")
    (root / "corpus").mkdir()
    for name in ("part-2.jsonl", "part-3.jsonl"):
        lines = (pathlib.Path(world.corpus) / name).read_bytes().splitlines(keepends=True)
        (root / "corpus" / name).write_bytes(b"".join(lines[:40]))
    shutil.copytree(world.proxy, root / "proxy")
    return World(root)


@pytest.fixture(scope="module")
def drawn(small, tmp_path_factory) -> pathlib.Path:
    """The output of a random draw."""
    output = tmp_path_factory.mktemp("drawn") / "out"
    assert quad.main(_arguments(small, output, budget_tokens=300)) == 0
    return output


def _spelled_otherwise(small: World, tmp_path: pathlib.Path, how: str) -> dict[str, object]:
    if how == "moved proxy":
        shutil.copytree(small.proxy, tmp_path / "moved")
        return {"proxy_model": tmp_path / "moved"}
    if how == "copied corpus":
        shutil.copytree(small.corpus, tmp_path / "copy", copy_function=shutil.copyfile)
        return {"input": tmp_path / "copy"}
    return {
        "relative": {"input": os.path.relpath(small.corpus)},
        "slash": {"input": f"{small.corpus}/", "proxy_model": f"{small.proxy}/"},
        "glob": {"input": f"{small.corpus}/*.jsonl"},
        "list": {"input": f"{small.corpus}/part-3.jsonl,{small.corpus}/part-2.jsonl"},
        "defaults": {"query_text_column": "text", "input_root": small.corpus, "seed": 0},
    }[how]


@pytest.mark.parametrize(
    "how", ["relative", "slash", "glob", "list", "defaults", "moved proxy", "copied corpus"]
)
def test_a_command_that_is_spelled_otherwise_is_the_same_run(small, drawn, tmp_path, how, capsys):
    flags = _spelled_otherwise(small, tmp_path, how)
    assert quad.main(_arguments(small, drawn, budget_tokens=300, **flags)) == 0
    assert "complete already" in capsys.readouterr().out


def test_the_manifest_does_not_depend_on_how_a_command_is_spelled(small, drawn, tmp_path):
    flags = {"input": f"{os.path.relpath(small.corpus)}/*.jsonl", "proxy_model": f"{small.proxy}/"}
    output = tmp_path / "out"
    assert quad.main(_arguments(small, output, budget_tokens=300, **flags)) == 0
    assert output_bytes(output) == output_bytes(drawn)


def test_a_corpus_that_was_touched_is_not_read_again(small, drawn, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    shutil.copytree(small.corpus, corpus)
    for path in corpus.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.setattr(EmbedExamples, "do", lambda *_: pytest.fail("a split was read"))
    flags = {"input": corpus, "artifacts": drawn / "_run", "budget_tokens": 200}
    assert quad.main(_arguments(small, tmp_path / "out", **flags)) == 0


def test_a_corpus_of_other_content_of_the_same_size_is_another_input(
    small, drawn, tmp_path, capsys
):
    corpus = tmp_path / "corpus"
    shutil.copytree(small.corpus, corpus)
    path = corpus / "part-2.jsonl"
    path.write_bytes(path.read_bytes().replace(b"biology1", b"biology2", 1))
    assert quad.main(_arguments(small, drawn, input=corpus, budget_tokens=300)) == 2
    assert "--input holds other files, or files of other content" in capsys.readouterr().err


def test_a_refusal_names_what_differs_and_where_the_artifacts_are(small, drawn, tmp_path, capsys):
    assert quad.main(_arguments(small, drawn, budget_tokens=301)) == 2
    said = capsys.readouterr().err
    assert "--budget_tokens was 300 and is 301; pass" in said
    assert f"--artifacts={drawn}/_run to reuse" in said
    shared = {"artifacts": drawn / "_run"}
    small.launch(tmp_path / "out", **RANDOM, **shared, budget_tokens=200)
    assert quad.main(_arguments(small, tmp_path / "out", **shared, budget_tokens=301)) == 2
    assert f"--artifacts={drawn}/_run to reuse" in capsys.readouterr().err


def test_an_output_whose_selection_is_gone_takes_another_command_and_writes_all_of_it(
    small, drawn, tmp_path
):
    output = tmp_path / "out"
    shutil.copytree(drawn / "_run", output / "_run")
    manifest = small.launch(output, **RANDOM, budget_tokens=200)
    assert manifest["budget"]["amount"] == 200
    assert manifest["tokens"]["selected"] == sum(row["tokens"] for row in selected(output))
    assert 200 <= manifest["tokens"]["selected"] < 260


def test_parts_that_were_deleted_are_written_again(small, drawn, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(drawn / "_run", output / "_run")
    small.launch(output, **RANDOM, budget_tokens=300)
    assert output_bytes(output) == output_bytes(drawn)


def test_a_manifest_of_another_program_is_not_taken_for_ours(small, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text("[1]")
    assert quad.main(_arguments(small, tmp_path, budget_tokens=300)) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
