import pytest
import torch

from beam_quad.gradients import find_blocks
from beam_quad.scoring import (
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
    slices,
)
from beam_quad.scoring.shapes import fitted_bytes
from beam_quad.scoring.slices import layer_slices
from tests.gradients import tiny

TEXTS = tiny.texts([16, 9, 4, 30, 2])
IDS = [f"shard#{row}" for row in range(len(TEXTS))]
# Grouped queries; fused q, k and v; attention and MLP beside each other; a tied head with a bias; an input of both.
FAMILIES = ("llama", "gpt2", "gpt_neox", "phi", "cohere")


def layer_numbers(blocks):
    return [next((part for part in b.module.split(".") if part.isdigit()), "head") for b in blocks]


@pytest.mark.parametrize("layers", ["attention", "all+head"])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_slices_hold_whole_layers_in_order_and_no_more_than_fits(monkeypatch, layers, share):
    blocks = find_blocks(tiny.model("llama"), layers)
    most = int(share * fitted_bytes(blocks))
    monkeypatch.setattr(slices, "_SLICE_BYTES", most)
    found = layer_slices(blocks)
    assert sum(found, ()) == blocks
    numbers = [set(layer_numbers(own)) for own in found]
    assert sum(map(len, numbers)) == len(set.union(*numbers))  # no layer is in two
    assert all(fitted_bytes(own) <= most or len(set(layer_numbers(own))) == 1 for own in found)
    assert (len(found) == 1) is (share == 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_of_slices_have_the_bits_of_those_of_all_layers(monkeypatch, family):
    proxy = tiny.proxy(family, torch.float32)
    blocks = find_blocks(proxy.model, "all+head")

    def fit(own):
        sums = covariance_sums(proxy, own, IDS, TEXTS, 3)
        bases = {name: eigenbasis(total) for name, total in sums.items()}
        squares = eigenvalue_sums(proxy, own, bases, IDS, TEXTS, 3)
        found = {**query_gradient(proxy, own, TEXTS).gradients}
        for name, total in sums.items():
            found |= {f"a/{name}": total.activation}
            found |= {f"g/{block}": g for block, g in total.gradients.items()}
            found |= {f"e/{block}": e for block, e in total.embeddings.items()}
            found |= {f"s/{block}": s for block, s in squares[name].squares.items()}
        return found

    whole = fit(blocks)
    monkeypatch.setattr(slices, "_SLICE_BYTES", 0)
    own = layer_slices(blocks)
    assert len(own) == 3
    parts = [fit(part) for part in own]
    assert sum(map(len, parts)) == len(whole)
    for name, tensor in (item for part in parts for item in part.items()):
        assert torch.equal(tensor, whole[name]), name
