import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.embedding import EmbedderSpec, embedder_fingerprint, load_embedder
from beam_quad.embedding.hashing import HashingEmbedder
from beam_quad.errors import UsageError


def test_a_document_is_its_logarithmic_word_counts_of_norm_1():
    embedder = HashingEmbedder(dim=4096)
    cat, sat, both = embedder.embed(["cat", "sat", "Cat, cat! CAT sat."])
    expected = math.log(4) * cat + math.log(2) * sat
    np.testing.assert_allclose(both, expected / np.linalg.norm(expected), rtol=1e-6)
    assert np.count_nonzero(both) == 2


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
def test_every_text_gets_the_same_unit_vector_in_any_company(texts):
    embedder = HashingEmbedder(dim=64)
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(embedder.embed([text])[0], vector)


def test_texts_without_spaces_share_their_characters():
    weather, climate, greeting = HashingEmbedder().embed(["今日天気", "天気今日", "你好世界"])
    assert weather @ climate == pytest.approx(1)
    assert weather @ greeting < 0.5


def test_words_after_the_limit_do_not_count():
    short, long = HashingEmbedder(max_words=2).embed(["one two", "one two three four"])
    np.testing.assert_array_equal(short, long)


def test_the_spec_decides_dimension_and_fingerprint():
    spec = EmbedderSpec("hashing", dim=100)
    assert load_embedder(spec).dim == 100
    assert embedder_fingerprint(spec) != embedder_fingerprint(EmbedderSpec("hashing"))
    assert embedder_fingerprint(spec) == embedder_fingerprint(
        EmbedderSpec("hashing", dim=100, device="cuda", num_threads=3)
    )


def test_a_dimension_of_zero_is_refused():
    with pytest.raises(UsageError, match="dim must be at least 1"):
        EmbedderSpec("hashing", dim=0)
