"""Flags are declared once: what follows from a declaration, and flags out of a file."""

import dataclasses
import json
import pathlib

import pytest
import yaml

from beam_quad.errors import UsageError
from beam_quad.stages import run_in_process
from pipelines import distillation_chain, distillation_options, flags, options, quad, reference
from pipelines.distillation_options import DistillationOptions
from pipelines.inputs import look
from pipelines.options import QuadOptions
from pipelines.prove_options import ProveOptions
from pipelines.run_options import RunOptions
from tests.pipelines.world import World, output_bytes

REQUIRED = ["--input=i", "--output=o", "--budget_tokens=1", "--tokens_column=n", "--policy=random"]
COMMANDS = [QuadOptions, DistillationOptions, ProveOptions]


def shown(command, words: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        flags.parser(command).parse_args(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_some_ten_flags_and_help_all_the_rest_by_group(command, capsys):
    few, every = shown(command, ["--help"], capsys), shown(command, ["--help", "all"], capsys)
    groups = flags.by_group(command)
    names = [flag.name for own in groups.values() for flag in own]
    assert 8 <= sum(f"\n  --{name} " in few for name in names) <= 12
    assert all(f"\n  --{name} " in every for name in names)
    assert [line[:-1] for line in every.splitlines() if line[:-1] in groups] == list(groups)


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_every_flag_of_a_selection_is_in_a_group_of_its_command(command):
    given = {flag.name for own in flags.by_group(command).values() for flag in own}
    assert given == {flag.name for flag in flags.declared(command)}


def test_the_reference_is_what_the_declarations_say():
    page = pathlib.Path(reference.__file__).with_name("FLAGS.md")
    assert page.read_text() == reference.page()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--split_mb=0", "--split_mb must be at least 1, got 0"),
        ("--context_length=1", "--context_length must be at least 2, got 1: the first token is never predicted"),
        ("--damping=0", "--damping must be positive, got 0.0"),
        ("--damping=inf", "--damping must be positive, got inf"),
        ("--shortlist=inf", "--shortlist must be at least 1, got inf; it is in budgets"),
        ("--max_cluster_share=1.1", r"--max_cluster_share must lie in \(0, 1\], got 1.1"),
        ("--max_cluster_share=0", r"--max_cluster_share must lie in \(0, 1\], got 0.0"),
    ],
)  # fmt: skip
def test_a_value_out_of_its_bounds_is_refused(given, words):
    with pytest.raises(UsageError, match=f"^{words}$"):
        options.parse([*REQUIRED, given])


def test_the_bounds_themselves_are_taken():
    bounds = ["--split_mb=1", "--context_length=2", "--shortlist=1", "--max_cluster_share=1"]
    options.parse([*REQUIRED, *bounds])


def written(folder: pathlib.Path, text: str) -> str:
    (folder / "flags.yaml").write_text(text)
    return f"--config={folder / 'flags.yaml'}"


def parsed(*arguments: str) -> RunOptions:
    return options.parse(arguments)[0]


def test_a_file_says_what_a_command_line_says(tmp_path):
    text = """
input: [a/*.parquet, b.jsonl]
query_group:
  law: [l1, l2]
  code: c
query_weight: {law: 2, code: 0.5}
output: o
budget_tokens: 1e9
tokens_column: n
proxy_model: m
columns: [id, meta*]
normalize: false
prompt_column:
damping: 2
"""
    line = [
        "--input=a/*.parquet", "--input=b.jsonl", "--query_group=law=l1,law=l2", "--query_group=code=c",
        "--query_weight=law=2,code=0.5", "--output=o", "--budget_tokens=1B", "--tokens_column=n", "--proxy_model=m",
        "--columns=id,meta*", "--normalize=false", "--damping=2",
    ]  # fmt: skip
    config = written(tmp_path, text)
    assert dataclasses.replace(parsed(config), config=None) == parsed(*line)
    (tmp_path / "flags.json").write_text(json.dumps(yaml.safe_load(text)))
    of_json = parsed(f"--config={tmp_path / 'flags.json'}")
    assert dataclasses.replace(of_json, config=None) == parsed(*line)


