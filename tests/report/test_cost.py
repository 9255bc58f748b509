import dataclasses

import pytest

from beam_quad.gradients.tracked import Block
from beam_quad.records import Budget
from beam_quad.report.cost import format_plan
from beam_quad.report.devices import Device
from beam_quad.report.quad_cost import QuadWorkload, plan_cost
from beam_quad.scoring.costs import ScoringCosts, TokenWork

BLOCK = Block("layer", "layer", 1000, 1000, has_bias=False, chunks=1, start=0, stop=1000)
# 50 M multiply-adds forward and 10 k for every token of the window, 40 M and 10 k backward.
SCORING = ScoringCosts(
    (BLOCK,),
    32_000,
    forward=TokenWork(50_000_000, 10_000),
    backward=TokenWork(40_000_000, 10_000),
    slice_backwards=(TokenWork(40_000_000, 10_000),),
)
WORKLOAD = QuadWorkload(
    documents=1_000_000, tokens=500_000_000, input_bytes=10**9, budget=Budget(25_000_000),
    num_clusters=1000, num_rounds=16, samples_per_pull=10, blocks_per_cluster=16, reserve_examples=500_000,
    scoring=SCORING, context_length=1024, max_windows=4, normalize=False, curvature="ekfac",
    embedding_dim=384, embedder_flops=1e10, embeds_in_float32=True,
    curvature_examples=4000, factor_bytes=2**30, query_tokens=50_000, num_query_vectors=2,
    vector_bytes=2**20, cores=16,
)  # fmt: skip


def stages(workload, device=Device("unit", 1e12)):  # noqa: B008 (frozen)
    return {stage.name: stage for stage in plan_cost(workload, device, device).stages}


def test_scoring_costs_its_passes_and_one_product_a_token_however_many_the_query_vectors():
    plan = stages(WORKLOAD)
    pilot, later = plan["pilot"], plan["16 rounds, at most"]
    passes = 2 * (90e6 + 20e3 * 500)
    assert pilot.documents == 10_000
    assert pilot.flops == pytest.approx(
        10_000 * 500 * (passes + 2 * 1000 * (1000 + 2 * 1000 / 500))
    )
    assert pilot.hours == pytest.approx(pilot.flops / 1e12 / 3600)
    assert later.flops == pytest.approx(later.documents * 500 * (passes + 2 * 1000 * 1000))


def test_long_examples_are_scored_by_window():
    long = dataclasses.replace(WORKLOAD, tokens=10_000_000_000)
    assert (long.window_tokens, long.scored_tokens) == (1024, 4096)
    expected = 10_000 * 4096 * SCORING.exact_flops(1024, num_vectors=2)
    assert stages(long)["pilot"].flops == pytest.approx(expected)


def test_every_curvature_has_its_passes():
    query = 50_000 * SCORING.query_flops(500)
    covariances = 4000 * 500 * SCORING.covariance_flops(500)
    eigenvalues = 4000 * 500 * SCORING.eigenvalue_flops(500)
    passes = {"identity": 0, "kfac": covariances, "ekfac": covariances + eigenvalues}
    for curvature, fitting in passes.items():
        stage = stages(dataclasses.replace(WORKLOAD, curvature=curvature))["curvature"]
        assert stage.flops == pytest.approx(query + fitting)
        texts = 4000 * 1000 if fitting else 0
        assert stage.bytes_stored == texts + 2**30 + 2**20


def test_the_rounds_pull_blocks_worth_two_budgets():
    # r = 5 % of 1,000 clusters with 16 blocks each
    assert WORKLOAD.pulls == round(2 * 0.05 * 16_000)
    assert dataclasses.replace(WORKLOAD, budget=Budget(1)).pulls == 8 * 16
    assert dataclasses.replace(WORKLOAD, budget=Budget(10**12)).pulls == 15_000


