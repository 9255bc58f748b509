"""Vectors of tokens: how they are distilled, and what becomes of a text."""

import dataclasses
import json

import numpy as np
import pytest

from beam_quad.embedding import (
    EmbedderSpec,
    StaticSpec,
    embedder_costs,
    embedder_fingerprint,
    load_embedder,
)
from beam_quad.embedding.token_vectors import StaticEmbedder, TokenVectors
from beam_quad.errors import UsageError
from tests.embedding import test_encoders as encoders
from tests.gradients import tiny

TEXTS = ["1 2 3", "4 5 6 7 8 9", "3", "1 1 1 2", "7 " * 2000]


def table(num_tokens=32, dim=6):
    vectors = np.random.default_rng(0).normal(size=(num_tokens, dim)).astype(np.float32)
    return TokenVectors(tiny.tokenizer().backend_tokenizer.to_str(), vectors)


def test_a_text_is_the_mean_of_its_tokens_vectors_of_norm_1():
    vectors = StaticEmbedder(table(), max_tokens=4).embed(["1 2 3 3 9", "5"])
    means = table().vectors[[1, 2, 3, 3]].mean(0), table().vectors[5]
    for found, mean in zip(vectors, means, strict=True):
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_vector_depends_on_its_text_alone_to_the_last_bit():
    embedder = StaticEmbedder(table(), max_tokens=512)
    together = embedder.embed(TEXTS)
    np.testing.assert_array_equal(embedder.embed(TEXTS[::-1])[::-1], together)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_array_equal(alone, together)


def test_a_text_without_tokens_has_a_vector_and_no_texts_have_none():
    embedder = StaticEmbedder(table(), max_tokens=512)
    assert embedder.embed(["", "1"]).any(axis=1).all()
    assert embedder.embed([]).shape == (0, 6)


def test_what_is_distilled_are_principal_components_weighted_by_rank():
    embeddings = np.random.default_rng(1).normal(size=(50, 8)) @ np.diag(np.arange(1, 9))
    found = TokenVectors.distilled("", embeddings, 3).vectors
    centered = embeddings - embeddings.mean(0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    zipf = 1 / np.arange(2, 52)
    weight = 1e-4 / (1e-4 + zipf / zipf.sum())
    expected = left[:, :3] * values[:3] * weight[:, None]
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-7)


def test_a_token_without_a_finite_embedding_has_zeros_and_leaves_the_others_alone():
    embeddings = np.random.default_rng(1).normal(size=(50, 8))
    expected = TokenVectors.distilled("", np.delete(embeddings, 49, axis=0), 3).vectors
    embeddings[49] = np.nan
    found = TokenVectors.distilled("", embeddings, 3).vectors
    np.testing.assert_array_equal(found[49], 0)
    cosines = (found[:49] * expected).sum(1) / np.linalg.norm(found[:49], axis=1)
    np.testing.assert_allclose(np.abs(cosines), np.linalg.norm(expected, axis=1), rtol=1e-3)


def test_bytes_bring_them_back():
    again = TokenVectors.from_bytes(table().to_bytes())
    assert again.tokenizer == table().tokenizer
    np.testing.assert_array_equal(again.vectors, table().vectors)


DISTILLED = (
    "a bare model", "mpnet", "t5 with its decoder", "a decoder that cannot pad", "a dense layer",
)  # fmt: skip


@pytest.mark.parametrize("layout", DISTILLED)
def test_a_token_is_embedded_as_a_text_of_its_own(layout, tmp_path):
    spec = EmbedderSpec(str(encoders.LAYOUTS[layout](tmp_path)), num_threads=1)
    encoder = load_embedder(spec)
    vectors = encoder.embed_tokens(np.arange(encoder.num_tokens))
    assert len(vectors) == 32
    found = vectors[[5, 17]] / np.linalg.norm(vectors[[5, 17]], axis=1, keepdims=True)
    np.testing.assert_allclose(found, encoder.embed(["5", "17"]), atol=1e-5)


def test_an_encoder_is_distilled_to_at_most_256_dimensions(tmp_path):
    spec = StaticSpec(EmbedderSpec(str(encoders.save(tmp_path, encoders.bert())), num_threads=1))
    vectors = load_embedder(spec).embed(TEXTS)
    assert vectors.shape == (5, 16) == (5, embedder_costs(spec).dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    few = dataclasses.replace(spec, dim=4)
    assert load_embedder(few).dim == embedder_costs(few).dim == 4
    assert spec.distilled_dim(384) == 256
    prints = {embedder_fingerprint(one) for one in (spec, few, spec.encoder)}
    assert len(prints) == 3


def as_model2vec(folder):
    """Lists the same module as model2vec does, with a vector a word and its weight apart."""
    encoders.static(folder)
    index = [
        {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(index))
    encoders.reweight(folder, lambda weights: {"embeddings": weights["embedding.weight"]})
    return folder


@pytest.mark.parametrize("make", [encoders.static, as_model2vec])
def test_a_model_of_static_embeddings_is_read_as_it_is(make, tmp_path):
    spec = StaticSpec(EmbedderSpec(str(make(tmp_path)), num_threads=1))
    vectors = load_embedder(spec).embed(TEXTS[:4])
    np.testing.assert_allclose(vectors, load_embedder(spec.encoder).embed(TEXTS[:4]), atol=1e-6)
    few = dataclasses.replace(spec, dim=4)
    assert load_embedder(few).dim == embedder_costs(few).dim == 4


@pytest.mark.parametrize("load", [load_embedder, embedder_costs])
def test_more_dimensions_than_the_encoder_has_are_refused(load, tmp_path):
    spec = StaticSpec(EmbedderSpec(str(encoders.save(tmp_path, encoders.bert()))), dim=17)
    with pytest.raises(UsageError, match="lower --embedder_dim"):
        load(spec)


@pytest.mark.parametrize("load", [load_embedder, embedder_costs])
def test_a_router_is_not_distilled(load, tmp_path):
    spec = StaticSpec(EmbedderSpec(str(encoders.routed(tmp_path))))
    with pytest.raises(UsageError, match="this one begins with Router; pass another"):
        load(spec)
