"""What a checkpoint's files tell before any weight is read, and whether what loads is the model that they name."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from beam_quad.errors import UsageError
from beam_quad.gradients import (
    ProxySpec,
    content_fingerprint,
    find_blocks,
    load_proxy,
    load_tokenizer,
)
from beam_quad.gradients.proxy import default_context_length, load_skeleton
from tests import hub
from tests.gradients import tiny


@pytest.fixture(autouse=True)
def restore_torch():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def folder(tmp_path):
    return save("llama", tmp_path / "model")


def save(family, folder, model=None, **how):
    (model or tiny.model(family, torch.float32)).save_pretrained(folder, **how)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def configure(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def reweight(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refusal(load, folder, **spec):
    with pytest.raises(UsageError) as raised:
        load(ProxySpec(str(folder), **spec))
    message = str(raised.value)
    assert "\n" not in message
    assert "--proxy_model" in message
    return message


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_every_family_is_found_whole_without_its_weights(family, tmp_path):
    skeleton = load_skeleton(ProxySpec(str(save(family, tmp_path))))
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_family_is_taken_for_one_that_sees_ahead(family, dtype, tmp_path):
    load_proxy(ProxySpec(str(save(family, tmp_path)), dtype=dtype))


def test_shards_are_found_by_their_index(tmp_path):
    save("llama", tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    load_skeleton(ProxySpec(str(tmp_path)))


def test_a_base_model_without_its_prefix_is_whole(tmp_path):
    # As the published GPT-2: names without "transformer.", masks that are made now, the head tied.
    save("gpt2", tmp_path)

    def publish(weights):
        named = {
            key.removeprefix("transformer."): w
            for key, w in weights.items()
            if key != "lm_head.weight"
        }
        return {
            **named,
            "h.0.attn.bias": torch.ones(1, 1, 64, 64),
            "h.0.attn.masked_bias": torch.ones(1),
        }

    reweight(tmp_path, publish)
    load_skeleton(ProxySpec(str(tmp_path)))
    load_proxy(ProxySpec(str(tmp_path)))


FAULTS = {
    "a prefix": (lambda w: {f"_orig_mod.{k}": t for k, t in w.items()}, "prefix '_orig_mod.'"),
    "no head": (lambda w: {k: t for k, t in w.items() if k != "lm_head.weight"}, "missing: 1, such as lm_head"),
    "a layer less": (lambda w: {k: t for k, t in w.items() if "layers.1." not in k}, "missing: 9"),
    "a layer more": (
        lambda w: {**w, **{k.replace("layers.1.", "layers.2."): t.clone() for k, t in w.items() if "layers.1." in k}},
        "without a place in the model: 9, such as model.layers.2.",
    ),
    "a score": (lambda w: {**w, "score.weight": torch.ones(1, 16)}, "without a place in the model: 1, such as score"),
    "another width": (lambda w: {**w, "model.norm.weight": torch.ones(8)}, r"of another shape: 1, such as model.norm.weight is [8]"),
    "quantised": (
        lambda w: {**w, "lm_head.weight": w["lm_head.weight"].to(torch.float8_e4m3fn)},
        "quantised (lm_head.weight is F8_E4M3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_the_models_are_refused_without_reading_them(fault, folder):
    change, words = FAULTS[fault]
    reweight(folder, change)
    assert words in refusal(load_skeleton, folder)


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "quantised"])
def test_weights_that_are_not_the_models_are_refused_when_they_are_read(fault, folder):
    change, words = FAULTS[fault]
    reweight(folder, change)
    assert words in refusal(load_proxy, folder)


def test_a_git_lfs_pointer_is_refused(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\nsize 5\n"
    )
    assert "run git lfs pull" in refusal(load_skeleton, folder)


def test_a_cut_file_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "model.safetensors is cut off or damaged" in refusal(load_skeleton, folder)


def test_a_missing_shard_is_refused(tmp_path):
    save("llama", tmp_path, max_shard_size="4KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    shard.unlink()
    assert f"missing, such as {shard.name}" in refusal(load_skeleton, tmp_path)


@pytest.mark.parametrize(
    "method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4"]
)
def test_a_quantised_checkpoint_is_refused(method, folder):
    configure(folder, quantization_config={"quant_method": method})
    assert f"is quantised ({method})" in refusal(load_skeleton, folder)


def test_kernels_that_the_publisher_had_are_not_asked_for(folder):
    configure(
        folder, attn_implementation="flash_attention_2", _attn_implementation="flash_attention_2"
    )
    assert load_proxy(ProxySpec(str(folder))).model.config._attn_implementation == "sdpa"


def test_a_damaged_tokenizer_is_refused_in_one_line(folder):
    (folder / "tokenizer.json").write_text("{")
    assert "no tokenizer of the proxy model" in refusal(load_proxy, folder)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2", "gemma3", "cohere"])
def test_a_tokenizer_that_was_made_up_is_refused(family, tmp_path):
    tiny.model(family, torch.float32).save_pretrained(tmp_path)
    assert "its files are missing, or its vocabulary is empty" in refusal(load_proxy, tmp_path)


def test_a_token_beyond_the_embedding_is_refused(folder):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    assert "its embedding has 32 rows, and its tokenizer has tokens beyond them (1, such as '<tool>' with id 32)" in (
        refusal(load_proxy, folder)
    )  # fmt: skip


@pytest.mark.parametrize(
    "add",
    [
        lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<7>"}),
        lambda tokenizer: tokenizer.add_tokens(["<7>"], special_tokens=True),
    ],
    ids=["with a role", "without one"],
)
def test_a_special_token_beyond_the_embedding_is_read_as_text(add, folder, caplog):
    tokenizer = load_tokenizer(str(folder))
    add(tokenizer)
    tokenizer.save_pretrained(folder)
    proxy = load_proxy(ProxySpec(str(folder)))
    assert proxy.read(["5 <7> 6"]).windows[0].tokens == [5, 0, 7, 0, 6]
    assert "special tokens <7> have no row" in caplog.text


ENCODER = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
SEEING = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER)),
    "electra": lambda: transformers.ElectraForCausalLM(transformers.ElectraConfig(**ENCODER)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**ENCODER, is_causal=False)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**ENCODER, head_dim=8, num_key_value_heads=1, use_bidirectional_attention=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", SEEING)
def test_a_model_that_sees_what_it_is_to_predict_is_refused(family, dtype, tmp_path):
    save(family, tmp_path, SEEING[family]())
    assert "sees the tokens that it is to predict" in refusal(load_proxy, tmp_path, dtype=dtype)


def test_an_encoder_that_was_made_a_decoder_is_taken(tmp_path):
    config = transformers.BertConfig(**ENCODER, is_decoder=True)
    save("bert", tmp_path, transformers.BertLMHeadModel(config))
    load_proxy(ProxySpec(str(tmp_path)))


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "mpt", "opt"]  # each names its positions otherwise
)  # fmt: skip
def test_positions_are_seen_under_any_name(family, tmp_path):
    save(family, tmp_path)
    assert load_proxy(ProxySpec(str(tmp_path))).context_length == 64
    with pytest.raises(UsageError, match="has 64 positions; pass --context_length=64 or less"):
        load_proxy(ProxySpec(str(tmp_path), context_length=65))


@pytest.mark.parametrize(
    "name", ["n_positions", "max_seq_len", "max_sequence_length", "max_target_positions", "n_ctx"]
)
def test_positions_are_read_from_a_configuration(name):
    config = transformers.PretrainedConfig(**{name: 48})
    assert default_context_length(config, ProxySpec("model")) == 48


def test_of_a_multimodal_model_the_decoder_alone_is_tracked():
    text = {**ENCODER, "num_key_value_heads": 2, "head_dim": 8}
    vision = {**ENCODER, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = [block.name for block in find_blocks(model, "all")]
    assert len(names) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in names)


def test_a_revision_of_a_folder_is_refused(folder):
    assert "--proxy_revision is for a hub id" in refusal(load_proxy, folder, revision="v2")


def test_a_hub_id_is_loaded_at_the_commit_that_names_it_and_again_from_the_cache(folder, tmp_path):
    with (
        hub.serving({"owner/model": folder}) as (address, asked),
        hub.connected(address, tmp_path / "cache"),
    ):
        assert content_fingerprint("owner/model", "main") == f"hub:owner/model@{hub.COMMIT}"
        assert not any("safetensors" in path and "resolve" in path for path in asked)
        first = load_proxy(ProxySpec("owner/model"))
    with hub.connected(address, tmp_path / "cache", offline=True):
        assert content_fingerprint("owner/model") == f"hub:owner/model@{hub.COMMIT}"
        again = load_proxy(ProxySpec("owner/model", revision=hub.COMMIT))
    assert torch.equal(first.model.lm_head.weight, again.model.lm_head.weight)


def test_of_a_hub_id_only_what_loads_is_downloaded(folder, tmp_path):
    for name in ("consolidated.safetensors", "pytorch_model.bin", "README.md", "modeling.py"):
        shutil.copy(folder / "config.json", folder / name)
    with (
        hub.serving({"owner/model": folder}) as (address, asked),
        hub.connected(address, tmp_path / "cache"),
    ):
        load_proxy(ProxySpec("owner/model"))
    given = {path.rpartition("/")[2] for path in asked if "/resolve/" in path}
    assert given == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip


def test_a_hub_id_is_planned_by_the_headers_of_its_weights_which_are_not_downloaded(
    folder, tmp_path
):
    with (
        hub.serving({"owner/model": folder}) as (address, _),
        hub.connected(address, tmp_path / "cache"),
    ):
        load_skeleton(ProxySpec("owner/model"))
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
        reweight(folder, lambda weights: {"other." + key: w for key, w in weights.items()})
        assert "a prefix 'other.'" in refusal(load_skeleton, "owner/model")
        (folder / "model.safetensors").unlink()
        assert "no safetensors weights" in refusal(load_skeleton, "owner/model")


def test_a_hub_id_that_is_not_there_is_refused(folder, tmp_path):
    with (
        hub.serving({"owner/model": folder}) as (address, _),
        hub.connected(address, tmp_path / "cache"),
    ):
        assert "the hub does not give it" in refusal(load_proxy, "owner/other")
