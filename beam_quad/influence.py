"""Influence on a query set, in memory: the effect of training on a text on the loss of the query texts.

The influence of a text z on a query set Q is

    I(z) = + < v , ∇L(z) >,        v = (F + λI)⁻¹ ∇L(Q),

the fall of the query loss after a small step on z, in the geometry of the Fisher F. L is the mean loss over the tokens
of a text or, if the text answers a prompt (`beam_quad.answer`), over the tokens of the answer. With one vector v for
the whole query set, a text costs one forward pass and one backward pass for activations only. No gradient of a
parameter is computed, so nothing is compressed.

Both methods use this page: `beam_quad.quad` scores a few texts of every cluster with it, and
`beam_quad.influence_distillation` scores its landmarks.

References:
  Koh & Liang, Understanding Black-box Predictions via Influence Functions, 2017.
  Grosse et al., Studying Large Language Model Generalization with Influence Functions, 2023.
  Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, ICLR 2025 (the
  attention layers).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np

from beam_quad import answers, seeding
from beam_quad.clustering import (
    Centers,
    assign,
    default_num_clusters,
    fit_centers,
    sample_rate,
)
from beam_quad.columns import slices
from beam_quad.embedding import AnyEmbedderSpec, EmbedderSpec, JvpSpec, StaticSpec, load_embedder
from beam_quad.embedding.spec import static_source
from beam_quad.errors import UsageError
from beam_quad.gradients import Block, Proxy, ProxySpec, find_blocks, load_proxy
from beam_quad.gradients.windows import read_tokens
from beam_quad.scoring import (
    Curvature,
    InfluenceScorer,
    covariance_sums,
    eigenbasis,
    eigenvalue_sums,
    query_gradient,
)
from beam_quad.scoring.vectors import Vectors
from beam_quad.selection.leaks import NUM_WORDS, THRESHOLD, LeakIndex

Array = np.ndarray[Any, np.dtype[Any]]
QueryTexts = Sequence[str] | Mapping[str, Sequence[str]]
CurvatureKind = Literal["ekfac", "kfac", "identity"]
CurvatureLabels = Literal["sampled", "empirical"]
NearDuplicates = Literal["keep", "drop"]

# Texts in one call of a model; the numbers of a text depend on nothing outside its call.
_TEXTS_PER_CALL = 256
# Texts in one call of a scorer: micro-batches hold texts of similar length and are full only if a call has many texts.
_SCORED_PER_CALL = 4096


def score_influence(
    texts: Sequence[str],
    query_texts: Sequence[str],
    proxy_model: str | ProxySpec,
    *,
    ids: Sequence[str] | None = None,
    layers: str = "attention",
    curvature: CurvatureKind = "ekfac",
    curvature_examples: int = 1024,
    curvature_labels: CurvatureLabels = "sampled",
    damping: float = 1.0,
    normalize: bool = False,
    seed: int = 0,
) -> Array:
    """Scores the influence of every text on the loss of the query texts, exactly.

    Args:
      texts: The n texts to score; the curvature is fitted on a sample of them.
      query_texts: The texts to become good at: a few dozen to a few thousand.
      proxy_model: The causal language model whose gradients count: a folder or hub id, run on the CPU in float32. A
        `ProxySpec` also sets the device, the dtype, the context length and the number of windows. Loading the model
        switches torch to deterministic kernels.
      ids: Distinct ids of the texts, which decide every draw; by default their positions.
      layers: Tracked layers: "attention", "mlp", "all", "last:N", "head" (the matrix that makes the logits), one of
        these with the head, as in "all+head", or "regex:R".
      curvature: Approximation of the Fisher: EK-FAC, K-FAC, or "identity" for a plain product of gradients.
      curvature_examples: Number of texts to fit the curvature on.
      curvature_labels: Labels of the Fisher: "sampled" from the model, or the texts' own ("empirical").
      damping: λ over the mean eigenvalue of each block, positive.
      normalize: Whether to divide by the norm of the text's gradient.
      seed: Seed of every draw.

    Returns:
      Influence, float64 [n]; higher is better. nan for a text of white space, of fewer than 2 tokens, or with a
      gradient that is not finite.

    Raises:
      UsageError: If an argument is invalid; the message, of one line, names it.
    """
    if isinstance(query_texts, Mapping):
        raise UsageError("query_texts must be a list of texts; score the query groups one by one")
    queries, _ = query_groups(query_texts)
    check_curvature(curvature, curvature_examples, curvature_labels, damping)
    texts, ids = check_texts(texts, ids)
    proxy = load_proxy(proxy_spec(proxy_model))
    examples = Examples.of(texts, ids, proxy)
    blocks = find_blocks(proxy.model, layers)
    vectors = query_vectors(
        proxy, blocks, queries, examples, curvature, curvature_examples, curvature_labels, damping, seed
    )  # fmt: skip
    scorer = InfluenceScorer(proxy, blocks, vectors, normalize)
    return examples.spread(score_texts(scorer, examples.texts)[:, 0], np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The n usable texts of a corpus.

    Attributes:
      texts: The texts.
      ids: Their ids.
      keys: Hashes of the ids, which decide every draw, uint64 [n].
      tokens: Tokens of the proxy's tokenizer, at least 2, int64 [n].
      positions: Positions in the corpus, ascending, int64 [n].
      num_texts: Number of texts in the corpus, usable or not.
    """

    texts: list[str]
    ids: list[str]
    keys: Array
    tokens: Array
    positions: Array
    num_texts: int

    @classmethod
    def of(cls, texts: Sequence[str], ids: Sequence[str], proxy: Proxy) -> "Examples":
        """Counts tokens and leaves out texts of white space, without a token to predict, or with too long an answer.

        Raises:
          UsageError: If no text is left.
        """
        tokens = np.zeros(len(texts), np.int64)
        has_loss = np.zeros(len(texts), bool)
        for run in runs_of(len(texts)):
            found = read_tokens(proxy.tokenizer, texts[run])
            tokens[run] = [len(own.ids) for own in found]
            has_loss[run] = [bool(own.windows(proxy.context_length, 1)) for own in found]
        has_words = np.array([bool(own.strip()) for own in answers.all_plain(texts)])
        everything = cls(
            list(texts), list(ids), seeding.keys(ids), tokens, np.arange(len(texts)), len(texts)
        )
        return everything.where(np.asarray(has_words & has_loss))

    def where(self, is_kept: Array) -> "Examples":
        """Keeps some of the examples, bool [n].

        Raises:
          UsageError: If none is kept.
        """
        at = np.flatnonzero(is_kept)
        if not len(at):
            raise UsageError("no text can be used: a text needs 2 tokens and an embedding")
        return dataclasses.replace(
            self,
            texts=[self.texts[i] for i in at],
            ids=[self.ids[i] for i in at],
            keys=self.keys[at],
            tokens=self.tokens[at],
            positions=self.positions[at],
        )

    def drawn(self, num_examples: int, seed: int) -> Array:
        """Draws about `num_examples` by hash, as `stages.read.texts.SampleTexts`: positions by key, int64 [m]."""
        rate = num_examples / len(self.keys)
        found = np.flatnonzero(seeding.is_drawn(seed, "sample", self.keys, rate))
        return np.asarray(found[np.argsort(self.keys[found])])

    def spread(self, values: Array, fill: Any) -> Array:
        """Returns values, [n, ...], at the positions of the examples: [num_texts, ...], with `fill` at all others."""
        spread = np.full((self.num_texts, *values.shape[1:]), fill, values.dtype)
        spread[self.positions] = values
        return spread


