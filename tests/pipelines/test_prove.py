"""The proof of a selection, in a plain loop and on Beam."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from beam_quad import proof
from beam_quad.errors import UsageError
from beam_quad.stages import run_in_process
from beam_quad.stages.proof.measured import DrawMeasured
from beam_quad.stages.proof.train import TrainOn
from pipelines import prove, prove_chain, prove_options, prove_plan, quad
from pipelines.inputs import look
from tests.pipelines.world import World, read_texts

SHORT = ("--policies=perplexity", "--seeds=2", "--proof_tokens=1500", "--threads=1")


@pytest.fixture(scope="module")
def selected(world: World, tmp_path_factory) -> pathlib.Path:
    """A finished selection for which a fifth of the query was set aside."""
    output = tmp_path_factory.mktemp("selected") / "out"
    world.run(output, policy="dsir", prove=True)
    return output


@pytest.fixture(scope="module")
def steered(world: World, tmp_path_factory) -> pathlib.Path:
    """A finished selection that the whole query steered."""
    output = tmp_path_factory.mktemp("steered") / "out"
    world.run(output, policy="dsir")
    return output


def build(output: pathlib.Path, *flags: str):
    options, _ = prove_options.parse([f"--output={output}", *SHORT, *flags])
    return prove_chain.build(options, look(options))


def stage_of(built, kind: type):
    return next(stage for stage in built.stages if isinstance(stage, kind))


def run(output: pathlib.Path, *flags: str):
    """Proves in a plain loop; returns the chain and what was written."""
    built = build(output, *flags)
    (output / "proof.json").unlink(missing_ok=True)
    built.write_plans()
    run_in_process(built.stages)
    return built, json.loads((output / "proof.json").read_text())


@pytest.fixture(scope="module")
def proved(selected):
    return run(selected)


def test_every_contender_trains_on_as_many_tokens_and_is_measured_on_the_same_texts(proved):
    built, found = proved
    assert found["recipe"]["num_tokens"] == 1500
    for name in ("held_out", "general"):
        contenders = found[name]["contenders"]
        assert set(contenders) == {"selection", "random", "perplexity"}
        assert all(len(set(one["losses"])) == 2 for one in contenders.values())
    trained = stage_of(built, TrainOn)
    assert len(trained.pieces()) == 7
    assert found["verdict"] == proof.judge(trained.trial("held_out"), "selection", 1500).sentence


def test_what_measures_is_what_was_set_aside_and_a_mix_that_nobody_trains_on(world, proved):
    built, found = proved
    measured = stage_of(built, DrawMeasured)
    texts, _ = read_texts(world.query, is_query=True)
    assert sorted(measured.texts()["held_out"]) == sorted(proof.divide(texts)[1])
    corpus, _ = read_texts(world.corpus)
    general = measured.texts()["general"]
    assert len(general) == found["measured"]["general"]["texts"] > 100
    assert set(general) < set(corpus)
    trained_on = {
        text for drawn in measured.drawn for seed in (0, 1) for text in drawn.texts(seed, 1500)
    }
    assert not trained_on & set(general)
    assert len(trained_on & set(corpus)) > 200


def test_every_seed_draws_texts_of_its_own_which_hold_the_tokens(world, proved):
    built, _ = proved
    drawn = {one.contender: one for one in stage_of(built, DrawMeasured).drawn}
    for one in drawn.values():
        assert min(one.tokens()) >= 1500
        orders = [one.texts(seed, 1500) for seed in (0, 1)]
        assert orders[0] != orders[1]
        for texts in orders:
            lengths = np.array([len(text.split()) for text in texts])
            assert lengths[:-1].sum() < 1500 <= lengths.sum()
    kinds = [text.split()[0][:3] for text in drawn["random"].texts(0, 1500)]
    assert len(set(kinds)) > 4


def test_a_random_draw_is_of_the_whole_corpus_and_the_selection_of_its_parts(
    world, selected, proved
):
    built, _ = proved
    drawn = {one.contender: one for one in stage_of(built, DrawMeasured).drawn}
    parts, _ = read_texts(str(selected / "selected"))
    assert set(drawn["selection"].texts(0, 1500)) < set(parts)
    assert not set(drawn["random"].texts(0, 1500)) <= set(parts)


def test_neither_a_random_draw_nor_the_mix_has_documents_that_hold_a_text_of_the_query_set(
    world, tmp_path
):
    shutil.copytree(world.corpus, tmp_path / "corpus")
    texts = [f"as it says here: {text}" for text in read_texts(world.query, is_query=True)[0]]
    lines = [json.dumps({"text": text, "kind": "copy", "n": 0}) for text in texts]
    (tmp_path / "corpus" / "part-4.jsonl").write_text("\n".join(lines))
    output = tmp_path / "out"
    manifest = world.run(output, input=tmp_path / "corpus", policy="dsir", prove=True)
    assert manifest["contaminated"]["rows"] == len(texts)
    built = build(output, "--policies=random", "--proof_tokens=100000")
    built.write_plans()
    names = [stage.name for stage in built.stages]
    run_in_process(built.stages[: names.index("DrawMeasured") + 1])
    random = next(stage for stage in built.stages if stage.name == "DrawRandom")
    drawn = random.texts(0, 10**6)
    mix = stage_of(built, DrawMeasured)
    mixed = [text for split in mix.corpus.splits() for text in mix.read_rows(split)["text"]]
    assert min(len(drawn), len(mixed)) > 100
    assert not {*drawn, *mixed}.intersection(texts)


def test_a_selection_written_without_rows_is_refused_in_a_line(world, tmp_path):
    world.run(tmp_path / "out", policy="dsir", prove=True, output_format="ids")
    with pytest.raises(UsageError, match=r"is in ids, which holds no rows to train on"):
        build(tmp_path / "out")


def test_a_selection_by_the_query_is_better_on_its_held_out_texts_than_a_random_draw(
    world, selected
):
    heldout = f"--heldout={world.query_of('biology')}"
    _, found = run(selected, heldout, "--policies=random", "--seeds=5", "--proof_tokens=3000")
    assert found["measured"]["held_out"]["texts"] == 24
    value, low, _ = found["held_out"]["contenders"]["random"]["lead"]
    assert value > low > 0
    assert found["is_worth_it"]


def test_beam_writes_what_the_loop_writes_and_makes_nothing_again(
    selected, proved, tmp_path, monkeypatch, capsys
):
    _, found = proved
    arguments = [f"--output={selected}", *SHORT]
    assert prove.main([*arguments, f"--artifacts={tmp_path / 'own'}"]) == 0
    assert json.loads((selected / "proof.json").read_text()) == found
    assert found["verdict"] in capsys.readouterr().out
    monkeypatch.setattr(TrainOn, "do", lambda *_: pytest.fail("a training was done again"))
    (selected / "proof.json").unlink()
    assert prove.main(arguments) == 0
    assert json.loads((selected / "proof.json").read_text()) == found
    capsys.readouterr()
    assert prove.main(arguments) == 0
    assert "complete already" in capsys.readouterr().out


@pytest.fixture(scope="module")
def grouped(world, tmp_path_factory) -> pathlib.Path:
    """A finished selection for two query groups, of which one weighs three times the other."""
    output = tmp_path_factory.mktemp("grouped") / "out"
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("law", "biology")]
    world.run(
        output, policy="dsir", prove=True, query=None, query_group=groups, query_weight="law=3"
    )
    return output


def test_every_query_group_is_measured_and_the_verdict_is_of_their_weighted_mean(world, grouped):
    built, found = run(grouped, "--policies=random")
    groups, measured = found["groups"], stage_of(built, DrawMeasured)
    assert [(name, group["weight"]) for name, group in groups.items()] == [
        ("biology", 1),
        ("law", 3),
    ]
    for name, members in zip(groups, measured.groups(), strict=True):
        texts, _ = read_texts(world.query_of(name), is_query=True)
        held_out = [
            t for t, is_in in zip(measured.texts()["held_out"], members, strict=True) if is_in
        ]
        assert sorted(held_out) == sorted(proof.divide(texts)[1])
    for number in (
        lambda results: results["before"],
        lambda results: results["contenders"]["selection"]["gain"][0],
        lambda results: results["contenders"]["random"]["lead"][0],
    ):
        parts = [number(groups[name]) for name in ("biology", "law")]
        assert parts[0] != parts[1]
        assert number(found["held_out"]) == pytest.approx((parts[0] + 3 * parts[1]) / 4)
    trial = stage_of(built, TrainOn).trial("held_out", measured.groups(), (1.0, 3.0))
    assert found["verdict"] == proof.judge(trial, "selection", 1500).sentence
    page = (grouped / "proof.html").read_text()
    assert "By query group" in page
    assert "the weighted mean over 2 query groups" in page


def test_a_run_with_one_query_group_says_nothing_of_groups(selected, proved):
    _, found = proved
    assert "groups" not in found
    assert "query group" not in (selected / "proof.html").read_text()


def test_other_weights_of_query_groups_are_another_proof_of_the_same_trainings(grouped):
    options, _ = prove_options.parse([f"--output={grouped}", *SHORT])
    inputs = look(options)
    lighter = dataclasses.replace(options, query_weights={"law": 1.0, "biology": 1.0})
    chains = [prove_chain.build(each, inputs) for each in (options, lighter)]
    folders = {stage_of(each, TrainOn).folder for each in chains}
    assert len(folders) == 1
    assert len({each.identity.configuration for each in chains}) == 2


def test_texts_of_a_query_group_can_be_given_for_every_group(world, grouped):
    given = [
        f"--heldout_group={a}={world.query_of(b)}"
        for a, b in (("law", "news"), ("biology", "code"))
    ]
    built = build(grouped, *given)
    measured = stage_of(built, DrawMeasured)
    assert [(query.name, query.weight) for query in measured.held_out] == [
        ("biology", 1),
        ("law", 3),
    ]
    assert "/news/" in built.plans[measured.held_out[1].plan_path].splits[0].path
    with pytest.raises(
        UsageError, match="has no texts of biology; pass --heldout_group=biology=GLOB"
    ):
        build(grouped, given[0])
    with pytest.raises(UsageError, match="no query group news; it has biology, law"):
        build(grouped, f"--heldout_group=news={world.query_of('news')}")
    with pytest.raises(UsageError, match="--heldout or --heldout_group, not both"):
        build(grouped, *given, "--heldout=x")


def test_a_proof_leaves_the_selection_as_it_is(world, selected, proved, capsys):
    assert quad.main(world.arguments(selected, policy="dsir", prove=True)) == 0
    printed = capsys.readouterr().out
    assert "complete already" in printed
    assert f"beam-quad prove --output={selected}" in printed


def test_another_selection_is_a_contender_by_the_name_of_its_folder(world, selected, tmp_path):
    world.run(tmp_path / "mine", policy="random", prove=True)
    built = build(selected, f"--against={tmp_path / 'mine'}")
    names = [one.contender for one in stage_of(built, DrawMeasured).drawn]
    assert names == ["selection", "mine", "random", "perplexity"]


def test_a_selection_of_influence_distillation_is_proved_too(world, tmp_path):
    world.distill(tmp_path / "out", prove=True, curvature="identity", num_landmarks=60)
    built = build(tmp_path / "out", "--policies=dsir")
    names = [one.contender for one in stage_of(built, DrawMeasured).drawn]
    assert names == ["selection", "random", "dsir"]


def test_the_plan_prices_the_trainings(selected):
    options, _ = prove_options.parse([f"--output={selected}", *SHORT])
    inputs = look(options)
    words = prove_plan.describe(options, inputs, prove_chain.build(options, inputs))
    assert "trains    6 times 1,500 tokens = 9,000 tokens" in words
    assert "against   random, perplexity" in words
    # The 500 of the general mix and a fifth of 25, of 12 to 40 words each.
    (tokens,) = re.findall(r"measures  7 times, about ([\d,]+) tokens", words)
    assert 7 * 505 * 22 < int(tokens.replace(",", "")) < 7 * 505 * 30


def test_the_set_aside_texts_steer_nothing(world, tmp_path):
    manifest = world.run(tmp_path / "out", policy="dsir", prove=True)
    texts, _ = read_texts(world.query, is_query=True)
    assert manifest["query"]["query"]["used"] == len(proof.divide(texts)[0]) < len(texts)


def test_a_selection_that_the_whole_query_steered_needs_other_texts(world, steered):
    with pytest.raises(
        UsageError, match=r"pass --heldout=GLOB with other texts .* or select again"
    ):
        build(steered)
    with pytest.raises(UsageError, match=r"25 of 25 held-out texts steered .*, such as"):
        build(steered, f"--heldout={world.query}")
    built = build(steered, f"--heldout={world.query_of('biology')}")
    assert len(built.stages) > 5


def test_texts_that_steered_a_rival_are_refused(selected, steered):
    others = steered.parent / "other"
    shutil.copytree(steered, others, dirs_exist_ok=True)
    with pytest.raises(UsageError, match=r"held-out texts steered .*/other, such as"):
        build(selected, f"--against={others}")


@pytest.fixture
def bare(world, tmp_path) -> pathlib.Path:
    """The configuration of the world's proxy alone."""
    path = tmp_path / "own.json"
    shutil.copy(pathlib.Path(world.proxy) / "config.json", path)
    return path


