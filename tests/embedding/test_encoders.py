"""Encoders of every layout that people publish, and what only looks like one."""

import json

import numpy as np
import pytest
import sentence_transformers
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import modules

from beam_quad.embedding import EmbedderSpec, embedder_costs, embedder_fingerprint, load_embedder
from beam_quad.errors import UsageError
from tests import hub
from tests.gradients import tiny

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
TEXTS = ["1 2 3", "4 5 6 7 8 9", "1 2 3 31"]


def words():
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "0"})
    return tokenizer


def save(folder, model, tokenizer=None):
    torch.manual_seed(0)
    model.save_pretrained(folder)
    (tokenizer or words()).save_pretrained(folder)
    return folder


def bert(**how):
    return transformers.BertModel(transformers.BertConfig(**SIZES), **how)


def reweight(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def layered(folder, *behind):
    """Saves an encoder as sentence-transformers does: modules.json and a folder for each further module."""
    save(folder / "base", bert())
    encoder = modules.Transformer(str(folder / "base"))
    layers = [encoder, modules.Pooling(16), *behind]
    sentence_transformers.SentenceTransformer(modules=layers, device="cpu").save(
        str(folder / "saved")
    )
    return folder / "saved"


def static(folder, vocabulary=32):
    tokenizer = words().backend_tokenizer
    torch.manual_seed(0)
    module = modules.StaticEmbedding(tokenizer, embedding_weights=torch.randn(vocabulary, 8))
    sentence_transformers.SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def routed(folder, **how):
    """Saves a router: static embeddings for queries, an encoder in a folder of its own for documents."""
    save(folder / "base", bert())
    static(folder / "static")
    query = sentence_transformers.SentenceTransformer(str(folder / "static"), device="cpu")
    router = modules.Router.for_query_document(
        query_modules=list(query),
        document_modules=[
            modules.Transformer(str(folder / "base")), modules.Pooling(16), modules.Dense(16, 8)
        ],
        **how,
    )  # fmt: skip
    sentence_transformers.SentenceTransformer(modules=[router], device="cpu").save(
        str(folder / "saved")
    )
    return folder / "saved"


LAYOUTS = {
    "a bare model": lambda folder: save(folder, bert()),
    "without a pooler": lambda folder: save(folder, bert(add_pooling_layer=False)),
    "a masked language model": lambda folder: save(
        folder, transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
    ),
    "mpnet": lambda folder: save(folder, transformers.MPNetModel(transformers.MPNetConfig(**SIZES))),
    "t5 with its decoder": lambda folder: save(
        folder,
        transformers.T5Model(
            transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        ),
    ),
    "a decoder that cannot pad": lambda folder: save(
        folder, tiny.model("gpt2", torch.float32), tiny.tokenizer()
    ),
    "modules": layered,
    "a dense layer": lambda folder: layered(folder, modules.Dense(16, 8), modules.Normalize()),
    "static": static,
    "a router": routed,
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_of_any_layout_is_found_whole_and_gives_unit_vectors(layout, tmp_path):
    spec = EmbedderSpec(str(LAYOUTS[layout](tmp_path)), num_threads=1)
    vectors = load_embedder(spec).embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert embedder_costs(spec).dim == vectors.shape[1]


def test_static_embeddings_are_cut_at_the_tokens_asked_for(tmp_path):
    spec = EmbedderSpec(str(static(tmp_path)), max_tokens=2)
    cut = load_embedder(spec).embed(["1 2", "1 2 3"])
    np.testing.assert_array_equal(cut[0], cut[1])
    assert embedder_costs(spec).max_tokens == 2
    whole = load_embedder(EmbedderSpec(str(tmp_path))).embed(["1 2", "1 2 3"])
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


def test_the_encoder_of_a_route_is_cut_at_the_tokens_asked_for(tmp_path):
    spec = EmbedderSpec(str(routed(tmp_path)), max_tokens=2)
    cut = load_embedder(spec).embed(["1 2", "1 2 3"])
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    assert embedder_costs(spec).max_tokens == 2


def test_the_dimension_is_asked_for_by_the_one_name_that_a_release_has(tmp_path, monkeypatch):
    spec = EmbedderSpec(str(static(tmp_path)))
    kind = sentence_transformers.SentenceTransformer
    for owner in kind.__mro__:
        if "get_sentence_embedding_dimension" in vars(owner):
            monkeypatch.delattr(owner, "get_sentence_embedding_dimension")
    assert embedder_costs(spec).dim == 8


def prefixed(folder):
    save(folder, bert())
    reweight(folder, lambda weights: {f"module.{key}": w for key, w in weights.items()})


def without_layer(folder):
    save(folder, bert())
    reweight(folder, lambda w: {k: t for k, t in w.items() if "layer.1." not in k})


def with_layer(folder):
    save(folder, bert())
    reweight(folder, lambda w: {**w, "encoder.layer.2.output.dense.bias": torch.ones(16)})


def narrow(folder):
    save(folder, bert())
    reweight(folder, lambda w: {**w, "embeddings.LayerNorm.bias": torch.ones(4)})


def without_vocabulary(folder):
    save(folder, bert())
    for file in folder.glob("token*"):
        file.unlink()


def with_token(folder):
    tokenizer = words()
    tokenizer.add_tokens(["<tool>"])
    save(folder, bert(), tokenizer)


def quantised(folder):
    save(folder, bert())
    path = folder / "config.json"
    quantization = {"quant_method": "gptq", "bits": 4}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "quantization_config": quantization})
    )


