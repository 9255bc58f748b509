"""The formulas against what the code computes, counted, and against what it writes."""

import io
import json

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from beam_quad.gradients import find_blocks, passes
from beam_quad.scoring import (
    InfluenceScorer,
    PerplexityScorer,
    ScoringCosts,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    eigenvalues,
    products,
    query_gradient,
    slices,
)
from beam_quad.scoring.vectors import write_vectors
from tests.gradients import tiny
from tests.scoring.saved import saved

LENGTH = 16
TEXTS = tiny.texts([LENGTH] * 3)
IDS = [f"shard#{row}" for row in range(len(TEXTS))]
# Fused q, k and v (of Conv1D, or interleaved, in a parallel block), grouped queries, eager attention.
FAMILIES = ("gpt2", "gpt_neox", "llama", "phi3", "gemma2")
LAYERS = (
    "attention",
    "all",
    "last:1",
    "mlp",
    r"regex:\.1\..*(o_proj|c_proj|dense$)",
    "all+head",
    "last:1+head",
    "head",
)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=LAYERS)
def layers(request):
    return request.param


def costs_of(family, layers):
    """Takes the costs from a model without weights."""
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(tiny.model(family).config)
    return ScoringCosts.of(skeleton, find_blocks(skeleton, layers))


def count_addmm(total, left, right, **kwargs):
    return 2 * left[0] * left[1] * right[1]


def count(compute):
    # The counter knows addmm, but not its form in place.
    in_place = {torch.ops.aten.addmm_: count_addmm}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        compute()
    return counter.get_total_flops()


def flops_per_token(compute):
    return count(compute) / (len(TEXTS) * LENGTH)


def draw(blocks, num_vectors):
    names = (f"group {i}" for i in range(num_vectors))
    return {n: {b.name: torch.randn(b.shape, dtype=torch.float64) for b in blocks} for n in names}


def test_forward_flops_are_those_counted(family):
    scorer = PerplexityScorer(tiny.proxy(family))
    counted = flops_per_token(lambda: scorer.score(TEXTS))
    assert costs_of(family, "attention").forward_flops(LENGTH) == counted


def test_exact_flops_are_those_counted(family, layers):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, layers)
    scorer = InfluenceScorer(proxy, blocks, draw(blocks, 2))
    counted = flops_per_token(lambda: scorer.score(TEXTS))
    assert costs_of(family, layers).exact_flops(LENGTH, num_vectors=2) == counted


@pytest.mark.parametrize("layers", ["all", "all+head"])
@pytest.mark.parametrize("formed_tokens", [0, 32])
def test_norms_cost_what_is_counted(family, layers, formed_tokens, monkeypatch):
    monkeypatch.setattr(products, "_FORMED_TOKENS", formed_tokens)
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, layers)
    scorer = InfluenceScorer(proxy, blocks, draw(blocks, 2), normalize=True)
    counted = flops_per_token(lambda: scorer.score(TEXTS))
    assert costs_of(family, layers).exact_flops(LENGTH, 2, normalize=True) == counted


def test_query_flops_are_those_counted(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    counted = flops_per_token(lambda: query_gradient(proxy, blocks, TEXTS))
    assert costs_of(family, "all+head").query_flops(LENGTH) == counted


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_fitting_flops_are_those_counted(family, labels):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    costs = costs_of(family, "all+head")
    counted = count(lambda: covariance_sums(proxy, blocks, IDS, TEXTS, 0, labels))
    probe = count(lambda: passes.input_groups(proxy, blocks))
    assert costs.covariance_flops(LENGTH, labels) == (counted - probe) / (len(TEXTS) * LENGTH)
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 0, labels)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    counted = flops_per_token(lambda: eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 0, labels))
    assert costs.eigenvalue_flops(LENGTH, labels) == counted


def tensor_bytes(files):
    """Adds up the tensors of safetensors files, without the few numbers that count what is in a sum."""
    total = 0
    for file in files:
        data = file.getvalue()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        for name, entry in header.items():
            if name not in ("counts", "tokens_per_sequence"):
                start, end = entry["data_offsets"]
                total += end - start
    return total


def test_bytes_are_those_written(family):
    proxy = tiny.proxy(family, torch.float32)
    blocks = find_blocks(proxy.model, "all+head")
    costs = costs_of(family, "all+head")
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 0)
    assert costs.covariance_bytes == tensor_bytes(saved(total) for total in sums.values())
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    assert costs.eigenbasis_bytes == tensor_bytes(saved(basis) for basis in bases.values())
    eigenvalues = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 0)
    assert costs.eigenvalue_bytes == tensor_bytes(saved(part) for part in eigenvalues.values())
    gradient = query_gradient(proxy, blocks, TEXTS)
    assert costs.vector_bytes == tensor_bytes([saved(gradient)])
    vectors = {"math": gradient.mean(), "code": gradient.mean()}
    file = io.BytesIO()
    write_vectors(file, vectors)
    assert 2 * costs.vector_bytes == tensor_bytes([file])


def test_a_model_in_slices_costs_passes_of_each(family, monkeypatch):
    monkeypatch.setattr(slices, "_SLICE_BYTES", 0)
    proxy = tiny.proxy(family)
    parts = slices.layer_slices(find_blocks(proxy.model, "all+head"))
    costs = costs_of(family, "all+head")
    tokens = len(TEXTS) * LENGTH
    query = sum(count(lambda own=own: query_gradient(proxy, own, TEXTS)) for own in parts)
    assert len(parts) == 3
    assert costs.query_flops(LENGTH) == query / tokens
    covariances = sum(
        count(lambda own=own: covariance_sums(proxy, own, IDS, TEXTS, 0))
        - count(lambda own=own: passes.input_groups(proxy, own))
        for own in parts
    )
    assert costs.covariance_flops(LENGTH) == covariances / tokens


def test_the_eigenvalues_of_a_large_head_are_two_vectors(monkeypatch):
    whole = costs_of("gpt2", "head").eigenvalue_bytes
    monkeypatch.setattr(eigenvalues, "_MOST_ENTRIES", 100)
    proxy = tiny.proxy("gpt2", torch.float32)
    blocks = find_blocks(proxy.model, "head")
    sums = covariance_sums(proxy, blocks, IDS, TEXTS, 0)
    bases = {name: eigenbasis(total) for name, total in sums.items()}
    (part,) = eigenvalue_sums(proxy, blocks, bases, IDS, TEXTS, 0).values()
    assert costs_of("gpt2", "head").eigenvalue_bytes == tensor_bytes([saved(part)]) < whole


def test_a_mixture_costs_the_experts_that_a_token_is_sent_to():
    costs = costs_of("mixtral", "attention")
    # Attention and output layer as of Llama, 4 rows of the router, and 3 matrices of 2 of the 4 experts.
    llama = costs_of("llama", "attention").forward.entries
    mlp = 3 * 16 * 24
    assert costs.forward.entries == llama + 2 * (4 * 16 + 2 * mlp - mlp)


def test_smollm2_costs_what_its_published_shape_gives():
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    costs = ScoringCosts.of(model, find_blocks(model, "attention"))
    # 134,515,008 parameters, less the 61 norms: the tied embedding is looked up, then multiplied by.
    assert costs.forward.entries == 134_515_008 - 61 * 576
    assert costs.vector_bytes == 4 * 30 * (2 * 576**2 + 2 * 192 * 576)
