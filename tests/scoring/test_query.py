import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import find_blocks
from beam_quad.scoring import GradientSum, query_gradient
from beam_quad.scoring.tensors import TensorReader
from tests.gradients import tiny
from tests.gradients.tiny import EXACT
from tests.scoring import reference
from tests.scoring.saved import saved

TEXTS = tiny.texts([6, 90, 1, 25, 16])


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi"])
def test_the_mean_is_over_documents_of_mean_losses(family):
    proxy = tiny.proxy(family)
    blocks = find_blocks(proxy.model, "all+head")
    usable = [text for text in TEXTS if len(text.split()) > 1]
    each = [reference.document_gradient(proxy, blocks, text) for text in usable]
    found = query_gradient(proxy, blocks, TEXTS)
    assert found.num_examples == len(usable)
    for name, mean in found.mean().items():
        torch.testing.assert_close(mean, sum(g[name] for g in each) / len(usable), **EXACT)


def test_sums_do_not_depend_on_the_partition():
    proxy = tiny.proxy()
    blocks = find_blocks(proxy.model, "last:1")
    whole = query_gradient(proxy, blocks, TEXTS)
    parts = query_gradient(proxy, blocks, TEXTS[3:]) + query_gradient(proxy, blocks, TEXTS[:3])
    torch.testing.assert_close(parts.gradients, whole.gradients, **EXACT)
    assert parts.num_examples == whole.num_examples


def test_sums_survive_bytes():
    total = GradientSum({"a.b": torch.rand(2, 3)}, 4)
    loaded = GradientSum.load(TensorReader(saved(total)), ["a.b"])
    assert loaded.num_examples == 4
    torch.testing.assert_close(loaded.gradients, total.gradients, rtol=0, atol=0)


def test_refuses_a_query_without_gradient():
    with pytest.raises(errors.UsageError, match="no query text"):
        query_gradient(tiny.proxy(), find_blocks(tiny.model()), ["7", ""]).mean()
    with pytest.raises(errors.IntegrityError, match="not finite"):
        GradientSum({"b": torch.tensor([torch.inf])}, 1).mean()
