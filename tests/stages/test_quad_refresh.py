"""A bandit that goes on from a finished selection, in a plain loop."""

import collections
import json
import pathlib

import numpy as np
import pytest

from beam_quad.artifacts import aligned, traffic
from beam_quad.selection.ranking import NOTHING
from beam_quad.stages.base import ModelStage, Stage
from beam_quad.stages.quad.known import KnownEvidence
from beam_quad.stages.quad.shortlist import FindHeavyClusters
from beam_quad.stages.refresh.base import Base
from beam_quad.stages.write.shares import SolveProgramme
from pipelines import chain, options, refresh
from pipelines.inputs import look
from tests.pipelines.world import World, output_bytes, selected, selected_rows
from tests.stages.pages import shown_in_report

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")
RULES = ("block", "instance", "propagate", "cluster")
SHARDS = ("part-0.parquet", "part-1.parquet", "part-2.jsonl", "part-3.jsonl")
# A pull of each rule; of whole clusters the last round ends above what it is to pull, too.
ROUNDING = {"block": 4, "instance": 32, "propagate": 4, "cluster": 2 * 4}


class Months:
    """Runs over some shards of the world, which share their artifacts."""

    def __init__(self, world: World, folder: pathlib.Path) -> None:
        self.world, self.folder = world, folder

    def flags(self, shards: list[int], **flags):
        paths = [f"{self.world.corpus}/{SHARDS[i]}" for i in shards]
        defaults = {"artifacts": self.folder / "artifacts", "input_root": self.world.corpus}
        return {"input": paths} | defaults | flags

    def run(self, name: str, shards: list[int], **flags):
        """Runs, once, and returns the output and its manifest."""
        output = self.folder / name
        return output, self.world.run(output, **self.flags(shards, **flags))

    def build(self, name: str, shards: list[int], **flags) -> chain.Chain:
        arguments = self.world.arguments(self.folder / name, **self.flags(shards, **flags))
        parsed = refresh.resolved(options.parse(arguments)[0])
        return chain.build(parsed, look(parsed))


@pytest.fixture(scope="module")
def months(world, tmp_path_factory) -> Months:
    return Months(world, tmp_path_factory.mktemp("months"))


@pytest.fixture(scope="module", params=RULES)
def grown(request, months):
    """A selection, and one that goes on from it once a fourth of the documents are new, for a third more of the budget."""
    rule = request.param
    base = months.run(f"{rule}-base", [0, 1, 2], acceptance=rule)
    after = months.run(f"{rule}-grown", range(4), acceptance=rule, budget_tokens=4000, base=base[0])
    return rule, base, after


def ids(output: pathlib.Path) -> dict[str, dict]:
    return {row["example_id"]: row for row in selected(output)}


def worths(output: pathlib.Path) -> dict[tuple[str, int], float]:
    """What each selected row was selected for, by split and row."""
    found = {}
    for path in (output / "_run" / "selected").glob("*/*.parquet"):
        table = aligned.read_columns(str(path))
        found |= {
            (path.name, row): worth for row, worth in zip(table["row"], table["worth"], strict=True)
        }
    return found


def test_a_month_scores_its_share_of_what_a_run_over_everything_scores(grown, months):
    rule, (_, before), (_, manifest) = grown
    _, everything = months.run(f"{rule}-all", range(4), acceptance=rule, budget_tokens=4000)
    share = 1 - before["counts"]["read"] / manifest["counts"]["read"]
    most = 1.1 * share * everything["counts"]["scored"]
    # The share of the pilot's few pulls is rounded up.
    assert 0 < manifest["counts"]["scored"] <= most + ROUNDING[rule]


def test_a_month_keeps_what_was_selected_and_fills_the_budget(grown):
    _, (base, _), (after, manifest) = grown
    old, new = ids(base), ids(after)
    assert old.keys() < new.keys()
    assert {new[each]["since"] for each in old} == {old[each]["since"] for each in old}
    assert manifest["shortfall"] is None
    assert abs(manifest["tokens"]["selected"] - 4000) < 40


def test_rows_that_come_are_of_new_shards_and_say_why(grown):
    rule, (base, _), (after, _) = grown
    added = [row for each, row in ids(after).items() if each not in ids(base)]
    assert added
    assert all(row["example_id"].startswith("part-3") for row in added)
    assert all(row["cluster"] is not None for row in added)
    if rule == "propagate":
        known = [(row["influence"], row["predicted_influence"]) for row in added]
        assert all((own is None) != (predicted is None) for own, predicted in known)
    else:
        assert all(row["block_influence"] is not None for row in added)
        assert all(row["round"] >= 0 and row["block"] >= 0 for row in added)


