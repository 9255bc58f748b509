import dataclasses

import pytest

from beam_quad.gradients.tracked import Block
from beam_quad.plan import rates
from beam_quad.plan.cost import Machines, format_plan, total
from beam_quad.plan.devices import Device, chip_named
from beam_quad.plan.prices import Prices
from beam_quad.plan.quad import QuadWorkload, plan_cost
from beam_quad.records import Budget
from beam_quad.scoring.costs import ScoringCosts, TokenWork

H100 = chip_named("NVIDIA H100 80GB HBM3")
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
    documents=1_000_000, tokens=500_000_000, input_bytes=10**9, text_bytes=2 * 10**9, splits=100, budget=Budget(25_000_000),
    num_clusters=1000, num_rounds=16, samples_per_pull=10, blocks_per_cluster=16, reserve_examples=500_000,
    scoring=SCORING, context_length=1024, max_windows=4, normalize=False, curvature="ekfac",
    embedding_dim=384, embedder_flops=1e10, embedder_tokens=256, counts_tokens=True, embeds_in_float32=True,
    curvature_examples=4000, factor_bytes=2**30, query_tokens=50_000, num_query_vectors=2,
    vector_bytes=2**20,
)  # fmt: skip


UNIT = Device("unit", 1e12, chip="unit")


def machines(bfloat16=UNIT, float32=UNIT, cores=16, stage_s=0.0):
    return Machines(bfloat16, float32, cores, cores, stage_s=stage_s)


def hopper(count=1, cores=10**6):
    return machines(*(Device.gpu(H100, dtype, count) for dtype in ("bfloat16", "float32")), cores)


def stages(workload):
    return {stage.name: stage for stage in plan_cost(workload, machines()).stages}


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


def test_embedding_never_takes_less_than_its_cores_take_to_tokenise():
    # For the proxy, and the first 8 characters of each of 256 tokens for the encoder.
    encoder_bytes = min(2e9, 1e6 * 256 * 8)
    cores_s = 2e9 / 1.5e6 + encoder_bytes / 2.1e6 + 1e6 * rates.EMBED_ROW_S
    fast = dataclasses.replace(WORKLOAD, embedder_flops=1.0)
    assert stages(fast)["embed"].hours == pytest.approx(cores_s / 16 / 3600)
    assert stages(WORKLOAD)["embed"].hours == pytest.approx(1e6 * 1e10 / 1e12 / 3600)
    counted = dataclasses.replace(fast, counts_tokens=False)
    given_s = cores_s - 2e9 / 1.5e6
    assert stages(counted)["embed"].hours == pytest.approx(given_s / 16 / 3600)


def test_hashing_runs_no_model_and_is_done_by_cores():
    hashed = dataclasses.replace(WORKLOAD, embedder_flops=0, embedder_tokens=0, counts_tokens=False)
    stage = stages(hashed)["embed"]
    cores_s = 1e6 * rates.EMBED_ROW_S + 2e9 * rates.HASH_BYTE_S
    assert not stage.is_model
    assert stage.device_hours == 0
    assert stage.core_hours == pytest.approx(cores_s / 3600)
    assert stage.hours == pytest.approx(cores_s / 16 / 3600)


def test_the_encoder_and_sums_are_priced_at_the_rate_of_float32():
    plan = plan_cost(WORKLOAD, hopper(cores=10**6))
    measured = {s.name: s.flops / s.hours / 3600 for s in plan.stages if s.is_model}
    bfloat16, float32 = 0.4 * 989e12, 0.4 * 67e12
    # Factors and eigenvalues of 4,000 examples of 500 tokens, and two query gradients of 50,000 tokens in all.
    curvature = plan.stages[4]
    sums = 4000 * 500 * 2 * (2 * 2e6 + 1e6) + 50_000 * 2 * 1e6
    hours = ((curvature.flops - sums) / bfloat16 + sums / float32) / 3600
    assert curvature.hours == pytest.approx(hours, rel=2e-3)
    del measured["curvature"], measured["16 rounds, at most"]
    assert measured == pytest.approx({"embed": float32, "pilot": bfloat16, "halves": bfloat16})


def test_products_of_the_proxys_blocks_are_priced_at_the_rate_of_its_dtype():
    workload = dataclasses.replace(WORKLOAD, embeds_in_float32=False, embedder_flops=1e11)
    plan = plan_cost(workload, hopper())
    embed = plan.stages[0]
    assert embed.flops == 1e6 * 1e11
    assert embed.flops / embed.hours / 3600 == pytest.approx(0.4 * 989e12)
    assert "encoder" not in format_plan(plan)
    assert ", sums of the curvature on" in format_plan(plan)


def test_a_dtype_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="float16"):
        Device.gpu(H100, "float16")


def test_device_hours_count_every_device_and_only_model_stages():
    plan = plan_cost(WORKLOAD, hopper(8))
    model_hours = sum(s.hours for s in plan.stages if s.is_model)
    assert plan.device_hours == pytest.approx(8 * model_hours)
    assert plan.hours > model_hours


def test_a_device_is_paid_for_while_its_cores_are_the_limit():
    slow = plan_cost(dataclasses.replace(WORKLOAD, embedder_flops=1.0), hopper(8, cores=1))
    embed = slow.stages[0]
    assert embed.device_hours == pytest.approx(8 * embed.hours)
    assert embed.core_hours == pytest.approx(embed.hours)