def hold_queries(texts: Sequence[str], queries: Mapping[str, Sequence[str]]) -> Array:
    """Returns which texts contain a query text, bool [n]: they teach nothing new of the query set (`selection.leaks`)."""
    items = [text for own in queries.values() for text in own]
    found = LeakIndex.of(items, NUM_WORDS, THRESHOLD).find(texts)
    return np.array([leak is not None for leak in found], bool)


def embed_examples(
    examples: Examples, embedder: AnyEmbedderSpec, proxy: Proxy
) -> tuple[Examples, Array]:
    """Embeds the examples and leaves out those with a zero vector.

    Returns:
      The n remaining examples and their unit vectors, float16 [n, dim]. Half precision changes a cosine by less than
      0.001, and the pipelines store it too.
    """
    model = load_embedder(embedder, proxy_of=lambda _: proxy)
    vectors = np.zeros((len(examples.texts), model.dim), np.float16)
    for run in runs_of(len(examples.texts)):
        vectors[run] = model.embed(answers.all_plain(examples.texts[run]))
    has_vector = np.asarray(vectors.any(axis=1))
    return examples.where(has_vector), vectors[has_vector]


def cluster_examples(
    examples: Examples,
    points: Array,
    num_clusters: int | None,
    max_cluster_share: float,
    seed: int,
) -> tuple[Centers, Array]:
    """Clusters the examples by spherical k-means, with centers fitted to a sample.

    Args:
      examples: The n examples of the corpus.
      points: Their unit vectors, float16 [n, dim].
      num_clusters: Clusters; by default √(n / 2), 8 to 10,000.
      max_cluster_share: A cluster with a larger share of the examples is split again, in (0, 1].
      seed: Seed of the sample and of the fit.

    Returns:
      The centers, and the cluster of each example, int32 [n].

    Raises:
      UsageError: If the sample is empty.
    """
    num_wanted = num_clusters or default_num_clusters(len(examples.keys))
    rate = sample_rate(num_wanted, len(examples.keys))
    sample = points[seeding.is_drawn(seed, "centers", examples.keys, rate)].astype(np.float32)
    if not len(sample):
        raise UsageError(f"num_clusters={num_wanted} drew no text to fit centers to; raise it")
    centers, _ = fit_centers(sample, min(num_wanted, len(sample)), seed, max_cluster_share)
    clusters, _ = assign(points.astype(np.float32), examples.keys, centers, seed)
    return centers, clusters


