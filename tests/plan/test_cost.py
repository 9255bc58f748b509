"""Work at the speed and the price of machines, and the table of it."""

import dataclasses

import pytest

from beam_quad.plan import rates
from beam_quad.plan.cost import CostPlan, Machines, format_plan
from beam_quad.plan.devices import Device, chip_named
from beam_quad.plan.prices import Prices
from beam_quad.plan.work import Requests, Work

H100 = chip_named("NVIDIA H100 80GB HBM3")
UNIT = Device("unit", 1e12, chip="unit")
SPLITS = 100
EMBED = Work(
    "embed", 1000, float32_flops=8e15, core_s=160, bytes_stored=1e9, requests=Requests(600, 400)
)
FIT = Work("curvature", 40, flops=6e15, float32_flops=2e15, memory_bytes=5e9)
VECTORS = Work("curvature", flops=1e15, bytes_shuffled=2e9)
WRITE = Work("write", 1000, core_s=32, alone_s=1)


CHAIN = [("Embed", EMBED), ("Fit", FIT), ("FitVectors", VECTORS), ("Write", WRITE)]


def machines(proxy=UNIT, float32=UNIT, cores=16, stage_s=0.0, **others):
    return Machines(proxy, float32, cores, cores, stage_s=stage_s, **others)


def hopper(count=1, cores=10**6):
    return machines(*(Device.gpu(H100, dtype, count) for dtype in ("bfloat16", "float32")), cores)


def plan(own, *chain):
    costs = (own.price(name, work, SPLITS) for name, work in chain or CHAIN)
    return CostPlan(tuple(costs), own)


def price(own, work):
    return own.price("stage", work, 0)


def test_a_stage_takes_as_long_as_its_device_or_its_cores():
    assert price(machines(), EMBED).hours == pytest.approx(8e15 / 1e12 / 3600)
    fast = dataclasses.replace(EMBED, float32_flops=1e12)
    assert price(machines(), fast).hours == pytest.approx(160 / 16 / 3600)
    assert price(machines(), WRITE).hours == pytest.approx((32 / 16 + 1) / 3600)


def test_float32_work_is_priced_at_the_rate_of_float32():
    bfloat16, float32 = 0.4 * 989e12, 0.4 * 67e12
    hours = (6e15 / bfloat16 + 2e15 / float32) / 3600
    assert price(hopper(), FIT).hours == pytest.approx(hours)


def test_a_dtype_without_a_rate_is_refused():
    with pytest.raises(ValueError, match="float16"):
        Device.gpu(H100, "float16")


def test_device_hours_count_every_device_and_only_stages_with_a_model():
    costs = plan(hopper(8))
    model_hours = sum(stage.hours for stage in costs.stages if stage.is_model)
    assert costs.total.device_hours == pytest.approx(8 * model_hours)
    assert costs.total.hours > model_hours


def test_a_device_is_paid_for_while_its_cores_are_the_limit():
    embed = price(hopper(8, cores=1), EMBED)
    assert embed.device_hours == pytest.approx(8 * embed.hours)
    assert embed.core_hours == pytest.approx(embed.hours)


def test_where_models_run_on_cores_the_same_cores_read_and_compute():
    cpu = Device.cpu(16)
    embed = price(machines(cpu, cpu), EMBED)
    assert embed.hours == pytest.approx((8e15 / cpu.flops_per_s + 160 / 16) / 3600)
    assert embed.core_hours == pytest.approx(16 * embed.hours)
    assert embed.device_hours == 0


def test_every_stage_takes_the_least_that_a_stage_takes():
    free, plain = (plan(machines(stage_s=s)).lines for s in (0.0, 30.0))
    waits = {a.name: 3600 * (b.hours - a.hours) for a, b in zip(free, plain, strict=True)}
    assert waits == pytest.approx({"embed": 30, "curvature": 2 * 30, "write": 30})


def test_dollars_are_those_of_cores_devices_bytes_and_requests():
    prices = Prices(0.05, 0.01, 0.1, 0.02, 0.4, 5.0, {"unit": 2.0})
    embed, _, vectors, _ = plan(machines(prices=prices)).stages
    cores = embed.core_hours * (0.05 + 4 * 0.01)
    assert embed.requests == 1000
    requests = (600 * 0.4 + 400 * 5.0) / 1000
    assert embed.dollars == pytest.approx(2 * embed.device_hours + cores + 0.02 + requests)
    cores = vectors.core_hours * (0.05 + 4 * 0.01)
    assert vectors.dollars == pytest.approx(2 * vectors.device_hours + cores + 0.1 * 2)


def test_a_device_without_a_price_leaves_no_dollars_and_says_what_to_do():
    costs = plan(machines())
    assert costs.total.dollars is None
    words = "no price of unit is known, so that no dollars are told: pass --prices"
    assert words in format_plan(costs)


def test_a_line_adds_up_its_stages_and_is_as_large_as_its_largest_process():
    (embed, curvature, _), total = plan(machines()).lines, plan(machines()).total
    assert curvature.flops == 9e15
    assert curvature.documents == 40
    assert curvature.memory_bytes == rates.PROCESS_BYTES + 100 * rates.SPLIT_BYTES + 5e9
    assert (total.flops, total.documents) == (17e15, 1000)
    assert total.memory_bytes == curvature.memory_bytes
    assert embed.name == "embed"


def test_passes_over_the_same_documents_count_them_once_and_models_score_others_each_time():
    passes = [(f"Cut{i}", Work("cut", 1000)) for i in range(4)]
    rounds = [(f"Round{i}", Work("rounds", 30, flops=1.0)) for i in range(4)]
    cut, scored = plan(machines(), *passes, *rounds).lines
    assert (cut.documents, scored.documents) == (1000, 120)


def test_the_bottleneck_is_the_line_that_takes_longest():
    costs = plan(machines())
    assert costs.bottleneck.name == "curvature"
    assert "longest: curvature, 53% of the time" in format_plan(costs)
    everything = costs.without([True] * 4)
    assert "longest" not in format_plan(everything)


def test_the_table_names_its_assumptions():
    text = format_plan(plan(hopper(2)))
    words = "models on 2 x H100 at 40 % of 989 TFLOP/s bfloat16, and in float32 (in embed, curvature) 2 x"
    assert words in text
    assert {line.split("  ")[0] for line in text.splitlines()} >= {"embed", "curvature", "total"}


def test_a_device_is_named_once_where_all_runs_in_float32():
    float32 = Device.gpu(H100, "float32")
    text = format_plan(plan(machines(float32, float32)))
    assert "models on 1 x H100 at 40 % of 67 TFLOP/s float32 without TF32, with" in text


def test_what_is_made_takes_nothing_and_a_line_made_in_part_is_of_the_rest():
    costs = plan(machines())
    left = costs.without([True, True, False, False])
    assert [line.name for line in left.lines if not line.is_made] == ["curvature", "write"]
    assert left.total.flops == 1e15
    assert left.total.hours == pytest.approx(sum(stage.hours for stage in costs.stages[2:]))
    lines = [line.rstrip() for line in format_plan(left).splitlines()]
    assert sum(line.endswith("already made") for line in lines) == 1
    assert "curvature: 1 of 2 stages are made already; the line is of the others" in lines
    assert costs.without([False] * 4) == costs