def test_where_models_run_on_cores_the_same_cores_read_and_compute():
    cpu = Device.cpu(16)
    embed = plan_cost(WORKLOAD, machines(cpu, cpu)).stages[0]
    reading_s = 2e9 / 1.5e6 + 2e9 / 2.1e6 + 1e6 * rates.EMBED_ROW_S
    assert embed.hours == pytest.approx((1e16 / cpu.flops_per_s + reading_s / 16) / 3600)
    assert embed.core_hours == pytest.approx(16 * embed.hours)
    assert embed.device_hours == 0


def test_every_stage_of_the_chain_takes_the_least_that_a_stage_takes():
    free, plain = (plan_cost(WORKLOAD, machines(stage_s=s)).stages for s in (0.0, 30.0))
    waits = {a.name: 3600 * (b.hours - a.hours) for a, b in zip(free, plain, strict=True)}
    assert waits["16 rounds, at most"] == pytest.approx(16 * 30)
    assert waits["embed"] == pytest.approx(30)


def test_dollars_are_those_of_cores_devices_bytes_and_requests():
    prices = Prices(0.05, 0.01, 0.1, 0.02, 0.4, 5.0, {"unit": 2.0})
    own = dataclasses.replace(machines(), prices=prices)
    embed, *_, candidates, _, _, _, _, _, _ = plan_cost(WORKLOAD, own).stages
    cores = embed.core_hours * (0.05 + 4 * 0.01)
    requests = (100 * 6 * 0.4 + 100 * 4 * 5.0) / 1000
    assert embed.requests == 100 * (6 + 4)
    stored = 0.02 * embed.bytes_stored / 1e9
    assert embed.dollars == pytest.approx(2 * embed.device_hours + cores + stored + requests)
    cores = candidates.core_hours * (0.05 + 4 * 0.01)
    moved = (0.1 * candidates.bytes_shuffled + 0.02 * candidates.bytes_stored) / 1e9
    assert candidates.dollars == pytest.approx(cores + moved + 100 * 3 * 0.4 / 1000)


def test_a_device_without_a_price_leaves_no_dollars_and_says_what_to_do():
    plan = plan_cost(WORKLOAD, machines())
    assert plan.dollars is None
    assert "no price of unit is known, so that no dollars are told: pass --prices" in format_plan(
        plan
    )


def test_the_largest_process_is_that_which_fits_the_centers():
    plan = plan_cost(WORKLOAD, machines())
    largest = max(plan.stages, key=lambda stage: stage.memory_bytes)
    assert largest.name == "fit centers"
    assert largest.memory_bytes == pytest.approx(
        rates.PROCESS_BYTES + 100 * rates.SPLIT_BYTES + 4 * 256_000 * 384
    )
    assert total(plan).memory_bytes == largest.memory_bytes


def test_the_bottleneck_is_the_stage_that_takes_longest():
    plan = plan_cost(WORKLOAD, machines())
    assert plan.bottleneck.name == "embed"
    dear = dataclasses.replace(WORKLOAD, embedder_flops=0.0, curvature_examples=10**6)
    assert plan_cost(dear, machines()).bottleneck.name == "curvature"


def test_the_table_names_its_assumptions():
    text = format_plan(plan_cost(WORKLOAD, hopper(2)))
    assert (
        "models on 2 x H100 at 40 % of 989 TFLOP/s bfloat16, encoder and sums of the curvature on 2 x"
        in text
    )
    assert "stored: 1 GiB of factors, 1 MiB of query gradients and vectors" in text
    assert {line.split("  ")[0] for line in text.splitlines()} >= {"embed", "curvature", "total"}


def test_a_device_is_named_once_where_all_runs_in_float32():
    float32 = Device.gpu(H100, "float32")
    plan = plan_cost(WORKLOAD, machines(float32, float32))
    assert "models on 1 x H100 at 40 % of 67 TFLOP/s float32 without TF32, with" in format_plan(
        plan
    )


def test_an_empty_corpus_has_a_plan():
    empty = dataclasses.replace(WORKLOAD, documents=0, tokens=0, input_bytes=0, text_bytes=0)
    assert stages(empty)["embed"].hours == 0


def test_what_is_made_takes_nothing_and_what_is_made_in_part_is_told():
    plan = plan_cost(WORKLOAD, machines())
    names = ["EmbedExamples", "FitCenters", "SampleTexts", "FitQueryVectors", "WriteSelection"]
    left = plan.without_made(names, {"EmbedExamples", "FitCenters", "SampleTexts"})
    priced = {stage.name: stage for stage in left.stages if not stage.is_made}
    # A line of no stage of the chain was made by the run that this one goes on from.
    assert list(priced) == ["curvature", "write"]
    assert left.core_hours == pytest.approx(sum(stage.core_hours for stage in priced.values()))
    assert left.hours == pytest.approx(sum(stage.hours for stage in priced.values()))
    lines = [line.rstrip() for line in format_plan(left).splitlines()]
    assert sum(line.endswith("already made") for line in lines) == len(plan.stages) - 2
    assert "curvature: 1 of 2 stages are made already; the line is of all" in lines
    assert plan.without_made(names, set()).stages[0] == plan.stages[0]
