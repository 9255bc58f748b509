"""What policies look at: scores of all documents for all query domains, each computed once."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from beam_quad import quad, seeding
from beam_quad.clustering import assign, cluster_log_weights
from beam_quad.embedding import EmbedderSpec, load_embedder
from beam_quad.gradients import (
    Block,
    Proxy,
    Tuning,
    find_blocks,
    load_proxy,
    passes,
    tracked,
    tune,
)
from beam_quad.influence import Examples, cluster_examples, query_vectors
from beam_quad.scoring import NgramScorer, PerplexityScorer, TokenNgramCounts, dsir
from beam_quad.scoring.influence import Partial, Stack
from beam_quad.scoring.ngrams import TAKEN_SHARE, TAKEN_WEIGHT
from beam_quad.scoring.vectors import Vectors
from beam_quad.shortlist import score_ngrams
from tests.benchmarks.duel.kept import Kept
from tests.benchmarks.duel.material import Material

# What influence is computed through; each holds the ones before it.
LAYERS = ("attention", "all", "all+head")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of all documents; a column for each query domain, higher is better.

    Attributes:
      material: Texts and proxy.
      kept: Keeps them.
    """

    material: Material
    kept: Kept

    @functools.cached_property
    def proxy(self) -> Proxy:
        """The proxy, loaded."""
        return load_proxy(self.material.spec)

    def _by_domain(
        self, name: str, compute: Callable[[dict[str, list[str]]], np.ndarray], *settings: object
    ) -> np.ndarray:
        """Computes a score for the queries that it is missing for, float64 [n, num_domains, ...]."""
        queries = self.material.queries
        return self.kept.columns(
            name,
            self._parts(*settings),
            lambda missing: compute({domain: queries[domain] for domain in missing}),
        )

    def _parts(self, *settings: object) -> dict[str, tuple[object, ...]]:
        content = self.material.fingerprint
        return {
            domain: (content, seeding.digest(*texts), *settings)
            for domain, texts in self.material.queries.items()
        }

    def column(self, scores: np.ndarray, domain: str) -> np.ndarray:
        """Takes a domain's column of scores, float64 [n, num_domains]: float64 [n]."""
        column: np.ndarray = scores[:, list(self.material.splits).index(domain)]
        return column

    def influence(self, layers: str, normalize: bool) -> np.ndarray:
        """Exact influence, float64 [n, num_domains]: one pass over all documents serves all layers and domains."""
        found = self._by_domain("influence", self._pass, *self._settings)
        layer = found[..., 2 * LAYERS.index(layers) + normalize]
        return np.asarray(layer)

    @property
    def _settings(self) -> tuple[object, ...]:
        """What decides influence beside the texts."""
        return ("curvature", self.material.size.curvature_examples, LAYERS)

    def _pass(self, queries: dict[str, list[str]]) -> np.ndarray:
        """Scores by all choices of layers, plain and over gradients of unit length, float64 [n, num_domains, 6]."""
        material, proxy = self.material, self.proxy
        examples = Examples.of(material.texts, [str(i) for i in range(len(material.texts))], proxy)
        blocks = find_blocks(proxy.model, LAYERS[-1])
        count = material.size.curvature_examples
        vectors = query_vectors(proxy, blocks, queries, examples, "ekfac", count, "sampled", 1.0, 0)
        return examples.spread(influence_by_layers(proxy, vectors, examples.texts), np.nan)

    def perplexity(self) -> np.ndarray:
        """Mean loss in nats per token, float64 [n]: lower is likelier."""

        def compute() -> np.ndarray:
            scorer = PerplexityScorer(self.proxy)
            return _in_runs(scorer.score, self.material.texts)[:, 0]

        return self.kept.get("loss", (self.material.fingerprint,), compute)

    def ngrams(self, looks_ahead: bool = True) -> np.ndarray:
        """Influence under a model of the n-grams of the proxy's tokens, float64 [n, num_domains].

        Args:
          looks_ahead: Whether the model has learned some of what a first look takes, as it does in a run.
        """
        if not looks_ahead:
            return self._by_domain("n-grams", self._first_look)
        return self._by_domain(
            "n-grams ahead",
            lambda queries: ngrams_by_query(self.proxy, self.material.texts, queries, seed=0),
            TAKEN_SHARE,
            TAKEN_WEIGHT,
        )

    def ngram_ratios(self) -> np.ndarray:
        """Mean log ratio of n-grams of the proxy's tokens, query set to corpus, float64 [n, num_domains]: the usual form."""

        def count(texts: Sequence[str]) -> np.ndarray:
            return self._ngram_counts(texts).counts

        def compute(queries: dict[str, list[str]]) -> np.ndarray:
            corpus = count(self.material.texts)
            # 2,000 n-grams of the corpus beside the query set's: an n-gram that it lacks would have no logarithm.
            prior = 2000 * (corpus + 1) / (corpus + 1).sum()
            smoothed = np.stack([count(texts) + prior for texts in queries.values()], axis=1)
            ratios = np.log(smoothed / smoothed.sum(0)) - np.log(prior / prior.sum())[:, None]
            own = (count([text]) for text in self.material.texts)
            return np.stack([counts @ ratios / counts.sum() for counts in own])

        return self._by_domain("n-gram ratios", compute)

    def _first_look(self, queries: dict[str, list[str]]) -> np.ndarray:
        counts = {name: self._ngram_counts(texts) for name, texts in queries.items()}
        texts = self.material.texts
        return _in_runs(
            NgramScorer(counts, self._ngram_counts(texts), self.proxy.read).score, texts
        )

    def _ngram_counts(self, texts: Sequence[str]) -> TokenNgramCounts:
        vocabulary = self.proxy.model.get_input_embeddings().weight.shape[0]
        return TokenNgramCounts.of(self.proxy.read(texts), vocabulary)

    def dsir(self) -> np.ndarray:
        """DSIR's log importance weights, float64 [n, num_domains]."""

        def compute(queries: dict[str, list[str]]) -> np.ndarray:
            texts = self.material.texts
            count = dsir.NgramCounts.of
            scorers = [dsir.DSIRScorer(count(q), count(texts)) for q in queries.values()]
            return np.concatenate([scorer.score(texts) for scorer in scorers], axis=1)

        return self._by_domain("dsir", compute)

    def cosines(self, how: str) -> np.ndarray:
        """Cosine with the query texts, float64 [n, num_domains].

        Args:
          how: "mean" or "best" over them.
        """
        points = self.embeddings(self.material.texts)
        columns = []
        for texts in self.material.queries.values():
            query = self.embeddings(texts)
            cosines = points @ query.T
            columns.append(cosines.mean(1) if how == "mean" else cosines.max(1))
        return np.stack(columns, axis=1).astype(np.float64)

    @property
    def embedder(self) -> EmbedderSpec:
        """The sentence encoder."""
        return EmbedderSpec("minilm", max_tokens=self.material.size.embedder_max_tokens)

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [n, dim]."""
        parts = (self.embedder.max_tokens, *texts)
        return self.kept.get(
            f"embeddings of {len(texts)}",
            parts,
            lambda: _in_runs(load_embedder(self.embedder).embed, texts),
        )

    @contextlib.contextmanager
    def lent_to_quad(self, domain: str, layers: str, normalize: bool) -> Iterator[None]:
        """Lets `quad.select` take embeddings and scores from here instead of computing them anew.

        They are what it would compute: a text's score depends on its own text alone.
        """
        material = self.material
        row = {text: i for i, text in enumerate(material.texts)}
        scores = self.column(self.influence(layers, normalize), domain)[:, None]
        points = self.embeddings(material.texts).astype(np.float16)
        is_there = np.asarray(points.any(axis=1))

        def embed(examples: Examples, *_: object) -> tuple[Examples, np.ndarray]:
            kept = is_there[examples.positions]
            return examples.where(kept), points[examples.positions][kept]

        def score(_: object, texts: Sequence[str]) -> np.ndarray:
            taken: np.ndarray = scores[[row[text] for text in texts]]
            return taken

        def vectors(_: object, blocks: Sequence[Block], *__: object) -> Vectors:
            return {"query": {block.name: torch.zeros(block.shape) for block in blocks}}  # unused

        with (
            mock.patch.object(quad, "embed_examples", embed),
            mock.patch.object(quad, "score_texts", score),
            mock.patch.object(quad, "query_vectors", vectors),
        ):
            yield

    def loss_drop(self) -> np.ndarray:
        """Fall of the loss when the proxy is tuned on the query set, float64 [n, num_domains]."""

        def compute(queries: dict[str, list[str]]) -> np.ndarray:
            before, columns = self.perplexity(), []
            for texts in queries.values():
                tuned = PerplexityScorer(tune(self.proxy, texts, Tuning()))
                columns.append(before - _in_runs(tuned.score, self.material.texts)[:, 0])
            return np.stack(columns, axis=1)

        return self._by_domain("loss drop", compute)

    def cluster_histogram(self) -> np.ndarray:
        """Log importance weights of clusters, float64 [n, num_domains]."""

        def compute(queries: dict[str, list[str]]) -> np.ndarray:
            material = self.material
            points = self.embeddings(material.texts)
            ids = [str(i) for i in range(len(material.texts))]
            examples = Examples.of(material.texts, ids, self.proxy)
            centers, clusters = cluster_examples(
                examples, points[examples.positions].astype(np.float16), None, 0.05, 0
            )
            num = centers.num_clusters
            corpus, columns = np.bincount(clusters, minlength=num), []
            for texts in queries.values():
                of_query, _ = assign(self.embeddings(texts), seeding.keys(texts), centers, 0)
                weights = cluster_log_weights(np.bincount(of_query, minlength=num), corpus)
                columns.append(examples.spread(weights[clusters], np.nan))
            return np.stack(columns, axis=1)

        return self._by_domain("cluster histogram", compute, self.embedder.max_tokens)

    def cpu_seconds(self, source: str) -> float:
        """Returns what a score took, for all domains and layers at once; `embeddings` are those of the corpus."""
        texts = self.material.texts
        if source == "loss":
            return self.kept.seconds("loss", (self.material.fingerprint,))
        if source == "embeddings":
            name = f"embeddings of {len(texts)}"
            return self.kept.seconds(name, (self.embedder.max_tokens, *texts))
        settings = self._settings if source == "influence" else ()
        if source == "n-grams ahead":
            settings = (TAKEN_SHARE, TAKEN_WEIGHT)
        parts = self._parts(*settings).values()
        return max(self.kept.seconds(source, own) for own in parts)


def influence_by_layers(proxy: Proxy, vectors: Vectors, texts: Sequence[str]) -> np.ndarray:
    """Scores by all choices of layers in one pass of forward and backward.

    Args:
      proxy: The model; a text is one window of it.
      vectors: By group, for the widest choice of layers.
      texts: The texts.

    Returns:
      Float64 [num_texts, num_groups, 2 * choices]: for each choice plain, and over gradients of unit length.
    """
    names = [{b.name for b in find_blocks(proxy.model, layers)} for layers in LAYERS]
    blocks = find_blocks(proxy.model, LAYERS[-1])
    # What each choice adds to the one before it.
    added = [
        tuple(b for b in blocks if b.name in own and b.name not in below)
        for below, own in itertools.pairwise([set[str](), *names])
    ]
    stacks = {part: Stack.of(proxy, part, vectors) for part in added}
    modules = {name: part for part in added for name in tracked.watched_modules(part)}
    documents = proxy.read(texts)
    counts = torch.from_numpy(documents.loss_tokens).double()
    if len(documents.windows) > len(counts):
        raise ValueError("a text has more than one window, whose norms would not add up")
    products = torch.zeros(len(texts), len(vectors), len(added), dtype=torch.float64)
    squares = torch.zeros(len(texts), len(added), dtype=torch.float64)
    for batch in proxy.micro_batches(documents.windows, proxy.max_batch_tokens):
        partial = {part: Partial(proxy, batch, stacks[part], True) for part in added}

        def record(module: str, a: torch.Tensor, g: torch.Tensor, partial: Any = partial) -> None:
            partial[modules[module]].record(module, a, g)

        weights = passes.token_weights(batch, 1 / counts, proxy)
        passes.backward(proxy, tuple(modules), batch, weights, record)
        for place, part in enumerate(added):
            products[batch.documents, :, place] = partial[part].influence().double().sum(2)
            squares[batch.documents, place] = partial[part].squared_norms().double()
    plain, norms = products.cumsum(2), squares.cumsum(1).sqrt()
    scores = torch.stack([plain, plain / norms[:, None]], dim=3).flatten(2).numpy()
    return np.asarray(np.where(np.isfinite(scores), scores, np.nan))


def ngrams_by_query(
    proxy: Proxy, texts: Sequence[str], queries: Mapping[str, Sequence[str]], seed: int
) -> np.ndarray:
    """Scores texts by n-grams with a first look for each query of its own, float64 [num_texts, num_queries]."""
    examples = Examples.of(texts, [str(i) for i in range(len(texts))], proxy)
    columns = [
        score_ngrams(proxy, examples, {name: own}, [1.0], seed) for name, own in queries.items()
    ]
    return examples.spread(np.concatenate(columns, axis=1), np.nan)


def _in_runs(compute: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray:
    return np.concatenate([compute(texts[i : i + 256]) for i in range(0, len(texts), 256)])