def test_a_configuration_is_trained_from_scratch_by_a_model_for_each_seed(world, selected, bare):
    flags = (
        f"--proof_model={bare}",
        "--policies=random",
        "--learning_rate=1e-2",
        "--proof_tokens=800",
    )
    built, found = run(selected, *flags)
    assert found["is_from_scratch"]
    assert found["recipe"]["num_passes"] == 4
    assert found["recipe"]["num_steps"] % 4 == 0
    trained = stage_of(built, TrainOn)
    assert len(trained.pieces()) == 2 + 2 * 2
    trial = trained.trial("held_out")
    assert len({losses.mean for losses in trial.before}) == 2
    # All 241 tokens are as likely to a model that knows nothing.
    assert found["held_out"]["before"] == pytest.approx(np.log(241), rel=0.02)
    assert trial.gain("selection").is_above(0.3)
    assert "nats per token more than" in found["verdict"] or "not worth it" in found["verdict"]
    assert "times a random draw" not in found["verdict"]
    _, again = run(selected, *flags, f"--artifacts={bare.parent / 'again'}")
    assert again == found


def test_a_configuration_is_priced_by_its_passes_and_takes_the_proxy_s_tokenizer(selected, bare):
    arguments = [f"--output={selected}", *SHORT, f"--proof_model={bare}"]
    options, _ = prove_options.parse(arguments)
    inputs = look(options)
    built = prove_chain.build(options, inputs)
    words = prove_plan.describe(options, inputs, built)
    assert "trains    6 times 4 passes over 1,500 tokens = 36,000 tokens, from scratch" in words
    assert "measures  8 times" in words
    assert stage_of(built, TrainOn).learning_rate > 1e-3


