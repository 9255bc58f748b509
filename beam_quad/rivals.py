"""Rivals, in memory: simple rankings that anyone can run in an afternoon and a selection by influence must beat.

    dsir                hashed words: importance resampling (Xie et al. 2023)
    ngram               uni- and bigrams of the proxy's tokens: influence under a model of nothing else
    similarity_mean     mean cosine of the embedding to those of the query set (BETR, Mizrahi et al. 2025)
    similarity_best     cosine to the nearest of the query set
    cluster_histogram   clusters sampled by the query set's histogram (CRISP, Grangier et al. 2024)
    loss_drop           fall of the loss by tuning the proxy on the query set (CoLoR-Filter, Brandfonbrener et al. 2024)

    scores = rivals.score("ngram", texts, query_texts, "HuggingFaceTB/SmolLM2-135M")
    indices = rivals.select_by(scores, tokens, budget_tokens=1_000_000)

None of them needs the gradient of a text. The formulas are in `scoring` and `clustering`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad import answers, seeding
from beam_quad.clustering import (
    PointSum,
    assign,
    best_similarity,
    cluster_log_weights,
    mean_similarity,
)
from beam_quad.embedding import AnyEmbedderSpec, load_embedder
from beam_quad.errors import UsageError
from beam_quad.gradients import Proxy, ProxySpec, Tuning, load_proxy
from beam_quad.influence import (
    Array,
    Examples,
    QueryTexts,
    check_at_least_one,
    check_choice,
    check_texts,
    cluster_examples,
    embed_examples,
    embedder_spec,
    proxy_spec,
    query_groups,
    runs_of,
    score_texts,
)
from beam_quad.records import Budget, count_lengths
from beam_quad.scoring import (
    DSIRScorer,
    LossDropScorer,
    NgramCounts,
    sampling_priority,
    tune_on_query,
)
from beam_quad.scoring.groups import combine_standardised
from beam_quad.selection import rank_usable
from beam_quad.selection.filling import Limits, fill_budget
from beam_quad.selection.within_shares import GivenShares
from beam_quad.shortlist import score_ngrams

# A cluster with a larger share of the texts is split again, as in `select`.
_MAX_CLUSTER_SHARE = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """The input of a rival.

    Attributes:
      proxy: The model, for its tokenizer and its loss.
      examples: The usable texts to rank.
      queries: The texts to become good at, by group.
      group_weights: Weight of each group.
      embedder: The embedder.
      seed: Seed of every draw.
    """

    proxy: Proxy
    examples: Examples
    queries: dict[str, list[str]]
    group_weights: list[float]
    embedder: AnyEmbedderSpec
    seed: int

    @property
    def query_texts(self) -> list[str]:
        """The texts to become good at, pooled over groups."""
        return list(itertools.chain.from_iterable(self.queries.values()))


def score(
    policy: str,
    texts: Sequence[str],
    query_texts: QueryTexts,
    proxy_model: str | ProxySpec,
    *,
    query_weights: Mapping[str, float] | None = None,
    ids: Sequence[str] | None = None,
    embedder: str | AnyEmbedderSpec = "minilm",
    seed: int = 0,
) -> Array:
    """Scores every text by a rival.

    Args:
      policy: Name of the rival, one of `RIVALS`.
      texts: The n texts to rank.
      query_texts: The texts to become good at; `ngram` weighs several groups, and all others pool them.
      proxy_model: The proxy, as in `beam_quad.select`.
      query_weights: Weights of query groups; 1 by default.
      ids: Distinct ids of the texts, which decide every draw; by default their positions.
      embedder: As in `beam_quad.select`; loaded only if the rival compares embeddings.
      seed: Seed of every draw.

    Returns:
      Float64 [n], higher is selected first; nan for an unusable text, which is never selected.

    Raises:
      UsageError: If an argument is invalid; the message, of one line, names it.
    """
    check_choice("policy", policy, tuple(RIVALS))
    texts, ids = check_texts(texts, ids)
    queries, group_weights = query_groups(query_texts, query_weights)
    proxy_model = proxy_spec(proxy_model)
    proxy = load_proxy(proxy_model)
    material = Material(
        proxy=proxy,
        examples=Examples.of(texts, ids, proxy),
        queries=queries,
        group_weights=group_weights,
        embedder=embedder_spec(embedder, proxy_model, seed),
        seed=seed,
    )
    return RIVALS[policy](material)


def select_by(
    scores: Array,
    tokens: Array,
    budget_tokens: int,
    *,
    ids: Sequence[str] | None = None,
    shares: Sequence[str] = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
) -> Array:
    """Selects the texts of the highest scores until a token budget is met.

    Args:
      scores: Float [n]. Texts with a score that is not finite are never selected. Scores are compared in single
        precision; a hash breaks ties.
      tokens: Tokens of each text, int64 [n].
      budget_tokens: Tokens to select. The text in which the budget ends is selected; texts too long for the budget
        (`records.Budget.longest`) are passed over.
      ids: Distinct ids of the texts; by default their positions.
      shares: Bounds on parts of the budget, as in `beam_quad.select`.
      columns: The columns that they name: a value for each text.
      seed: Seed of the hash.

    Returns:
      Positions of the selected texts, ascending, int64 [m]. Their tokens fall short of the budget only if the texts
      hold fewer.
    """
    check_at_least_one(budget_tokens=budget_tokens)
    scores, tokens = np.asarray(scores, np.float64), np.asarray(tokens, np.int64)
    keys = seeding.keys(map(str, range(len(scores))) if ids is None else ids)
    if not len(scores) == len(tokens) == len(keys):
        raise UsageError(
            f"there are {len(scores)} scores, {len(tokens)} numbers of tokens and {len(keys)} ids; pass as many of each"
        )
    # `QuadSelection.tokens` and `DistilledSelection.tokens` are 0 for unusable texts.
    is_usable = tokens > 0
    is_candidate = is_usable & (tokens <= Budget(budget_tokens).longest(*count_lengths(tokens)))
    given = GivenShares.of(shares, columns, len(scores))
    groups = given.over(np.arange(len(scores)), tokens, is_candidate, Budget(budget_tokens))
    limits = Limits(groups)
    packed, _ = rank_usable(scores, is_usable, limits.may_give(is_candidate), keys, seed)
    filled = fill_budget(packed, scores, keys, tokens, budget_tokens, limits, seed, "score")
    return np.flatnonzero(filled.is_selected)


def dsir_scores(material: Material) -> Array:
    """Adds Gumbel noise to the log importance weight of each text's hashed words: the highest scores are a sample."""
    examples = material.examples
    scorer = DSIRScorer(NgramCounts.of(material.query_texts), NgramCounts.of(examples.texts))
    log_weights = scorer.score(examples.texts)[:, 0]
    return examples.spread(sampling_priority(log_weights, examples.keys, material.seed), np.nan)


