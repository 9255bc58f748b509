import copy

import numpy as np
import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import find_blocks
from beam_quad.scoring import InfluenceScorer, TwoForwardsScorer, calibrate
from tests.gradients import tiny
from tests.scoring import reference

TEXTS = tiny.texts([6, 15, 1, 3, 40, 100])


@pytest.mark.parametrize(
    ("layers", "step"), [("all", 1e-4), ("last:1", 1e-4), ("last:1+head", 3e-4)]
)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_two_forwards_tend_to_the_exact_scores(family, layers, step):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, layers)
    vectors = {name: reference.random_vectors(blocks, seed) for seed, name in enumerate("ab")}
    exact = InfluenceScorer(proxy, blocks, vectors).score(TEXTS)
    found = TwoForwardsScorer(proxy, blocks, vectors, step).score(TEXTS)
    # Most families compute norms and softmaxes in float32, whatever their dtype.
    scale = np.nanstd(exact)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=2e-3 * scale)
    assert np.isnan(found[2]).all()


def test_lower_layers_are_run_once():
    proxy = tiny.proxy()
    runs = []
    for index, layer in enumerate(proxy.model.model.layers):
        layer.mlp.register_forward_hook(lambda m, i, o, index=index: runs.append(index))
    blocks = find_blocks(proxy.model, "last:1")
    vectors = {"query": reference.random_vectors(blocks)}
    TwoForwardsScorer(proxy, blocks, vectors, 1e-3).score(["1 2 3"])
    assert runs == [0, 1, 1]


def test_a_forward_that_was_replaced_stays_replaced():
    proxy = tiny.proxy()
    layer = proxy.model.model.layers[0]
    own = layer.forward = layer.forward
    blocks = find_blocks(proxy.model, "last:1")
    TwoForwardsScorer(proxy, blocks, {"q": reference.random_vectors(blocks)}, 1e-3).score(["1 2 3"])
    assert vars(layer)["forward"] is own


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_the_model_is_left_as_it_was_even_after_an_error(family):
    proxy = tiny.proxy(family)
    before = copy.deepcopy(proxy.model.state_dict())
    blocks = find_blocks(proxy.model, "last:1")
    vectors = {"query": reference.random_vectors(blocks)}
    scorer = TwoForwardsScorer(proxy, blocks, vectors, 1e-3)
    scorer.score(TEXTS)
    proxy.model.get_output_embeddings().register_forward_hook(_fail)
    with pytest.raises(RuntimeError, match="planted"):
        scorer.score(TEXTS)
    torch.testing.assert_close(proxy.model.state_dict(), before, rtol=0, atol=0)
    assert not any("forward" in vars(module) for module in proxy.model.modules())


def _fail(module, inputs, output):
    raise RuntimeError("planted")


def test_scores_do_not_depend_on_company_or_batch_size():
    blocks = find_blocks(tiny.model(), "attention")
    vectors = {"query": reference.random_vectors(blocks)}
    expected = TwoForwardsScorer(tiny.proxy(), blocks, vectors, 1e-3).score(TEXTS)
    small = tiny.proxy(max_batch_tokens=1)
    backwards = TwoForwardsScorer(small, blocks, vectors, 1e-3).score(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(backwards, expected, rtol=1e-6)


def test_a_vector_of_zeros_scores_zero():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model)
    zeros = {block.name: torch.zeros(block.shape) for block in blocks}
    assert TwoForwardsScorer(proxy, blocks, {"q": zeros}, 1e-3).score(["1 2 3"]) == 0


def test_refuses_models_that_do_not_suit():
    blocks = find_blocks(tiny.model())
    vectors = {"query": reference.random_vectors(blocks)}
    with pytest.raises(ValueError, match="float32"):
        TwoForwardsScorer(tiny.proxy(dtype=torch.bfloat16), blocks, vectors, 1e-3)
    with pytest.raises(ValueError, match="mixture of experts"):
        TwoForwardsScorer(tiny.proxy("mixtral"), blocks, vectors, 1e-3)
    shared = tiny.proxy()
    first, second = (layer.self_attn for layer in shared.model.model.layers)
    second.q_proj.weight = first.q_proj.weight
    with pytest.raises(ValueError, match="share a weight"):
        TwoForwardsScorer(shared, blocks, vectors, 1e-3)
    with pytest.raises(ValueError, match="relative_step must be positive"):
        TwoForwardsScorer(tiny.proxy(), blocks, vectors, 0.0)


def test_calibration_finds_a_step_that_ranks_like_the_exact_scores():
    proxy = tiny.proxy(dtype=torch.float32)
    blocks = find_blocks(proxy.model)
    vector = reference.random_vectors(blocks)
    texts = [*tiny.texts([14] * 40, seed=1), "1"]
    exact = InfluenceScorer(proxy, blocks, {"query": vector}).score(texts)[:, 0]
    found = calibrate(proxy, blocks, vector, texts, exact)
    assert found.is_close
    assert found.num_examples == 40
    assert found.rank_correlation > 0.999
    unrelated = np.random.default_rng(0).normal(size=len(texts))
    assert not calibrate(proxy, blocks, vector, texts, unrelated).is_close
    assert not calibrate(proxy, blocks, vector, texts[:5], exact[:5]).is_close
    assert not calibrate(proxy, blocks, vector, texts, np.zeros(len(texts))).is_close


def test_what_is_tracked_and_never_called_is_refused_by_name():
    proxy = tiny.proxy()
    proxy.model.unused = torch.nn.Linear(16, 16, bias=False)
    blocks = find_blocks(proxy.model, "regex:unused|q_proj")
    scorer = TwoForwardsScorer(proxy, blocks, {"query": reference.random_vectors(blocks)}, 1e-3)
    with pytest.raises(errors.UsageError, match="unused is tracked, but texts do not pass"):
        scorer.score(TEXTS)