def test_more_candidates_cross_the_shuffle_than_are_kept_and_no_more_than_there_are():
    stage = stages(WORKLOAD)["candidates"]
    assert (stage.bytes_stored, stage.documents) == (160_000 * 1000, 160_000)
    assert stage.bytes_shuffled == pytest.approx(16_000 * (14 + 4 * 10**0.5) * 1000)
    few = stages(dataclasses.replace(WORKLOAD, reserve_examples=1000))["candidates"]
    assert (few.bytes_stored, few.bytes_shuffled) == (1e6, 1e6)


def test_embedding_never_takes_less_than_tokenising_the_corpus():
    by_hashing = stages(dataclasses.replace(WORKLOAD, embedder_flops=0))["embed"]
    assert by_hashing.flops == 0
    assert by_hashing.hours * 3600 == pytest.approx(500e6 * 4 / (1.5e6 * 16))
    assert not by_hashing.is_model


def test_the_encoder_and_sums_are_priced_at_the_rate_of_float32():
    workload = dataclasses.replace(WORKLOAD, cores=1024)
    plan = plan_cost(workload, Device.hopper("bfloat16"), Device.hopper("float32"))
    rates = {s.name: s.flops / s.hours / 3600 for s in plan.stages if s.is_model}
    bfloat16, float32 = 0.4 * 989e12, 0.4 * 67e12
    # Factors and eigenvalues of 4,000 examples of 500 tokens, and two query gradients of 50,000 tokens in all.
    curvature = plan.stages[4]
    sums = 4000 * 500 * 2 * (2 * 2e6 + 1e6) + 50_000 * 2 * 1e6
    hours = ((curvature.flops - sums) / bfloat16 + sums / float32) / 3600
    assert curvature.hours == pytest.approx(hours, rel=2e-3)
    del rates["curvature"]
    assert rates == pytest.approx(
        {"embed": float32, "pilot": bfloat16, "halves": bfloat16, "16 rounds, at most": bfloat16}
    )


def test_products_of_the_proxys_blocks_are_priced_at_the_rate_of_its_dtype():
    workload = dataclasses.replace(WORKLOAD, embeds_in_float32=False, embedder_flops=1e11)
    plan = plan_cost(workload, Device.hopper("bfloat16"), Device.hopper("float32"))
    embed = plan.stages[0]
    assert embed.flops == 1e6 * 1e11
    assert embed.flops / embed.hours / 3600 == pytest.approx(0.4 * 989e12)
    assert "encoder" not in format_plan(plan)
    assert ", sums of the curvature on" in format_plan(plan)


def test_a_dtype_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="float16"):
        Device.hopper("float16")


def test_device_hours_count_every_device_and_only_model_stages():
    plan = plan_cost(WORKLOAD, Device.hopper("bfloat16", 8), Device.hopper("float32", 8))
    model_hours = sum(s.hours for s in plan.stages if s.is_model)
    assert plan.device_hours == pytest.approx(8 * model_hours)
    assert plan.hours > model_hours


def test_the_table_names_its_assumptions():
    bfloat16, float32 = (Device.hopper(dtype, 2) for dtype in ("bfloat16", "float32"))
    text = format_plan(plan_cost(WORKLOAD, bfloat16, float32))
    assert (
        "proxy on 2 x H100/H200 at 40 % of 989 TFLOP/s bfloat16, encoder and sums of the curvature on 2 x"
        in text
    )
    assert "stored: 1 GiB of factors, 1 MiB of query gradients and vectors" in text
    assert {line.split("  ")[0] for line in text.splitlines()} >= {"embed", "curvature", "total"}


def test_a_device_is_named_once_where_all_runs_in_float32():
    float32 = Device.hopper("float32")
    plan = plan_cost(WORKLOAD, float32, float32)
    assert f"models: {plan.proxy_device.name}, " in format_plan(plan)
    assert float32.name == "1 x H100/H200 at 40 % of 67 TFLOP/s float32 without TF32"


def test_an_empty_corpus_has_a_plan():
    empty = dataclasses.replace(WORKLOAD, documents=0, tokens=0, input_bytes=0)
    assert stages(empty)["embed"].hours == 0
