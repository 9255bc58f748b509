import dataclasses
import json
import re

import pytest

from pipelines import options
from pipelines.demo import command, evaluation, noise, summary


@pytest.mark.slow
def test_the_quick_demo_selects_and_a_second_run_goes_on_where_it_stopped(tmp_path, capsys):
    assert command.main(["--quick", "--prepare_only", f"--output={tmp_path}"]) == 0
    prepared = capsys.readouterr().out
    assert "beam-quad select" in prepared
    model = (tmp_path / "proxy" / "model.safetensors").stat().st_mtime_ns
    assert command.main(["--quick", f"--output={tmp_path}"]) == 0
    table = capsys.readouterr().out
    assert "held-out query loss" in table
    for name in (command.OURS, *command.RIVALS, evaluation.RANDOM):
        assert re.search(rf"^  {re.escape(name)} +\d\.\d\d\d", table, re.MULTILINE)
    assert (tmp_path / "selection-scratch-8000" / "report.html").exists()
    assert (tmp_path / "proxy" / "model.safetensors").stat().st_mtime_ns == model


def test_another_seed_in_the_same_folder_is_refused(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.json").write_text(json.dumps({"settings": {}}))
    assert command.main(["--quick", f"--output={tmp_path}"]) == 2
    assert "pass another --output" in capsys.readouterr().err


def test_losses_are_kept_for_the_same_model_recipe_and_selections_alone(tmp_path, monkeypatch):
    measured = []

    def held_out_loss(model, selections, documents, heldout, recipe, num_seeds, *rest):
        measured.append((recipe, num_seeds))
        return evaluation.HeldOutLoss(float(len(measured)), {"ours": (1.0,)})

    monkeypatch.setattr(evaluation, "held_out_loss", held_out_loss)
    monkeypatch.setattr(command.corpus, "read_jsonl", lambda path: [])
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "config.json").write_text("{}")
    size = command.QUICK
    demo = command.Demo(tmp_path, size, 1000, "medicine", "scratch", 0, command.Clock())

    def before(size=size, texts=("a text",)):
        return dataclasses.replace(demo, size=size).evaluate([], {"ours": texts}).before

    assert [before(), before()] == [1, 1]
    faster = dataclasses.replace(size.evaluation, learning_rate=1e-3)
    assert before(dataclasses.replace(size, evaluation=faster)) == 2
    assert before(dataclasses.replace(size, num_seeds=2)) == 3
    assert before(texts=("another",)) == 4
    (tmp_path / "proxy" / "config.json").write_text("{ }")
    assert before() == 5
    assert len(measured) == 5


@pytest.mark.parametrize("size", [command.FULL, command.QUICK])
def test_the_arguments_are_ones_that_quad_takes(size, tmp_path):
    demo = command.Demo(tmp_path, size, 1000, "medicine", "scratch", 0, command.Clock())
    parsed, rest = options.parse(demo.quad_arguments())
    assert (parsed.budget_tokens, rest) == (1000, [])


def test_the_table_shows_shares_and_losses():
    sources = ["news"] * 60 + ["law"] * 30 + [next(iter(noise.NOISE))] * 10
    manifest = {
        "counts": {"read": 105, "scored": 20, "selected": 10, "rejected": 5},
        "tokens": {"selected": 999, "budget": 1000},
    }
    after = {"ours": (4.0, 4.2), "theirs": (4.5, 4.5), evaluation.RANDOM: (4.6, 4.8)}
    losses = evaluation.HeldOutLoss(5.0, after)
    lines = summary.render(sources, ["law"] * 9 + ["news"], manifest, losses).splitlines()
    assert lines[1].split() == ["law", "30.0%", "90.0%"]
    assert lines[3].split()[-2:] == ["10.0%", "0.0%"]
    shown = [
        line.split() for line in lines if line.split()[:1] in (["random"], ["theirs"], ["ours"])
    ]
    assert shown == [
        ["random", "4.700", "±", "0.141"],
        ["theirs", "4.500", "±", "0.000", "0.200"],
        ["ours", "4.100", "±", "0.141", "0.600"],
    ]
