"""A model that peft has wrapped with LoRA, against the same model with the adapter merged."""

import copy
import importlib.util

import numpy as np
import pytest
import torch

from beam_quad.gradients import Proxy, find_blocks
from beam_quad.scoring import InfluenceScorer
from tests.gradients import tiny
from tests.scoring import reference

TEXTS = tiny.texts([6, 15, 3, 40, 100])
# OPT keeps its MLP next to the attention; GPT-2's q, k and v are one Conv1D.
FAMILIES = {"gpt2": ["c_attn", "c_proj"], "llama": "all-linear", "opt": "all-linear"}


@pytest.fixture
def peft(lacking):
    if importlib.util.find_spec("peft") is None:
        lacking("peft is not installed")
    return pytest.importorskip("peft")


@pytest.mark.parametrize("layers", ["attention", "all", "last:1", "all+head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_merged_model(peft, family, layers):
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2,
        target_modules=FAMILIES[family],
        init_lora_weights=False,
        fan_in_fan_out=family == "gpt2",
    )
    wrapped = peft.get_peft_model(tiny.model(family), config).double()
    merged = copy.deepcopy(wrapped).merge_and_unload()
    own, expected = (find_blocks(model, layers) for model in (wrapped, merged))
    assert [block.shape for block in own] == [block.shape for block in expected]
    vectors = list(reference.random_vectors(expected).values())
    found = []
    for model, blocks in ((wrapped, own), (merged, expected)):
        proxy = Proxy(model, tiny.tokenizer(), 16, 4, 64)
        query = {"query": {b.name: v for b, v in zip(blocks, vectors, strict=True)}}
        found.append(InfluenceScorer(proxy, blocks, query).score(TEXTS))
    np.testing.assert_allclose(*found, rtol=1e-6)