def pointer(folder):
    saved = layered(folder, modules.Dense(16, 8))
    (saved / "2_Dense" / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
    )
    return saved


def truncated(folder):
    save(folder, bert())
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def ranker(folder):
    config = transformers.BertConfig(**SIZES, num_labels=1)
    save(folder, transformers.BertForSequenceClassification(config))


def sparse(folder):
    saved = layered(folder)
    path = saved / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "SparseEncoder"}))
    return saved


def adapter(folder):
    save(folder, bert())
    (folder / "adapter_config.json").write_text("{}")


def route_without_layer(folder):
    saved = routed(folder)
    reweight(
        saved / "document_0_Transformer",
        lambda w: {k: t for k, t in w.items() if "layer.1." not in k},
    )
    return saved


def without_default_route(folder):
    return routed(folder, default_route=None, allow_empty_key=False)


FAULTS = {
    prefixed: "but for a prefix 'module.'",
    without_layer: "missing: 16, such as encoder.layer.1.",
    with_layer: "without a place in the model: 1, such as encoder.layer.2.",
    narrow: r"of another shape: 1, such as embeddings.LayerNorm.bias is [4] where the model has [16]",
    without_vocabulary: "its files are missing, or its vocabulary is empty",
    with_token: "'<tool>' with id 32",
    lambda folder: static(folder, vocabulary=31): "'31' with id 31",
    quantised: "is quantised (gptq)",
    pointer: "run git lfs pull",
    truncated: "incomplete metadata, file not fully covered",
    ranker: "is a cross-encoder or classifier",
    sparse: "is a SparseEncoder",
    adapter: "is an adapter",
    route_without_layer: "missing: 16, such as encoder.layer.1",
    without_default_route: "setting a default route",
}


@pytest.mark.parametrize("load", [load_embedder, embedder_costs])
@pytest.mark.parametrize("make", FAULTS, ids=list(FAULTS.values()))
def test_what_is_no_encoder_is_refused_in_one_line(make, load, tmp_path):
    folder = make(tmp_path) or tmp_path
    with pytest.raises(UsageError) as caught:
        load(EmbedderSpec(str(folder)))
    assert FAULTS[make] in str(caught.value)
    assert "--embedder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kernels_that_the_publisher_had_are_not_asked_for(tmp_path):
    save(tmp_path, bert())
    path = tmp_path / "config.json"
    asked = {"attn_implementation": "flash_attention_2"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **asked}))
    assert load_embedder(EmbedderSpec(str(tmp_path))).embed(["1 2"]).any()


def with_default_prompt(folder):
    saved = layered(folder)
    path = saved / "config_sentence_transformers.json"
    prompts = {"prompts": {"cluster": "30 30 30 "}, "default_prompt_name": "cluster"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **prompts}))
    return str(saved)


def test_a_prompt_is_put_before_every_text(tmp_path):
    folder = str(layered(tmp_path))
    (prompted,) = load_embedder(EmbedderSpec(folder, prompt="30 30 ")).embed(["1 2"])
    plain, spelt = load_embedder(EmbedderSpec(folder)).embed(["1 2", "30 30 1 2"])
    np.testing.assert_allclose(prompted, spelt, atol=1e-6)
    assert np.abs(prompted - plain).max() > 1e-3


def test_the_default_prompt_is_the_models_own_and_an_empty_one_is_none(tmp_path):
    folder = with_default_prompt(tmp_path)
    (default,) = load_embedder(EmbedderSpec(folder)).embed(["1 2"])
    plain, spelt = load_embedder(EmbedderSpec(folder, prompt="")).embed(["1 2", "30 30 30 1 2"])
    np.testing.assert_allclose(default, spelt, atol=1e-6)
    assert np.abs(default - plain).max() > 1e-3


def test_a_prompt_is_part_of_the_fingerprint(tmp_path):
    folder = str(save(tmp_path, bert()))
    prints = {embedder_fingerprint(EmbedderSpec(folder, prompt=p)) for p in (None, "", "query: ")}
    assert len(prints) == 3


def test_a_tokenizer_of_static_embeddings_needs_words(tmp_path):
    static(tmp_path)
    empty = tokenizers.Tokenizer(tokenizers.models.WordLevel({"0": 0}, unk_token="0"))
    empty.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="its vocabulary is empty"):
        load_embedder(EmbedderSpec(str(tmp_path)))


def test_a_hub_id_is_loaded_at_the_commit_that_names_it_and_again_from_the_cache(tmp_path):
    folder, cache = layered(tmp_path, modules.Dense(16, 8)), tmp_path / "cache"
    spec = EmbedderSpec("owner/encoder", revision="main")
    with hub.serving({spec.name: folder}) as (address, _), hub.connected(address, cache):
        assert embedder_fingerprint(spec).startswith(f"hub:owner/encoder@{hub.COMMIT}:")
        vectors = load_embedder(spec).embed(TEXTS)
    with hub.connected(address, cache, offline=True):
        again = load_embedder(EmbedderSpec("owner/encoder", revision=hub.COMMIT))
    np.testing.assert_array_equal(again.embed(TEXTS), vectors)
