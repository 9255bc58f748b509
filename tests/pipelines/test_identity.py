"""What makes two commands the same run."""

import dataclasses
import json

import pytest

from beam_quad.artifacts import files
from beam_quad.errors import UsageError
from beam_quad.stages.quad.shortlist import RankShortlist
from beam_quad.stages.refresh.base import record_path
from pipelines import chain, options
from pipelines.identity import Identity
from pipelines.inputs import look
from pipelines.outputs import SelectionOutput

CONFIG = {"budget_tokens": 100, "tau": None, "input": "/a", "proxy_model": "/p"}
PRINTS = {"proxy": "p", "embedder": "e", "query": {"query": "q"}}


def make(snapshot="s", config=(), prints=()) -> Identity:
    return Identity.of(CONFIG | dict(config), PRINTS | dict(prints), snapshot, "corpus")


def test_where_the_input_and_the_proxy_are_decides_nothing():
    moved = make(config={"input": "/b", "proxy_model": "/elsewhere"})
    assert moved.configuration == make().configuration


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make(config={"budget_tokens": 50}), "--budget_tokens was 50 and is 100"),
        (make(config={"tau": 0.5}), "--tau was 0.5 and is not given"),
        (make(prints={"proxy": "other"}), "--proxy_model holds another model"),
        (make(prints={"query": {"query": "other"}}), "--query holds other texts"),
        (make("other"), "--input holds other files, or files of other content"),
        (make(), "it was made by another version of beam_quad"),
    ],
)
def test_what_sets_two_runs_apart_is_said(other, words):
    assert make().difference(json.loads(other.to_bytes())) == words


def test_of_many_differences_the_first_are_named():
    config = {f"flag{number}": 0 for number in range(5)}
    found = json.loads(make(config=dict.fromkeys(config, 1)).to_bytes())
    words = make(config=config).difference(found)
    assert words.endswith("--flag2 was 1 and is 0, and 2 more")


def test_another_version_of_a_stage_makes_another_selection_of_the_same_configuration(
    world, tmp_path, monkeypatch
):
    def build() -> Identity:
        parsed, _ = options.parse(world.arguments(tmp_path / "out", acceptance="shortlist"))
        return chain.build(parsed, look(parsed)).identity

    before = build()
    assert build() == before
    monkeypatch.setattr(RankShortlist, "version", RankShortlist.version + 1)
    assert build().selection != before.selection
    assert build().configuration == before.configuration


@pytest.mark.parametrize("says", [True, False])
def test_parts_of_another_versions_selection_are_not_taken_for_ones_own(tmp_path, says):
    output, result = str(tmp_path / "out"), SelectionOutput()
    old, new = (dataclasses.replace(make(), selection=name) for name in ("old", "new"))
    result.begin(output, old)
    if not says:
        begun = tmp_path / "out" / "_run" / "configuration"
        found = json.loads(begun.read_text())
        found.pop("selection")
        begun.write_text(json.dumps(found))
    files.write(f"{output}/selected/part-0.parquet", b"rows")
    with pytest.raises(UsageError, match="made by another version of beam_quad; pass a new --out"):
        result.check(output, new)
    # A finished output stays what it is.
    files.write(f"{output}/COMPLETE", b"")
    assert result.check(output, new)


def test_without_a_part_a_run_of_another_version_begins_anew_and_ones_own_is_resumed(tmp_path):
    output, result = str(tmp_path / "out"), SelectionOutput()
    old, new = (dataclasses.replace(make(), selection=name) for name in ("old", "new"))
    result.begin(output, old)
    record = record_path(output, old.configuration, "part-0")
    files.write(record, b"{}")
    assert not result.check(output, new)
    result.begin(output, new)
    assert not files.exists(record)
    files.write(record, b"{}")
    files.write(f"{output}/selected/part-0.parquet", b"rows")
    assert not result.check(output, new)
    result.begin(output, new)
    assert files.exists(record)
