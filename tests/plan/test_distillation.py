"""The formulas against what the code computes, counted, and what the plan says of them."""

import dataclasses
import math

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from beam_quad.gradients import find_blocks
from beam_quad.gradients.attention import eager_attention
from beam_quad.gradients.hessian import curvature_products
from beam_quad.gradients.sketches import GradientSketcher
from beam_quad.plan.cost import Machines, format_plan
from beam_quad.plan.devices import Device
from beam_quad.plan.distillation import (
    DistillationWorkload,
    SecondOrder,
    plan_cost,
    product_flops,
)
from beam_quad.records import Budget
from beam_quad.scoring import InfluenceScorer, ScoringCosts
from tests.gradients import tiny

LENGTH = 16
TEXTS = tiny.texts([LENGTH] * 3)
TARGETS = 2
DIM = 64


def skeleton(family):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(tiny.model(family).config)


def workload(scoring, **changes):
    return DistillationWorkload(**{
        "documents": 1000, "tokens": 1000 * LENGTH, "input_bytes": 100_000, "text_bytes": 100_000, "splits": 4, "budget": Budget(100, "examples"),
        "reserve_examples": 1000, "scoring": scoring, "context_length": LENGTH, "max_windows": 4,
        "curvature": "ekfac", "embedding_dim": 32, "embedder_flops": 1e6, "embedder_tokens": LENGTH, "counts_tokens": True, "embeds_in_float32": False,
        "curvature_examples": 48, "factor_bytes": 2**20, "query_tokens": 500, "num_query_vectors": TARGETS,
        "vector_bytes": 2**10, "num_landmarks": len(TEXTS), "is_sketched": False,
        "sketch_dim": DIM, "sketch_entries": 1 << 22, "num_passes": 7, "second_order": None,
    } | changes)  # fmt: skip


def scoring_of(family="llama"):
    model = skeleton(family)
    return ScoringCosts.of(model, find_blocks(model, "all"))


def machines(bfloat16=Device("unit", 1e12), float32=None):  # noqa: B008 (frozen)
    return Machines(bfloat16, float32 or bfloat16, 16, 16, stage_s=0.0)


def stages(work):
    return {stage.name: stage for stage in plan_cost(work, machines()).stages}


def count_butterflies(left, right, out=None, **kwargs):
    # Of all sums and differences, only those of the transform are written to a given place.
    return 0 if out is None else math.prod(left)


def count(compute):
    sums = dict.fromkeys((torch.ops.aten.add, torch.ops.aten.sub), count_butterflies)
    with FlopCounterMode(display=False, custom_mapping=sums) as counter:
        compute()
    return counter.get_total_flops()


def draw(blocks, num_vectors):
    names = (f"target {i}" for i in range(num_vectors))
    return {n: {b.name: torch.randn(b.shape, dtype=torch.float64) for b in blocks} for n in names}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_landmarks_cost_what_is_counted(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    scorers = [
        InfluenceScorer(proxy, blocks, draw(blocks, n), normalize=True)
        for n in (TARGETS, 2 * TARGETS)
    ]
    counted = count(lambda: [scorer.score(TEXTS) for scorer in scorers])
    assert stages(workload(scoring_of(family)))["landmarks"].flops == counted


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_sketches_cost_what_is_counted_and_their_cosines(family):
    proxy = tiny.proxy(family)
    sketcher = GradientSketcher(proxy, find_blocks(proxy.model, "all"), DIM)
    counted = count(lambda: sketcher.sketch(TEXTS))
    cosines = 2 * len(TEXTS) * DIM * 3 * TARGETS
    stage = stages(workload(scoring_of(family), is_sketched=True))["landmarks"]
    assert stage.flops == counted + cosines
    of_scores = stages(workload(scoring_of(family)))["landmarks"]
    assert stage.bytes_stored - of_scores.bytes_stored == len(TEXTS) * DIM * 2


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_products_with_a_curvature_cost_what_is_counted(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all")
    vectors = list(draw(blocks, 3).values())
    counted = count(lambda: curvature_products(proxy, blocks, TEXTS, vectors))
    model = skeleton(family)
    with eager_attention(model):
        scoring = ScoringCosts.of(model, find_blocks(model, "all"))
    assert product_flops(scoring, LENGTH, 3, 3) == counted / (len(TEXTS) * LENGTH)


def test_landmarks_cost_the_same_whatever_the_corpus_and_the_rest_grows_with_it():
    small = workload(scoring_of(), documents=10**8, tokens=16 * 10**8, input_bytes=10**10, text_bytes=10**10)  # fmt: skip
    large = dataclasses.replace(
        small, documents=2 * 10**8, tokens=32 * 10**8, input_bytes=2 * 10**10, text_bytes=2 * 10**10
    )
    few, many = (stages(w) for w in (small, large))
    flops = {n: many[n].flops / few[n].flops for n in few if few[n].flops}
    assert flops == {"embed": 2, "curvature": 1, "landmarks": 1, "fit": 1, "propagate": 2}
    hours = {n: many[n].hours / few[n].hours for n in ("embed", "propagate", "allocate", "write")}
    assert hours == pytest.approx(dict.fromkeys(hours, 2), rel=0.2)


def test_gradients_of_sketched_landmarks_are_formed_at_the_rate_of_float32():
    devices = machines(Device("fast", 1e12, chip="a"), Device("slow", 1e9, chip="a"))
    work = workload(scoring_of(), is_sketched=True)
    stage = next(s for s in plan_cost(work, devices).stages if s.name == "landmarks")
    passes = len(TEXTS) * LENGTH * work.scoring.exact_flops(LENGTH, num_vectors=0)
    expected = passes / 1e12 + (stage.flops - passes) / 1e9
    assert stage.hours * 3600 == pytest.approx(expected)
    assert "models on fast, landmarks' gradients and sums of" in format_plan(
        plan_cost(work, devices)
    )


def test_interactions_grow_with_landmarks_and_texts_of_all_targets():
    scoring = scoring_of()
    order = SecondOrder(scoring, num_landmarks=16, num_texts=64, mean_tokens=8, shortlist_examples=100)  # fmt: skip
    of = workload(scoring, second_order=order)
    stage = stages(of)["interactions"]
    # Of each target, the gradients of 16 landmarks are computed for the one piece that they make up, and for all to meet.
    gradients = TARGETS * 2 * 16 * LENGTH * scoring.query_flops(LENGTH)
    inner = TARGETS * 2 * 16**2 * of.kept_entries
    assert stage.flops == pytest.approx(
        gradients + inner + 64 * 8 * product_flops(scoring, 8, 16, 8)
    )
    assert stage.bytes_shuffled == 100 * 16 * 8
    assert stage.bytes_stored == stage.bytes_shuffled + TARGETS * 16**2 * 8


def test_the_selection_is_compared_with_one_forward_and_with_the_exact_influence_of_all():
    work = workload(scoring_of(), embedder_flops=0.0)
    plan = plan_cost(work, machines())
    flops = sum(stage.flops for stage in plan.stages)
    forward = 1000 * LENGTH * work.scoring.forward_flops(LENGTH)
    exact = 1000 * LENGTH * work.scoring.exact_flops(LENGTH, TARGETS, normalize=True)
    assert (
        f"{flops / forward:.2g} x one forward pass of every example, {flops / exact:.2g} x the exact"
        in format_plan(plan)
    )


def test_an_empty_corpus_has_a_plan():
    empty = workload(scoring_of(), documents=0, tokens=0, input_bytes=0, num_landmarks=0)
    assert "one forward pass of every" not in format_plan(plan_cost(empty, machines()))