def query_vectors(
    proxy: Proxy,
    blocks: Sequence[Block],
    queries: Mapping[str, Sequence[str]],
    examples: Examples,
    curvature: CurvatureKind,
    curvature_examples: int,
    curvature_labels: CurvatureLabels,
    damping: float,
    seed: int,
) -> Vectors:
    """Fits the curvature on a sample of the corpus and multiplies each group's mean gradient by its damped inverse.

    Args:
      proxy: The model.
      blocks: The tracked layers.
      queries: Texts of each query group.
      examples: The corpus.
      curvature: As in `score_influence`, like the arguments after it.
      curvature_examples: Approximate number of texts to draw.
      curvature_labels: Labels of the Fisher.
      damping: λ over the mean eigenvalue of each block.
      seed: Seed of the draw and of the labels.

    Returns:
      v = (F + λI)⁻¹ ∇L(group) by group and block, [out, in (+ 1)].

    Raises:
      UsageError: If a group has no text with a token to predict, or no text was drawn.
    """
    # The loss of a query text is the mean over its tokens, so every query text counts once, whatever its length.
    gradients = {}
    for name, texts in queries.items():
        total = query_gradient(proxy, blocks, texts)
        if not total.num_examples:
            raise UsageError(f"no text of query group {name!r} has at least 2 tokens")
        gradients[name] = total.mean()
    if curvature == "identity":
        return gradients

    # The Fisher is that of the corpus, on which training steps are taken, not that of the query set. The drawn texts are in
    # the order of their keys, so the sums are independent of the order of the corpus.
    drawn = examples.drawn(curvature_examples, seed)
    if not len(drawn):
        raise UsageError(
            f"curvature_examples={curvature_examples} drew no text to fit on; raise it, or pass curvature='identity'"
        )
    sample = (
        [examples.ids[i] for i in drawn],
        [examples.texts[i] for i in drawn],
        seed,
        curvature_labels,
    )
    # For a layer y = W a the Fisher of W is about A ⊗ G: covariances of its inputs and of its outputs' gradients.
    bases = {
        name: eigenbasis(total) for name, total in covariance_sums(proxy, blocks, *sample).items()
    }
    # K-FAC uses the products of their eigenvalues. EK-FAC keeps the eigenvectors and measures the mean square of the
    # gradients along each pair of them, which needs a second pass.
    squares = eigenvalue_sums(proxy, blocks, bases, *sample) if curvature == "ekfac" else None
    fitted = Curvature.from_parts(bases, squares, damping)
    return {name: fitted.precondition(gradient) for name, gradient in gradients.items()}


class TextScorer(Protocol):
    """Scores the texts of one call."""

    def score(self, texts: Sequence[str]) -> Array:
        """Returns the scores, float64 [num_texts, num_scores]; nan for a text that cannot be scored."""


def score_texts(scorer: TextScorer, texts: Sequence[str]) -> Array:
    """Scores one or more texts: float64 [num_texts, num_scores]; nan for a text that cannot be scored."""
    runs = runs_of(len(texts), _SCORED_PER_CALL)
    return np.concatenate([scorer.score(texts[run]) for run in runs])


def runs_of(num_texts: int, size: int = _TEXTS_PER_CALL) -> list[slice]:
    """Cuts texts into runs of one call of a model each."""
    return slices(num_texts, size)