def test_what_a_row_was_selected_for_stays_known(grown):
    _, (base, _), (after, _) = grown
    before, now = worths(base), worths(after)
    assert np.isfinite(list(now.values())).all()
    assert {row: now[row] for row in before} == before


def test_a_smaller_budget_lets_the_least_valuable_go(grown, months):
    rule, _, (after, _) = grown
    less, manifest = months.run(
        f"{rule}-less", range(4), acceptance=rule, budget_tokens=2000, base=after
    )
    before, now = worths(after), worths(less)
    assert now.keys() < before.keys()
    gone = [worth for row, worth in before.items() if row not in now]
    assert max(gone) <= min(now.values())
    assert 2000 <= manifest["tokens"]["selected"] < 2040
    assert manifest["counts"]["scored"] == 0


def test_a_month_with_nothing_new_gives_the_same_bytes_and_needs_no_model(grown, months):
    rule, (base, _), _ = grown
    built = months.build(f"{rule}-same", [0, 1, 2], acceptance=rule, base=base)
    assert not [
        stage
        for stage in built.stages
        if isinstance(stage, ModelStage) and not pathlib.Path(stage.artifact).exists()
    ]
    again, manifest = months.run(f"{rule}-same", [0, 1, 2], acceptance=rule, base=base)
    old, new = output_bytes(base), output_bytes(again)
    old.pop("manifest.json"), new.pop("manifest.json")
    assert new == old
    assert manifest["shortfall"] is None


def test_a_full_budget_scores_nothing_of_a_new_shard(grown, months):
    rule, (base, _), _ = grown
    built = months.build(f"{rule}-full", range(4), acceptance=rule, base=base)
    assert not [stage for stage in built.stages if stage.kind in ("rounds", "candidates")]


def test_what_a_gone_shard_leaves_free_is_filled_from_new_shards_alone(months):
    base, before = months.run("gone-base", [0, 1, 2])
    less, manifest = months.run("gone", [0, 2], base=base)
    stays = {each for each in ids(base) if not each.startswith("part-1")}
    assert ids(less).keys() == stays
    assert manifest["counts"]["scored"] == 0
    assert "--reselect" in manifest["shortfall"]
    filled, manifest = months.run("replaced", [0, 2, 3], base=base)
    assert stays < ids(filled).keys()
    assert manifest["shortfall"] is None
    assert manifest["tokens"]["selected"] < before["tokens"]["selected"] + 40


@pytest.mark.parametrize("flags", [{"acceptance": "propagate"}, {"near_duplicates": "drop"}])
def test_what_leaks_since_is_filled_from_new_shards(months, tmp_path, flags):
    base, _ = months.run(f"leaks-of-{next(iter(flags))}", [0, 1, 2], **flags)
    rows = selected_rows(base)[::4]
    leaking = {row["beam_quad"]["example_id"] for row in rows}
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(json.dumps({"text": row["text"]}) for row in rows))
    flags |= {"base": base, "decontaminate": items}
    after, manifest = months.run(f"{base.name}-next", range(4), **flags)
    assert len(leaking) > 10
    assert ids(base).keys() - ids(after).keys() == leaking
    assert 3000 <= manifest["tokens"]["selected"] < 3040
    assert manifest["shortfall"] is None


def test_new_leaks_of_which_there_are_none_cost_no_score(months, tmp_path):
    flags = {"near_duplicates": "drop", "max_share_per_cluster": 0.3}
    base, _ = months.run("no-leaks-base", [0, 1, 2], **flags)
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"text": " ".join(f"none{i}" for i in range(30))}))
    flags |= {"base": base, "decontaminate": items}
    after, manifest = months.run("no-leaks", range(4), **flags)
    assert ids(after).keys() == ids(base).keys()
    assert manifest["counts"]["scored"] == 0
    stages = months.build("no-leaks", range(4), **flags).stages
    (heavy,) = [stage for stage in stages if isinstance(stage, FindHeavyClusters)]
    (solved,) = [stage for stage in stages if isinstance(stage, SolveProgramme)]
    programme, _ = solved.load()
    assert not len(heavy.load())
    assert (programme.budget, programme.taken.sum(), programme.num_missing) == (0, 0, 0)
    assert (programme.floors == NOTHING).all()


