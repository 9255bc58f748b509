import pytest
import torch

from beam_quad import errors
from beam_quad.gradients import ProxySpec, content_fingerprint, load_proxy, proxy
from tests.gradients import tiny


@pytest.fixture
def folder(tmp_path):
    tiny.model("llama", torch.float32).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def restore_torch():
    yield
    torch.use_deterministic_algorithms(False)


def test_loads_a_frozen_model_in_the_asked_dtype(folder):
    loaded = load_proxy(ProxySpec(str(folder), dtype="bfloat16", num_threads=1))
    assert loaded.dtype == torch.bfloat16
    assert loaded.sum_dtype == torch.float32
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.context_length == 64
    assert torch.are_deterministic_algorithms_enabled()


def test_the_fingerprint_is_of_the_content(folder):
    before = content_fingerprint(str(folder))
    (folder / "README.md").write_text("nothing")
    assert content_fingerprint(str(folder)) == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert content_fingerprint(str(folder)) != before


@pytest.mark.parametrize("make", [lambda p: load_proxy(ProxySpec(p)), content_fingerprint])
def test_a_missing_path_is_one_line(make, tmp_path):
    with pytest.raises(errors.UsageError, match="missing") as raised:
        make(str(tmp_path / "missing"))
    assert "\n" not in str(raised.value)


def test_refuses_other_weights_than_safetensors(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(errors.UsageError, match="only safetensors"):
        load_proxy(ProxySpec(str(folder)))


def test_refuses_an_adapter_without_its_base(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(errors.UsageError, match="is an adapter, not a model: merge it"):
        load_proxy(ProxySpec(str(folder)))


def test_refuses_a_model_without_tokenizer(tmp_path):
    tiny.model("llama", torch.float32).save_pretrained(tmp_path)
    with pytest.raises(errors.UsageError, match="tokenizer"):
        load_proxy(ProxySpec(str(tmp_path)))


def test_refuses_a_context_beyond_the_models_positions(folder):
    with pytest.raises(errors.UsageError, match=r"65 but .* has 64 positions"):
        load_proxy(ProxySpec(str(folder), context_length=65))


def test_never_falls_back_to_the_cpu(folder, monkeypatch):
    monkeypatch.setattr(proxy.torch.cuda, "is_available", lambda: False)
    with pytest.raises(errors.DeviceError, match="cuda is not there"):
        load_proxy(ProxySpec(str(folder), device="cuda"))


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float16"}, {"device": "tpu"}, {"max_windows": 0}, {"max_batch_tokens": 0}]
)
def test_refuses_options_it_does_not_know(wrong):
    with pytest.raises(errors.UsageError, match=next(iter(wrong))):
        ProxySpec("model", **wrong)
