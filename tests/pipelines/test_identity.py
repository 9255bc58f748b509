"""What makes two commands the same run."""

import json

import pytest

from pipelines.identity import Identity

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