def test_a_month_after_one_that_was_fitted_anew_and_scored_nothing_begins_with_its_own_pilot(
    world, months, tmp_path
):
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("biology", "law")]
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"text": " ".join(f"none{i}" for i in range(30))}))
    flags = {"query": None, "query_group": groups, "near_duplicates": "drop", "num_rounds": 8}
    first, _ = months.run("refit-0", [0, 1], **flags)
    vectors = set((months.folder / "artifacts").glob("combined/*/*"))
    flags |= {"decontaminate": items}
    second, two = months.run("refit-1", [0, 1, 2], base=first, refit=True, **flags)
    assert two["counts"]["scored"] == 0
    # A vector of weights that no score has scaled would be found by a run with another budget.
    assert set((months.folder / "artifacts").glob("combined/*/*")) == vectors != set()
    third, three = months.run("refit-2", range(4), base=second, budget_tokens=4000, **flags)
    assert three["counts"]["scored"] > 0
    assert three["shortfall"] is None
    # Scaled by this month's pilot: those of the month before are the weights as given.
    assert known(months, third).group_weights().min() > 1


def test_a_later_month_knows_the_scores_of_all_months_before_it_from_one_file(months):
    first, one = months.run("chain-0", [0, 1])
    second, two = months.run("chain-1", [0, 1, 2], base=first, budget_tokens=4000)
    third, three = months.run("chain-2", range(4), base=second, budget_tokens=5000)
    found = [evidence_of(months, output) for output in (first, second, third)]
    num_scored = np.cumsum([run["counts"]["scored"] for run in (one, two, three)])
    assert [len(evidence.key) for evidence in found] == num_scored.tolist()
    assert found[0].freedom < found[1].freedom < found[2].freedom
    assert set(found[0].key.tolist()) < set(found[2].key.tolist())
    assert ids(first).keys() < ids(second).keys() < ids(third).keys()


def test_query_groups_count_as_in_the_first_month(world, months):
    groups = [f"{kind}={world.query_of(kind)}" for kind in ("biology", "law")]
    flags = {"query": None, "query_group": groups}
    base, _ = months.run("groups-base", [0, 1, 2], **flags)
    after, _ = months.run("groups", range(4), base=base, budget_tokens=4000, **flags)
    weights = [known(months, output).group_weights() for output in (base, after)]
    np.testing.assert_array_equal(*weights)
    assert len(weights[0]) == 2


def test_what_was_scored_for_a_share_is_not_scored_again(months, monkeypatch):
    flags = {"share": "kind=law >= 0.4", "acceptance": "propagate"}
    base, manifest = months.run("shares-base", [0, 1, 2], **flags)
    evidence = evidence_of(months, base)
    assert len(evidence.key) == manifest["counts"]["scored"] > len(evidence.of_clusters()["key"])
    counted: collections.Counter[str] = collections.Counter()
    monkeypatch.setattr(traffic, "_counters", [lambda kind, n: counted.update({kind: n})])
    anew, after = months.run("shares-anew", [0, 1, 2], base=base, reselect=True, **flags)
    assert counted["bytes_stored"] > 0
    assert counted["documents_scored"] == 0
    assert after["counts"]["scored"] == manifest["counts"]["scored"]
    assert ids(anew) == ids(base)
    assert np.array_equal(evidence_of(months, anew).key, evidence.key)


@pytest.mark.parametrize("rule", ["block", "propagate"])
def test_choosing_anew_from_the_same_corpus_selects_the_same(months, rule):
    base, _ = months.run(f"anew-{rule}-base", [0, 1, 2], acceptance=rule)
    anew, _ = months.run(f"anew-{rule}", [0, 1, 2], acceptance=rule, base=base, reselect=True)
    assert ids(anew).keys() == ids(base).keys()
    assert not [why for _, why in shown_in_report(anew) if "the last run" in why]


def known(months: Months, output: pathlib.Path) -> KnownEvidence:
    stored = json.loads(pathlib.Path(refresh.record_path(str(output))).read_text())
    base = Base(str(output), plan_path="", manifest=output.name, configuration="")
    return KnownEvidence(base, str(months.folder / "artifacts"), stored["evidence"])


def evidence_of(months: Months, output: pathlib.Path):
    return known(months, output).load()


def test_the_stages_of_a_refresh_have_names_of_their_own(grown, months):
    rule, (base, _), _ = grown
    flags = {"acceptance": rule, "base": base, "budget_tokens": 4000}
    stages: tuple[Stage, ...] = months.build(f"{rule}-named", range(4), **flags).stages
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
