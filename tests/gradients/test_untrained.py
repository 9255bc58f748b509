"""Models that nobody has trained."""

import json
import re

import pytest
import torch

from beam_quad.errors import UsageError
from beam_quad.gradients import ProxySpec, load_proxy, untrained
from tests.gradients import tiny


@pytest.fixture
def folder(tmp_path):
    """A configuration with a tokenizer and no weights."""
    proxy = tiny.proxy()
    proxy.tokenizer.save_pretrained(tmp_path / "bare")
    proxy.model.config.save_pretrained(tmp_path / "bare")
    return tmp_path / "bare"


def weights(spec: ProxySpec, seed: int) -> dict[str, torch.Tensor]:
    model = untrained.load_untrained(spec, None, seed).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_seed_draws_the_same_weights_whatever_was_drawn_before(folder):
    spec = ProxySpec(str(folder))
    first = weights(spec, 3)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    again, other = weights(spec, 3), weights(spec, 4)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_weights_are_drawn_alike_for_every_dtype(folder):
    single, half = (weights(ProxySpec(str(folder), dtype=d), 0) for d in ("float32", "bfloat16"))
    assert all(
        torch.equal(tensor.bfloat16(), half[name].bfloat16()) for name, tensor in single.items()
    )
    assert torch.bfloat16 in {tensor.dtype for tensor in half.values()}


def test_a_file_and_a_folder_with_no_weights_of_any_kind_are_bare(folder):
    config = folder / "config.json"
    assert untrained.is_bare(str(folder))
    assert untrained.is_bare(str(config))
    assert not untrained.is_bare(str(folder / "nowhere"))
    for name in (
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "adapter_config.json",
    ):
        (folder / name).write_bytes(b"")
        assert not untrained.is_bare(str(folder)), name
        (folder / name).unlink()
    config.unlink()
    assert not untrained.is_bare(str(folder))


def test_as_a_proxy_a_folder_without_weights_is_refused(folder):
    with pytest.raises(UsageError, match=r"has no model.safetensors"):
        load_proxy(ProxySpec(str(folder)))


def test_another_configuration_or_tokenizer_is_another_content(folder):
    found = [untrained.fingerprint(str(folder)), untrained.fingerprint(str(folder / "config.json"))]
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"initializer_range": 0.5}))
    found += [
        untrained.fingerprint(str(folder)),
        untrained.fingerprint(str(folder / "config.json")),
    ]
    (folder / "tokenizer.json").write_text("{}")
    assert untrained.fingerprint(str(folder / "config.json")) == found[3]
    assert len({*found, untrained.fingerprint(str(folder))}) == 5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "no model configuration in"),
        ('{"model_type": "t5"}', "no causal language model can be made of"),
        ('{"model_type": "nonsense"}', "no model configuration in"),
    ],
)
def test_what_is_no_configuration_of_a_causal_language_model_is_refused_in_a_line(
    tmp_path, config, words
):
    path = tmp_path / "own.json"
    path.write_text(config)
    with pytest.raises(
        UsageError, match=f"{words}.*{re.escape(str(path))}.*--proof_model"
    ) as caught:
        untrained.load_empty_model(ProxySpec(str(path)))
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_ahead_is_refused(tmp_path):
    path = tmp_path / "bert.json"
    fields = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    path.write_text(json.dumps(fields | {"intermediate_size": 16, "vocab_size": 30}))
    with pytest.raises(UsageError, match=r"--proof_model=.* sees the tokens that it is to predict"):
        untrained.load_untrained(ProxySpec(str(path)), None, 0)