def test_a_configuration_that_the_tokenizer_does_not_fit_is_refused_in_a_line(
    world, selected, bare, tmp_path
):
    fields = json.loads(bare.read_text())
    bare.write_text(json.dumps(fields | {"vocab_size": 300}))
    with pytest.raises(
        UsageError, match=r"has no tokenizer, and its vocab_size of 300 .* 241 tokens"
    ):
        build(selected, f"--proof_model={bare}")
    # With a tokenizer of its own rows may be left over.
    folder = tmp_path / "folder"
    shutil.copytree(world.proxy, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(bare, folder / "config.json")
    build(selected, f"--proof_model={folder}")
    (folder / "config.json").write_text(json.dumps(fields | {"vocab_size": 100}))
    with pytest.raises(UsageError, match="its embedding has 100 rows") as caught:
        build(selected, f"--proof_model={folder}")
    assert "\n" not in str(caught.value)


def test_weights_that_are_there_and_cannot_be_loaded_are_refused_as_ever(world, selected, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(world.proxy, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"has no model.safetensors"):
        build(selected, f"--proof_model={folder}")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--policies=random,nonsense",), "no policy nonsense; there are quad, random"),
        (("--seeds=0",), "--seeds must be at least 1, got 0"),
        (("--learning_rate=0",), "--learning_rate must be positive, got 0.0"),
        (("--against=/nowhere",), "--against=/nowhere holds no finished selection"),
        (("--heldout=/nowhere/*.jsonl",), "/nowhere/.* matches no file"),
        (("--proof_model=/nowhere",), "/nowhere"),
    ],
)
def test_what_cannot_be_proved_is_refused_in_a_line(selected, flags, words):
    with pytest.raises(UsageError, match=words) as caught:
        build(selected, *flags)
    assert "\n" not in str(caught.value)


def test_a_flag_that_would_set_nothing_aside_is_refused(world, tmp_path):
    with pytest.raises(UsageError, match="--prove sets query texts aside; pass --query"):
        world.run(tmp_path / "out", policy="random", query=None, prove=True)


def test_a_selection_without_a_query_is_proved_on_other_texts(world, tmp_path):
    world.run(tmp_path / "out", policy="random", query=None)
    built = build(tmp_path / "out", f"--heldout={world.query_of('law')}", "--policies=perplexity")
    assert len(stage_of(built, DrawMeasured).held_out) == 1
    with pytest.raises(UsageError, match="dsir cannot be a rival: --policy=dsir needs --query"):
        build(tmp_path / "out", f"--heldout={world.query_of('law')}", "--policies=dsir")


def test_an_output_that_is_not_finished_is_refused(selected, tmp_path):
    with pytest.raises(UsageError, match="holds no finished selection; run beam-quad select"):
        build(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(selected, copy)
    (copy / "_run" / "options.json").unlink()
    with pytest.raises(UsageError, match=r"options.json is missing, which tells how --output"):
        build(copy)
    with pytest.raises(UsageError, match=r"--against=.* is the selection itself"):
        build(selected, f"--against={selected}")