def check_texts(
    texts: Sequence[str], ids: Sequence[str] | None, name: str = "texts"
) -> tuple[list[str], list[str]]:
    """Checks texts and ids and returns them as lists.

    Args:
      texts: Any sequence of texts, such as a column of a data frame.
      ids: Distinct ids, one for each text; None uses the positions.
      name: Name of the texts in an error message.

    Raises:
      UsageError: If there are no texts, a text or an id is not a string, or the ids do not fit the texts; the message
        names the first fault.
    """
    if isinstance(texts, str):
        raise UsageError(f"{name} must be a list of texts, got a single string")
    texts = list(texts)
    if not texts:
        raise UsageError(f"{name} is empty; pass at least one text")
    for i, text in enumerate(texts):
        _check_string(text, f"{name}[{i}]")
    if ids is None:
        return texts, [str(i) for i in range(len(texts))]
    ids = list(ids)
    if len(ids) != len(texts):
        raise UsageError(f"there are {len(texts)} texts but {len(ids)} ids; pass an id for each")
    first: dict[str, int] = {}
    for i, own in enumerate(ids):
        _check_string(own, f"ids[{i}]")
        if not own:
            raise UsageError(f"ids[{i}] is empty; pass distinct ids, or leave them out")
        if first.setdefault(own, i) != i:
            raise UsageError(f"ids[{first[own]}] and ids[{i}] are both {own!r}; pass distinct ids")
    return texts, ids


def query_groups(
    query_texts: QueryTexts, weights: Mapping[str, float] | None = None
) -> tuple[dict[str, list[str]], list[float]]:
    """Checks the query set and names its groups.

    Args:
      query_texts: The texts of one group, or of several groups by name.
      weights: Positive weights of groups; 1 for a group without one.

    Returns:
      The texts by group, with the name "query" for a single unnamed group, and the groups' weights in the same order.

    Raises:
      UsageError: If there is no group, a group has no texts, or a weight has no group or is not positive.
    """
    if isinstance(query_texts, Mapping):
        queries = {
            name: check_texts(own, None, f"query_texts[{name!r}]")[0]
            for name, own in query_texts.items()
        }
    else:
        queries = {"query": check_texts(query_texts, None, "query_texts")[0]}
    if not queries:
        raise UsageError("query_texts is empty; pass at least one query group")
    weights = weights or {}
    for name, weight in weights.items():
        if name not in queries:
            raise UsageError(
                f"query_weights has {name!r}, but the query groups are {', '.join(queries)}"
            )
        if not 0 < weight < math.inf:
            raise UsageError(f"query_weights[{name!r}] must be positive and finite, got {weight}")
    return queries, [float(weights.get(name, 1.0)) for name in queries]


def check_curvature(kind: str, examples: int, labels: str, damping: float) -> None:
    """Checks the options of the curvature.

    Raises:
      UsageError: If an argument is out of range.
    """
    check_choice("curvature", kind, get_args(CurvatureKind))
    check_choice("curvature_labels", labels, get_args(CurvatureLabels))
    check_at_least_one(curvature_examples=examples)
    if not 0 < damping < math.inf:
        raise UsageError(f"damping must be positive and finite, got {damping}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Checks that a value is one of several.

    Raises:
      UsageError: If it is none of them.
    """
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_near_duplicates(near_duplicates: NearDuplicates, threshold: float) -> float | None:
    """Returns the similarity from which near-duplicates are left out; None if they are kept.

    Raises:
      UsageError: If an argument is invalid.
    """
    check_choice("near_duplicates", near_duplicates, get_args(NearDuplicates))
    if not 0 < threshold <= 1:
        raise UsageError(f"near_duplicate_threshold must lie in (0, 1], got {threshold}")
    return threshold if near_duplicates == "drop" else None


def check_at_least_one(**values: int | None) -> None:
    """Checks that numbers are at least 1; None stands for a default and passes.

    Raises:
      UsageError: If a number is not; it names the first.
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, (int, np.integer)):
            raise UsageError(f"{name} must be a whole number, got {value!r}")
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")


def proxy_spec(proxy_model: str | ProxySpec) -> ProxySpec:
    """Returns the spec of a proxy model from a folder, a hub id or a spec."""
    return proxy_model if isinstance(proxy_model, ProxySpec) else ProxySpec(proxy_model)


def embedder_spec(embedder: str | AnyEmbedderSpec, proxy: ProxySpec, seed: int) -> AnyEmbedderSpec:
    """Returns the spec of an embedder; one given by name, folder or hub id runs on the proxy's device."""
    if not isinstance(embedder, str):
        return embedder
    if embedder == "jvp":
        return JvpSpec(proxy, seed=seed)
    device = "cpu" if embedder == "hashing" else proxy.device
    if (source := static_source(embedder)) is not None:
        return StaticSpec(EmbedderSpec(source, device=device, num_threads=proxy.num_threads))
    return EmbedderSpec(embedder, device=device, num_threads=proxy.num_threads)


def _check_string(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{name} holds half a surrogate pair, which is no text") from None
