"""A stage is named by all that its files depend on: every field of every stage is changed."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from beam_quad.identity import NotCounted, digest, form, mark_of
from beam_quad.records import Budget
from beam_quad.stages.base import Stage, Stored
from pipelines import (
    chain,
    distillation_chain,
    distillation_options,
    options,
    prove_chain,
    prove_options,
    refresh,
)
from pipelines.inputs import look

# Values that a field with a fixed choice of values changes to.
OTHER = {
    "acceptance": "propagate", "device": "cuda", "dtype": "bfloat16", "unit": "examples",
    "budget": Budget(7), "num_rounds": 3, "max_share_per_cluster": 0.5,
}  # fmt: skip
QUAD = [
    {"acceptance": "block", "id_column": "n", "embedder": "static"},
    {"acceptance": "propagate", "weighted": True, "share": "kind=law >= 0.3"},
    {"acceptance": "instance", "curvature": "kfac", "near_duplicates": "drop"},
    {"acceptance": "shortlist", "max_share_per_cluster": 0.2},
    {"policy": "random"}, {"policy": "perplexity"}, {"policy": "cluster_uniform"},
    {"policy": "influence_top_k", "weighted": True}, {"policy": "dsir"},
    {"policy": "similarity"}, {"policy": "cluster_histogram"}, {"policy": "loss_drop"},
    {"policy": "score_column", "score_column": "n"},
    {"policy": "random", "exclude": "ids.txt", "share": ["kind=law >= 0.3", "n > 4 <= 0.9"]},
]  # fmt: skip
DISTILLATION = [
    {"order": 2, "weighted": True},
    {"curvature": "identity", "embedder": "jvp", "share": "kind=law >= 0.3"},
]


@pytest.fixture(scope="module")
def stored(world, tmp_path_factory) -> list[Stored]:
    """One of each class of what is stored, from the chains of all policies."""
    output, chains = tmp_path_factory.mktemp("named") / "out", []
    groups = {
        "query": None,
        "query_group": [f"{k}={world.query_of(k)}" for k in ("law", "biology")],
    }
    ids = output.with_name("ids.txt")
    ids.write_text("part-0.parquet#1")
    for flags in [*QUAD, groups]:
        exclude = ids if "exclude" in flags else None
        parsed, _ = options.parse(world.arguments(output, **flags | {"exclude": exclude}))
        chains.append(chain.build(parsed, look(parsed)))
    for flags in [*DISTILLATION, groups]:
        parsed, _ = distillation_options.parse(world.distillation_arguments(output, **flags))
        chains.append(distillation_chain.build(parsed, look(parsed)))
    chains += list(_refreshes(world, output))
    world.run(output, policy="random", prove=True)
    parsed, _ = prove_options.parse([f"--output={output}"])
    chains.append(prove_chain.build(parsed, look(parsed)))
    found: dict[type, Stored] = {}
    for built in chains:
        for stage in built.stages:
            _collect(stage, found)
    return list(found.values())


def _refreshes(world, output) -> Iterator[chain.Chain]:
    """Chains that go on from a selection by a bandit, and from one of a shortlist, of a part of the corpus."""
    part = {"input": f"{world.corpus}/part-0.parquet", "input_root": world.corpus}
    for acceptance in ("block", "shortlist"):
        base = output.with_name(acceptance)
        world.run(base, acceptance=acceptance, budget_tokens=500, **part)
        flags = {"acceptance": acceptance, "base": base, "input_root": world.corpus}
        flags |= {"grow_clusters": acceptance == "shortlist" or None}
        parsed, _ = options.parse(world.arguments(output.with_name("next"), **flags))
        yield chain.build(parsed := refresh.resolved(parsed), look(parsed))


def test_every_stage_is_in_some_chain(stored):
    assert {type(one) for one in stored} >= set(_concrete(Stage))


def test_a_stage_whose_field_changes_has_another_artifact_or_a_mark_that_says_why_not(stored):
    number, wrong = 0, []
    for one in stored:
        if type(one).__name__ in ("WriteSelection", "WriteProof"):
            continue  # The user names its folder, and its configuration is recorded there.
        for path, marks in _leaves(one):
            number += 1
            changed = _with(one, path, _changed(path[-1], _at(one, path)))
            counts = all(_counts(mark, at, one, changed) for mark, at in marks)
            if (_place(changed) != _place(one)) is not counts:
                wrong.append((type(one).__name__, path))
    assert not wrong
    assert number > 300


def test_another_weight_of_a_query_group_takes_another_first_look(world, tmp_path):
    groups = [f"{name}={world.query_of(name)}" for name in ("law", "biology")]
    names = set()
    for weight in (1, 3):
        flags = {"query": None, "query_group": groups, "query_weight": f"law={weight}"}
        parsed, _ = options.parse(world.arguments(tmp_path / "out", policy="ngram", **flags))
        stages = chain.build(parsed, look(parsed)).stages
        names |= {one.artifact for one in stages if one.kind == "look_ahead"}
    assert len(names) == 2


def test_what_has_no_stable_form_is_refused_where_the_chain_is_built(stored):
    stage = next(one for one in stored if type(one).__name__ == "FitCenters")
    with pytest.raises(TypeError, match=r"FitCenters.num_clusters: .* has no stable form"):
        dataclasses.replace(stage, num_clusters=object())


@dataclasses.dataclass(frozen=True)
class Sample:
    part: Any
    place: Annotated[str, NotCounted("where it is stored")] = ""


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, "1"), (1, True), (1, 1.0), (None, "None"), (("a", "b"), ("ab",)), ((1, (2,)), ((1, 2),))],
)
def test_values_that_mean_different_things_have_different_forms(left, right):
    assert digest(Sample(left)) != digest(Sample(right))


def test_a_field_that_is_not_counted_changes_no_form():
    assert form(Sample(1, "here")) == form(Sample(1, "there"))


def _place(one: Stored) -> str:
    """Where it is stored among all artifacts."""
    path = one.artifact if isinstance(one, Stage) else one.folder
    return path.removeprefix(one.root)


def _counts(mark: Any, at: tuple, one: Any, changed: Any) -> bool:
    """Says whether a change shows through the mark of a field on the way to it."""
    if isinstance(mark, NotCounted):
        return False
    return digest(mark.form(_at(one, at))) != digest(mark.form(_at(changed, at)))


def _leaves(value: Any, path: tuple = (), marks: tuple = ()) -> list[tuple[tuple, tuple]]:
    """Lists the fields of a dataclass and of the plain dataclasses in it, with the marks on the way to each."""
    found: list[tuple[tuple, tuple]] = []
    for field in dataclasses.fields(value):
        own, at, mark = getattr(value, field.name), (*path, field.name), mark_of(field)
        seen = marks if mark is None else (*marks, (mark, at))
        is_plain = dataclasses.is_dataclass(own) and not isinstance(own, Stored)
        # Of what is not counted no part is.
        found += (
            _leaves(own, at, seen)
            if is_plain and not isinstance(mark, NotCounted)
            else [(at, seen)]
        )
    return found


def _at(value: Any, path: tuple) -> Any:
    return functools.reduce(getattr, path, value)


def _with(value: Any, path: tuple, leaf: Any) -> Any:
    first, *rest = path
    inner = _with(getattr(value, first), tuple(rest), leaf) if rest else leaf
    return dataclasses.replace(value, **{first: inner})


def _changed(name: str, value: Any) -> Any:
    """Makes another value of the same kind."""
    if name in OTHER and value != OTHER[name]:
        return OTHER[name]
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case None:
            return 1
        case str():
            return value + "x"
        case tuple():
            return (*value[:-1], _changed("", value[-1])) if value else ("x",)
    for path, marks in _leaves(value):
        if not marks and path[-1] not in ("policy",):
            return _with(value, path, _changed(path[-1], _at(value, path)))
    return None


def _collect(value: Any, found: dict[type, Stored]) -> None:
    if isinstance(value, Stored):
        found.setdefault(type(value), value)
    if isinstance(value, tuple):
        for item in value:
            _collect(item, found)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _collect(getattr(value, field.name), found)


def _concrete(base: type) -> list[type]:
    """Lists the stages of the library that can be made."""
    own = [] if getattr(base, "__abstractmethods__", ()) or base is Stage else [base]
    below = [each for child in base.__subclasses__() for each in _concrete(child)]
    return [each for each in {*own, *below} if each.__module__.startswith("beam_quad.")]
