"""Static embeddings: token vectors distilled from a sentence encoder, or read from a static model."""

from pathlib import Path

import numpy as np

from beam_quad.embedding import sentence
from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.sources import is_static, locate, source_fingerprint
from beam_quad.embedding.spec import EmbedderSpec, StaticSpec
from beam_quad.embedding.token_vectors import StaticEmbedder, TokenVectors

VERSION = 1  # part of the fingerprint; raise it when the vectors of any text change


def load(spec: StaticSpec, _: object) -> StaticEmbedder:
    """As `EmbedderModule`; distils the encoder if needed, which takes a minute."""
    directory = locate(spec.encoder)
    if is_static(directory):
        return StaticEmbedder(_stored_vectors(directory, spec.encoder), spec.max_tokens, spec.dim)
    encoder = sentence.SentenceEmbedder(directory, spec.encoder)
    embeddings = encoder.embed_tokens(np.arange(encoder.num_tokens))
    sentence.checked_dimension(spec.encoder.name, spec.dim, embeddings.shape[1])
    dim = spec.distilled_dim(embeddings.shape[1])
    vectors = TokenVectors.distilled(encoder.tokenizer(), embeddings, dim)
    return StaticEmbedder(vectors, spec.max_tokens)


def fingerprint(spec: StaticSpec, _: object) -> str:
    """As `EmbedderModule`."""
    source = source_fingerprint(spec.encoder)
    return f"static:v{VERSION}:{source}:dim={spec.dim}:max_tokens={spec.max_tokens}"


def costs(spec: StaticSpec) -> EmbedderCosts:
    """As `EmbedderModule`; a text costs no FLOPs, because there is no matrix product, but an encoder has to be distilled."""
    directory, fit_flops = locate(spec.encoder), 0.0
    if is_static(directory):
        full_dim = dim = int(_stored_vectors(directory, spec.encoder).vectors.shape[1])
    else:
        encoder = sentence.skeleton_costs(directory, spec.encoder)
        full_dim, dim = encoder.dim, spec.distilled_dim(encoder.dim)
        # Refuses an encoder that cannot be distilled.
        tokenizer = sentence.own_tokenizer(sentence.load_model(directory, spec.encoder, {}))
        # Every token is embedded between the special tokens of a text.
        fit_flops = len(tokenizer) * encoder.flops(1 + tokenizer.num_special_tokens_to_add())
    sentence.checked_dimension(spec.encoder.name, spec.dim, full_dim)
    return EmbedderCosts(spec.dim or dim, spec.max_tokens, fit_flops=fit_flops)


def _stored_vectors(directory: Path, encoder: EmbedderSpec) -> TokenVectors:
    """Reads a model of static embeddings."""
    module = sentence.load_model(directory, encoder, {"device": "cpu"})[0]
    vectors = module.embedding.weight.detach().float().numpy()
    return TokenVectors(module.tokenizer.to_str(), vectors)