def ngram_scores(material: Material) -> Array:
    """Scores texts by influence under a model of uni- and bigrams of the proxy's tokens."""
    examples, weights = material.examples, material.group_weights
    scores = score_ngrams(material.proxy, examples, material.queries, weights, material.seed)
    return examples.spread(combine_standardised(scores, weights), np.nan)


def similarity_scores(material: Material, is_best: bool) -> Array:
    """Scores texts by the cosine to the nearest query text, or by the mean cosine to all query texts."""
    examples, points = embed_examples(material.examples, material.embedder, material.proxy)
    query_points, _ = _embed_queries(material)
    if is_best:
        cosines = best_similarity(points.astype(np.float32), query_points.astype(np.float32))
    else:
        cosines = mean_similarity(points, PointSum.of(query_points))
    return examples.spread(cosines.astype(np.float64), np.nan)


def cluster_histogram_scores(material: Material) -> Array:
    """Adds Gumbel noise to the log importance weight of each text's cluster: the highest scores are a sample."""
    examples, points = embed_examples(material.examples, material.embedder, material.proxy)
    centers, clusters = cluster_examples(examples, points, None, _MAX_CLUSTER_SHARE, material.seed)
    query_points, keys = _embed_queries(material)
    of_query, _ = assign(query_points.astype(np.float32), keys, centers, material.seed)
    query_counts, corpus_counts = (
        np.bincount(own, minlength=centers.num_clusters) for own in (of_query, clusters)
    )
    log_weights = cluster_log_weights(query_counts, corpus_counts)[clusters]
    return examples.spread(sampling_priority(log_weights, examples.keys, material.seed), np.nan)


def loss_drop_scores(material: Material) -> Array:
    """Scores texts by their loss under the proxy less their loss under a tuned copy, in nats per token."""
    tuned = tune_on_query(material.proxy, material.query_texts, Tuning(seed=material.seed))
    scores = score_texts(LossDropScorer(material.proxy, tuned), material.examples.texts)
    return material.examples.spread(scores[:, 0], np.nan)


RIVALS: dict[str, Callable[[Material], Array]] = {
    "dsir": dsir_scores,
    "ngram": ngram_scores,
    "similarity_mean": functools.partial(similarity_scores, is_best=False),
    "similarity_best": functools.partial(similarity_scores, is_best=True),
    "cluster_histogram": cluster_histogram_scores,
    "loss_drop": loss_drop_scores,
}


def _embed_queries(material: Material) -> tuple[Array, Array]:
    """Embeds the nonblank query texts: unit rows, float16 [n, dim], and keys by the texts themselves, uint64 [n]."""
    texts = [text for text in material.query_texts if text and not text.isspace()]
    model = load_embedder(material.embedder, proxy_of=lambda _: material.proxy)
    points = np.zeros((len(texts), model.dim), np.float16)
    for run in runs_of(len(texts)):
        points[run] = model.embed(answers.all_plain(texts[run]))
    has_vector = points.any(axis=1)
    if not has_vector.any():
        raise UsageError("no query text has an embedding")
    return points[has_vector], seeding.keys(texts)[has_vector]