def test_the_command_line_wins_and_takes_the_place_of_what_may_be_repeated(tmp_path):
    config = written(
        tmp_path, "input: [a, b]\nquery: q\nquery_group: {law: l}\nseed: 3\ndamping: 2"
    )
    found = parsed(*REQUIRED, "--query_group=code=c", "--seed=4", config)
    assert (found.input, found.query) == (("i",), {"code": ("c",)})
    assert (found.seed, found.damping) == (4, 2.0)


def test_flags_of_beam_may_be_in_the_file(tmp_path):
    config = written(tmp_path, "runner: FlinkRunner\nparallelism: 4")
    _, rest = options.parse([*REQUIRED, config])
    assert rest == ["--runner=FlinkRunner", "--parallelism=4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "bugdet_tokens: 3",
            "flags.yaml: unknown flag --bugdet_tokens.*did you mean --budget_tokens",
        ),
        ("heldout: q", "flags.yaml: unknown flag --heldout"),
        ("seed: {a: 1}", "flags.yaml: seed must be a value or a list"),
        ("- seed", "must hold flags by name"),
        ("seed: [1", "flags.yaml, line 1: .*write it as YAML"),
        ("seed: many", "--seed: invalid int value: 'many'"),
        ("config: other.yaml\nsed: 1", "unknown flag --sed"),
    ],
)
def test_a_file_that_holds_no_flags_is_refused_in_a_line(tmp_path, text, words):
    with pytest.raises(UsageError, match=words) as refused:
        parsed(*REQUIRED, written(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        parsed(*REQUIRED, f"--config={tmp_path}/nowhere.yaml")


def test_a_folder_is_refused_with_the_file_to_pass(tmp_path):
    with pytest.raises(UsageError, match=f"is a folder; pass a file, as {tmp_path}/manifest.json"):
        parsed(*REQUIRED, f"--config={tmp_path}")


def replay(output: pathlib.Path, new: pathlib.Path, *changes: str) -> list[str]:
    return [f"--config={output}/manifest.json", f"--output={new}", "--threads=1", *changes]


@pytest.fixture(scope="module")
def made(world: World, tmp_path_factory) -> pathlib.Path:
    """A selection of some of the files of a folder, by two groups, with documents excluded."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "ids.txt").write_text("part-1.parquet#3\n")
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("law", "news")]
    world.run(
        folder / "out", input=[f"{world.corpus}/part-1.parquet", f"{world.corpus}/part-2.jsonl"], query=None, query_group=groups,
        query_weight="law=2", exclude=folder / "ids.txt", input_root=world.root / "corpus", query_prompt_column="",
    )  # fmt: skip
    return folder / "out"


def test_a_manifest_is_replayed_to_the_same_bytes(made, tmp_path, capsys):
    assert quad.main(replay(made, tmp_path / "new")) == 0
    assert "this is not the run" not in capsys.readouterr().err
    assert output_bytes(tmp_path / "new") == output_bytes(made)


def test_what_differs_from_the_run_of_a_manifest_is_said(world, made, tmp_path, capsys):
    changes = [
        f"--query={world.query}",
        f"--input={world.corpus}/part-0.parquet",
        "--seed=3",
        "--plan",
    ]
    assert quad.main(replay(made, tmp_path / "new", *changes)) == 0
    said = capsys.readouterr().err
    assert f"warning: this is not the run of {made}/manifest.json: --query_weights was " in said
    for words in (
        "--seed was 0 and is 3",
        "--query holds other texts",
        "--input holds other files",
    ):
        assert words in said
    assert not (tmp_path / "new").exists()


def test_a_manifest_of_the_other_method_is_replayed_to_the_same_bytes_too(world, tmp_path):
    world.distill(tmp_path / "out", budget_tokens=None, budget_examples=30, curvature="identity")
    found, _ = distillation_options.parse(replay(tmp_path / "out", tmp_path / "new"))
    built = distillation_chain.build(found, look(found))
    built.write_plans()
    run_in_process(built.stages)
    assert output_bytes(tmp_path / "new") == output_bytes(tmp_path / "out")
