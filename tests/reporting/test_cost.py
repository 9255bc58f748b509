import dataclasses

import pytest

from beam_quad.reporting.cost import Device, Workload, format_plan, plan_cost

WORKLOAD = Workload(
    documents=1_000_000, tokens=500_000_000, input_bytes=10**9, budget_tokens=25_000_000,
    num_clusters=1000, num_rounds=16, samples_per_pull=10, blocks_per_cluster=16,
    proxy_parameters=100_000_000, max_scored_tokens=4096, embedding_dim=384,
    embedder_parameters=20_000_000, embedder_max_tokens=256, curvature_examples=4000,
    query_tokens=50_000, cores=16,
)  # fmt: skip


def stages(workload, device=Device("unit", 1e12)):  # noqa: B008 (frozen)
    return {stage.name: stage for stage in plan_cost(workload, device).stages}


def test_scoring_costs_2_7_forward_passes_of_2_flops_a_parameter_and_token():
    pilot = stages(WORKLOAD)["pilot"]
    assert pilot.documents == 10_000
    assert pilot.flops == pytest.approx(10_000 * 500 * 2.7 * 2 * 1e8)
    assert pilot.hours == pytest.approx(pilot.flops / 1e12 / 3600)


def test_the_rounds_pull_blocks_worth_two_budgets():
    # r = 5 % of 1,000 clusters with 16 blocks each
    assert WORKLOAD.pulls == round(2 * 0.05 * 16_000)
    assert dataclasses.replace(WORKLOAD, budget_tokens=1).pulls == 8 * 16
    assert dataclasses.replace(WORKLOAD, budget_tokens=10**12).pulls == 15_000


def test_embedding_never_takes_less_than_tokenising_the_corpus():
    by_hashing = stages(dataclasses.replace(WORKLOAD, embedder_parameters=0))["embed"]
    assert by_hashing.flops == 0
    assert by_hashing.hours * 3600 == pytest.approx(500e6 * 4 / (1.5e6 * 16))
    assert not by_hashing.is_model


def test_device_hours_count_every_device_and_only_model_stages():
    plan = plan_cost(WORKLOAD, Device.hopper(8))
    model_hours = sum(s.hours for s in plan.stages if s.is_model)
    assert plan.device_hours == pytest.approx(8 * model_hours)
    assert plan.hours > model_hours


def test_the_table_names_its_assumptions():
    text = format_plan(plan_cost(WORKLOAD, Device.hopper(2)))
    assert "2 x H100/H200 at 40 % of 989 TFLOP/s bf16" in text
    assert {line.split("  ")[0] for line in text.splitlines()} >= {"embed", "curvature", "total"}


def test_an_empty_corpus_has_a_plan():
    empty = dataclasses.replace(WORKLOAD, documents=0, tokens=0, input_bytes=0)
    assert stages(empty)["embed"].hours == 0
