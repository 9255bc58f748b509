import argparse

import pytest

from beam_quad.bandit import ACCEPTANCES
from beam_quad.bandit.acceptance import WholeBlocks
from beam_quad.errors import UsageError
from pipelines import flags, options
from pipelines.distillation_options import DistillationOptions
from pipelines.options import QuadOptions
from pipelines.parsing import count
from templates.dataflow.metadata import template_metadata


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1000", 1000), ("10_000", 10_000), ("1e9", 10**9), ("2k", 2000), ("500M", 500 * 10**6), ("30B", 30 * 10**9),
        ("30b", 30 * 10**9), ("1.5T", 1_500 * 10**9), ("0.5K", 500), ("-5", -5),
        # A float would be off by one.
        ("9007199254740993", 2**53 + 1), ("9007199254740.993k", 2**53 + 1),
    ],
)  # fmt: skip
def test_a_count_is_read_exactly(text, value):
    assert count(text) == value


@pytest.mark.parametrize(
    "text",
    ["1.5", "1e-3", "0.0001k", "1.00000000000000000000000000000000001", "", "many", "30G", "1,000", "nan", "inf", "1__0", "1e99"],
)  # fmt: skip
def test_what_is_no_count_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        count(text)


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (QuadOptions, ("budget_tokens", "curvature_examples", "reserve_examples", "num_clusters", "max_batch_tokens")),
        (DistillationOptions, ("budget_tokens", "budget_examples", "num_landmarks", "curvature_examples", "reserve_examples", "sketch_dim", "sketch_entries")),
    ],
)  # fmt: skip
def test_counts_may_be_written_short_and_a_wrong_one_names_its_flag(own, names):
    for name in names:
        required = ["--input=i", "--output=o", "--budget_tokens=1"]
        assert getattr(flags.parser(own).parse_args([*required, f"--{name}=2k"]), name) == 2000
        with pytest.raises(UsageError, match=rf"--{name}: must be a whole number.* got '2\.5'"):
            flags.parser(own).parse_args([*required, f"--{name}=2.5"])


def test_a_rule_of_acceptance_in_the_registry_is_a_choice_of_the_flag_and_of_the_template(
    monkeypatch,
):
    class Best(WholeBlocks):
        name, summary = "best", "nothing unless it is the best"

    monkeypatch.setitem(ACCEPTANCES, Best.name, Best)
    required = ["--input=i", "--output=o", "--budget_tokens=1"]
    assert (
        flags.parser(QuadOptions).parse_args([*required, "--acceptance=best"]).acceptance == "best"
    )
    assert flags.parser(QuadOptions).parse_args(required).acceptance == options.SHORTLIST
    parameters = {p["name"]: p for p in template_metadata("quad")["parameters"]}
    assert {"value": "best"} in parameters["acceptance"]["enumOptions"]
    for rule in ACCEPTANCES.values():
        assert f"{rule.name}: {rule.summary}" in parameters["acceptance"]["helpText"]


REQUIRED = ["--input=i", "--output=o", "--budget_tokens=1", "--tokens_column=n"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--policy=score_column"], "needs --score_column"),
        (["--policy=random", "--score_column=s"], "--policy=random does not read it"),
        (["--policy=similarity"], "needs --query"),
        (["--policy=cluster_histogram"], "needs --query"),
        (["--policy=loss_drop"], "needs --query"),
        (["--policy=loss_drop", "--query=q"], "needs --proxy_model"),
        (["--policy=similarity", "--query=q", "--weighted"], "--weighted needs influence"),
        (["--policy=similarity", "--similarity=worst"], "--similarity: invalid choice: 'worst'"),
    ],
)
def test_what_a_policy_lacks_or_does_not_know_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        options.parse([*REQUIRED, *given])


def test_policies_by_embeddings_need_no_proxy_where_tokens_are_counted():
    for policy in ("similarity", "cluster_histogram"):
        parsed, _ = options.parse([*REQUIRED, f"--policy={policy}", "--query=q"])
        assert parsed.needs_embeddings
        assert not parsed.needs_proxy
    assert parsed.similarity == "best"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ("static", "all+head", True)),
        (("--acceptance=block",), ("minilm", "attention", False)),
        (("--acceptance=block", "--embedder=static", "--normalize"), ("static", "attention", True)),
    ],
)
def test_defaults_follow_from_the_rule_of_acceptance(given, expected):
    required = ("--input=a", "--query=b", "--output=c", "--budget_tokens=9", "--proxy_model=m")
    found, _ = options.parse([*required, *given])
    assert (found.embedder, found.layers, found.normalize) == expected
