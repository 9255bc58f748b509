"""The README of the library's rooms: what it names is there, and what it says how to add can be added so."""

import pathlib
import re

import pytest

import beam_quad
from beam_quad.artifacts import files
from beam_quad.bandit import ACCEPTANCES
from beam_quad.corpus import output
from beam_quad.embedding import loading
from beam_quad.stages import run_in_process
from pipelines import chain, options, run_options
from pipelines.inputs import look
from tests.pipelines.world import World, manifest_of, selected

ROOM = pathlib.Path(beam_quad.__file__).parent
README = (ROOM / "README.md").read_text()
SHARED = {"acceptance": "shortlist", "share": "kind=law >= 0.1"}


def code(name: str) -> str:
    """The block of code of that name."""
    found = re.search(rf"```python {re.escape(name)}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def run(name: str, **names) -> dict:
    exec(compile(code(name), name, "exec"), names)
    return names


def test_every_room_is_on_the_page_and_every_link_leads_somewhere():
    rooms = {path.name for path in ROOM.iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"^(\w+)/ ", README, re.MULTILINE)) == rooms
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOM / link).exists(), link


def test_the_stages_of_a_documents_life_leave_their_files_where_the_page_says(
    world: World, tmp_path
):
    names: set[str] = set()
    for name, flags in (
        ("block", {"acceptance": "block"}),
        ("shares", {"acceptance": "block", "share": "kind=law >= 0.3"}),
        ("shortlist", SHARED),
        ("next", SHARED | {"base": tmp_path / "shortlist"}),
    ):
        flags = flags | {"artifacts": tmp_path / "artifacts"}
        world.run(tmp_path / name, **flags)
        parsed, _ = options.parse(world.arguments(tmp_path / name, **flags))
        names |= {stage.name for stage in chain.build(parsed, look(parsed)).stages}
    _, _, table = README.partition("## The life of a document")
    table, _, _ = table.partition("## Extend it")
    for place in re.findall(r"`([a-z_]+/[^`]*)`", table):
        assert list((tmp_path / "artifacts").glob(place.replace("SPLIT", "*"))), place
    assert set(re.findall(r"`([A-Z]\w+[a-z0-9])`", table)) <= names


def test_a_scorer(world: World, tmp_path):
    run("scorer", arguments=world.arguments(tmp_path / "out"))
    assert manifest_of(tmp_path / "out")["counts"]["scored"] == 900
    found = selected(tmp_path / "out")
    assert min(row["influence"] for row in found) > 200  # characters; most texts are shorter


def test_an_embedder(world: World, tmp_path, monkeypatch):
    (tmp_path / "letters.py").write_text(code("embedder letters.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(loading.NAMED, "letters", "letters")
    manifest = world.run(tmp_path / "out", embedder="letters")
    assert manifest["fingerprints"]["embedder"] == "letters:v1"


def test_a_rule_of_acceptance(world: World, tmp_path):
    run("acceptance")
    try:
        world.run(tmp_path / "out", acceptance="helpful", budget_tokens=12_000)
    finally:
        del ACCEPTANCES["helpful"]
    assert min(row["block_influence"] for row in selected(tmp_path / "out")) >= 0


def test_an_output_format(world: World, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "WRITERS", dict(output.WRITERS))
    monkeypatch.setitem(run_options.OUTPUT_FORMATS, "names", "txt")
    run("format")
    manifest = world.run(tmp_path / "out", output_format="names", policy="random")
    parts = sorted((tmp_path / "out" / "selected").glob("*.txt"))
    ids = [line for part in parts for line in part.read_text().splitlines()]
    assert len(set(ids)) == len(ids) == manifest["counts"]["selected"]


def test_every_format_that_a_flag_names_has_a_writer():
    assert {*output.WRITERS, "bin"} == {*run_options.OUTPUT_FORMATS.values()}


def test_a_flag(world: World, tmp_path):
    found = run("flag", arguments=world.arguments(tmp_path / "out"))
    assert found["values"]["max_characters"] == 5000


@pytest.mark.parametrize("longer_than", [0, 30])
def test_a_stage(world: World, tmp_path, longer_than):
    parsed, _ = options.parse(world.arguments(tmp_path / "out"))
    built = chain.build(parsed, look(parsed))
    built.write_plans()
    embed = built.stages[0]
    stage = run("stage")["CountLong"](embed.corpus, longer_than)
    run_in_process([embed, stage])
    rows = [embed.corpus.rows(split) for split in embed.corpus.splits()]
    assert stage.load() == sum(int((each.tokens > longer_than).sum()) for each in rows) > 0
    assert files.exists(stage.artifact)
