import dataclasses
import json
import sys

import pytest

from beam_quad.plan import rates
from beam_quad.plan.prices import LIST_PRICES
from tests.benchmarks.scale import __main__ as scale
from tests.benchmarks.scale.simulated import Case, Fleet, simulate

CASE = Case(10**9, 5000, 4.0, 4.0, 10**5, 30 * 10**9, None, 1000, "135M")
FLEET = Fleet("L4", 64, 8, 100, 4, 0.0, LIST_PRICES)


def stages(pipeline, case=CASE, fleet=FLEET):
    return {line.name: line for line in simulate(pipeline, case, fleet.machines()).lines}


def test_every_pipeline_is_simulated_with_its_own_stages():
    assert {"n-grams", "influence"} <= stages("shortlist").keys()
    assert {"pilot", "rounds, at most"} <= stages("block").keys()
    assert {"landmarks", "propagate"} <= stages("distill").keys()


def test_a_billion_documents_have_ten_thousand_clusters_and_a_shortlist_of_four_budgets():
    assert stages("block")["pilot"].documents == 10_000 * 10
    # Four times 30 billion tokens, of documents of 1,250.
    assert stages("shortlist")["influence"].documents == 4 * 30 * 10**9 / 1250


def test_twice_the_documents_take_twice_what_looks_at_all_of_them():
    double = dataclasses.replace(CASE, documents=2 * 10**9)
    few, many = (stages("shortlist", case) for case in (CASE, double))
    for name in ("embed", "assign"):
        assert many[name].hours == pytest.approx(2 * few[name].hours)
    assert many["influence"].flops == few["influence"].flops


def test_fewer_devices_take_longer_and_cost_as_much_until_cores_are_the_limit():
    half = dataclasses.replace(FLEET, devices=32)
    few, many = (stages("shortlist", fleet=fleet)["influence"] for fleet in (half, FLEET))
    assert few.hours == pytest.approx(2 * many.hours)
    assert few.dollars == pytest.approx(many.dollars)


def test_json_names_the_bottleneck_and_what_the_run_comes_to(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scale", "--documents=1e6", "--budget_tokens=3e7", "--pipelines=block"])  # fmt: skip
    scale.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["block"]
    longest = max(found["stages"], key=lambda row: row["hours"])
    assert found["bottleneck"] == longest["name"]
    assert found["device_hours"] == pytest.approx(sum(r["device_hours"] for r in found["stages"]))
    assert found["dollars"] == pytest.approx(sum(row["dollars"] for row in found["stages"]))


def test_what_was_measured_is_held_against_the_line_of_its_stage():
    costs = {"CountBlocks": 4 / 3600, "CutBlocks": 6 / 3600, "WriteSelection": 1 / 3600}
    took = {"CountBlocks": 2.0, "CutBlocks": 6.0, "WriteSelection": 50.0}
    record = {
        "stages": [{"name": name, "cpu_seconds": seconds} for name, seconds in took.items()],
        "planned": [
            {"line": "write" if name == "WriteSelection" else "cut", "core_hours": hours, "memory_bytes": 2e9}
            for name, hours in costs.items()
        ],
        "peak_bytes": 3e9,
    }  # fmt: skip
    found = scale.held_against(record)
    assert found["cpu_seconds"].keys() == {"cut", "write"}
    assert found["cpu_seconds"]["cut"]["measured"] == 8
    assert found["cpu_seconds"]["cut"]["simulated"] == pytest.approx(10 + 2 * rates.STAGE_S)
    assert found["measured_over_simulated"] == pytest.approx(58 / (11 + 3 * rates.STAGE_S))
    assert found["memory"]["ratio"] == 1.5
