"""How products of a proxy's first blocks are named, loaded and priced; see tests/gradients/test_jvp for the numbers."""

import dataclasses
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from beam_quad import identity
from beam_quad.embedding import JvpSpec, embedder_fingerprint, jvp, load_embedder
from beam_quad.embedding.jvp_costs import first_blocks, jvp_costs
from beam_quad.errors import UsageError
from beam_quad.gradients import ProxySpec
from tests.gradients import tiny

SPEC = JvpSpec(ProxySpec("somewhere"))
LENGTH = 16
TEXTS = tiny.texts([LENGTH] * 3)


def changed(**changes):
    """Changes a field of the spec, or of its proxy."""
    names = {field.name for field in dataclasses.fields(ProxySpec)}
    proxy = {name: value for name, value in changes.items() if name in names}
    rest = {name: value for name, value in changes.items() if name not in names}
    return dataclasses.replace(SPEC, proxy=dataclasses.replace(SPEC.proxy, **proxy), **rest)


def test_a_worker_loads_what_the_spec_names_on_the_proxy_that_it_holds():
    spec = pickle.loads(pickle.dumps(changed(num_blocks=1, num_tangents=3, dim=20, seed=5)))
    proxies = {spec.proxy: tiny.proxy(dtype=torch.float32)}
    (proxy,) = proxies.values()
    expected = jvp.JvpEmbedder(proxy, num_blocks=1, num_tangents=3, dim=20, seed=5).embed(TEXTS)
    np.testing.assert_array_equal(
        load_embedder(spec, proxies.__getitem__).embed(TEXTS), expected, strict=True
    )


@pytest.mark.parametrize(
    "change",
    [
        {"context_length": 32},
        {"dtype": "bfloat16"},
        {"num_blocks": 3},
        {"num_tangents": 1},
        {"dim": 100},
        {"seed": 1},
    ],
)
def test_the_fingerprint_follows_what_decides_the_vectors(change):
    assert embedder_fingerprint(changed(**change), "model") != embedder_fingerprint(SPEC, "model")
    assert identity.digest(changed(**change)) != identity.digest(SPEC)


def test_the_fingerprint_follows_the_version_and_the_model(monkeypatch, tmp_path):
    before = embedder_fingerprint(SPEC, "model")
    monkeypatch.setattr(jvp, "VERSION", jvp.VERSION + 1)
    after = embedder_fingerprint(SPEC, "model")
    assert len({before, after, embedder_fingerprint(SPEC, "another model")}) == 3
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    here, there = (changed(path=str(tmp_path / name)) for name in "ab")
    assert embedder_fingerprint(here) == embedder_fingerprint(there)
    (tmp_path / "b" / "config.json").write_text("[]")
    assert embedder_fingerprint(here) != embedder_fingerprint(there)


def test_where_and_how_the_proxy_runs_is_no_part_of_the_content():
    place = {"path": "there", "revision": "main", "device": "cuda:1", "num_threads": 3}
    for there in (changed(**place), changed(max_windows=9)):
        assert embedder_fingerprint(there, "model") == embedder_fingerprint(SPEC, "model")
        assert identity.digest(there) == identity.digest(changed(device=there.device))
    # It decides the last bits, and vectors of a GPU and of a CPU do not mix.
    assert identity.digest(changed(device="cuda")) != identity.digest(SPEC)
    assert changed(**place).device == "cuda:1"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "phi3", "gemma2", "opt", "mpt"])
@pytest.mark.parametrize("shape", [{}, {"num_blocks": 1, "num_tangents": 3, "dim": 20}])
def test_the_costs_are_those_counted(family, shape):
    proxy = tiny.proxy(family, torch.float32)
    spec = changed(**shape)
    embedder = load_embedder(spec, lambda _: proxy)
    with FlopCounterMode(display=False) as counter:
        embedder.embed(TEXTS)
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(proxy.model.config)
    costs = jvp_costs(skeleton, spec, LENGTH)
    assert costs.dim == embedder.dim
    assert costs.flops(LENGTH) * len(TEXTS) == counter.get_total_flops()
    assert costs.flops(10 * LENGTH) == costs.flops(LENGTH)  # the first window is read


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_a_mixture_is_refused_by_its_skeleton(family):
    with pytest.raises(UsageError, match=r"mixture of experts.*another --embedder"):
        first_blocks(tiny.model(family), 4)


def test_a_model_without_one_stack_of_blocks_is_refused_by_its_skeleton():
    model = tiny.model()
    model.config.num_hidden_layers = 5
    with pytest.raises(UsageError, match="no stack of 5 blocks"):
        first_blocks(model, 4)


@pytest.mark.parametrize("field", ["num_blocks", "num_tangents", "dim"])
def test_a_number_below_1_is_refused(field):
    with pytest.raises(UsageError, match=f"{field} must be at least 1"):
        changed(**{field: 0})
