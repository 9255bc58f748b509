"""The command of Influence Distillation: how it is launched and refused."""

import pathlib

import pytest
import torch

from beam_quad.gradients.optimizer import export_optimizer_state
from beam_quad.stages.distillation.propagate import Propagate
from beam_quad.stages.distillation.score_landmarks import ScoreLandmarks
from pipelines import influence_distillation
from tests.pipelines.world import output_bytes, selected_ids, selected_rows

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
KINDS = ("biology", "law", "code")


def _export_state(world, path, scale):
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(world.proxy)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = scale(parameter)
    optimizer.step()
    export_optimizer_state(model, optimizer, path)


def _die(*_):
    raise RuntimeError("pulled the plug")


def test_where_the_corpus_has_less_than_is_asked_for_all_is_taken_and_the_run_says_so(
    world, tmp_path, capsys
):
    flags = {"budget_tokens": 1_000_000, "num_landmarks": 5000, "weighted": True}
    everything = world.launch_distillation(tmp_path / "out", **flags)
    assert everything["counts"]["selected"] == everything["counts"]["scored"] == 900
    assert "missing" in everything["shortfall"]
    for told in (capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()):
        assert "ll 900 usable examples are landmarks" in told


def test_the_selection_depends_neither_on_the_order_of_files_nor_on_bundles(
    world, targets, distilled, tmp_path
):
    shards = [str(shard) for shard in sorted(pathlib.Path(world.corpus).iterdir(), reverse=True)]
    flags = {"input": shards, "query": None, "query_group": targets, "weighted": True}
    # Every bundle is done twice.
    world.launch_distillation(tmp_path / "out", "--direct_runner_bundle_repeat=1", **flags)
    assert selected_ids(tmp_path / "out") == selected_ids(distilled)


def test_a_run_that_dies_goes_on_with_what_is_finished(
    world, targets, distilled, tmp_path, monkeypatch
):
    flags = {"query": None, "query_group": targets, "weighted": True}
    with monkeypatch.context() as dying:
        dying.setattr(Propagate, "do", _die)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            influence_distillation.main(world.distillation_arguments(tmp_path / "out", **flags))
    with monkeypatch.context() as finished:
        finished.setattr(ScoreLandmarks, "do", _die)
        world.distill(tmp_path / "out", **flags)
    assert output_bytes(tmp_path / "out") == output_bytes(distilled)


def test_the_moments_of_an_optimizer_count_and_are_part_of_the_configuration(
    world, tmp_path, targets
):
    state = tmp_path / "state.safetensors"
    flags = {"query": None, "query_group": targets, "curvature": "identity", "weighted": True}
    world.distill(tmp_path / "plain", **flags)
    flags |= {"optimizer_state": state, "artifacts": tmp_path / "artifacts"}
    _export_state(world, state, scale=lambda parameter: torch.ones_like(parameter))
    world.distill(tmp_path / "even", **flags)
    assert selected_ids(tmp_path / "even") == selected_ids(tmp_path / "plain")
    _export_state(world, state, scale=lambda parameter: torch.rand_like(parameter) ** 4)
    arguments = world.distillation_arguments(tmp_path / "even", **flags)
    assert (
        influence_distillation.main(arguments) == 2
    )  # another configuration, by the file's version
    manifest = world.distill(tmp_path / "uneven", **flags)
    assert selected_ids(tmp_path / "uneven") != selected_ids(tmp_path / "plain")
    weights = [row["weight"] for row in selected_rows(tmp_path / "uneven")]
    counts = manifest["counts"]
    assert min(weights) > 0
    assert sum(weights) == pytest.approx(counts["read"] - counts["rejected"], rel=1e-9)


def test_a_corpus_without_a_usable_text_is_said_in_one_line(world, tmp_path, capsys):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": ""}\n{"text": null}\n{"text": "law1"}\n')
    arguments = world.distillation_arguments(
        tmp_path / "out", input=tmp_path / "corpus", curvature="identity"
    )
    assert influence_distillation.main(arguments) == 2
    assert "nothing can be propagated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"budget_examples": 5}, "pass one of --budget_tokens and --budget_examples"),
        ({"budget_tokens": None}, "pass one of --budget_tokens and --budget_examples"),
        ({"query": None}, "needs --query"),
        ({"proxy_model": None}, "--proxy_model"),
        ({"num_landmarks": 0}, "--num_landmarks must be at least 1"),
        ({"optimizer_state": "nowhere", "curvature": "identity"}, "export_optimizer_state"),
        ({"optimizer_state": "nowhere"}, "pass --curvature=identity"),
        ({"optimizer_state": __file__, "curvature": "identity"}, "is no optimizer state"),
        ({"order": 2, "budget_tokens": None, "budget_examples": 30_000}, "at most 20,000"),
        ({"num_clusters": 5}, "unknown flag --num_clusters"),
        ({"bugdet": 5}, "unknown flag --bugdet: neither ours nor Beam's; see --help"),
    ],
)
def test_a_command_that_cannot_be_is_one_line(world, tmp_path, capsys, flags, words):
    arguments = world.distillation_arguments(tmp_path / "out", **flags)
    assert influence_distillation.main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    assert words in message
    assert not (tmp_path / "out").exists()
