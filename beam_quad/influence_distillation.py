"""Influence Distillation on one page: exact influence of a few landmarks, propagated to all texts, in memory.

    1  embed                    texts -> unit vectors
    2  landmarks                a uniform sample of the texts
    3  curvature, query vectors one vector for each target
    4  exact influence          of the landmarks: cosines of gradients with the targets' vectors
    5  propagate                kernel ridge regression from embeddings to influence, for every target at once
    6  targets in turn          the target with the least takes its best free text, until the budget is met
    7  weigh                    a projection on the simplex: the excess over the best text that was left out

The paper chooses the weights of texts for which one step on the texts lowers the target loss most:

    min over w  -pᵀw + (λ/2) ||w||²   subject to   w >= 0, 1ᵀw = n,       p_i = cos(∇L(text i), ∇L(target)),

to the first order in the step size. The solution keeps the texts of the highest p, so selection is a ranking cut at the
budget. The exact p costs a backward pass for every text; with landmarks, some thousand passes are enough. By default,
unlike in the paper, the targets' gradients are preconditioned by EK-FAC and the embeddings come from a sentence
encoder. The paper's choices are `curvature="identity"` and `embedder="jvp"`.

`pipelines.influence_distillation` does the same over shards on disk, stage by stage; its tests compare the two.

References:
  Nikdan, Cohen-Addad, Alistarh & Mirrokni, Efficient Data Selection at Scale via Influence Distillation, NeurIPS 2025,
  arXiv:2505.19051.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad.distillation import KernelRidge, LandmarkDraws, default_num_landmarks, weigh
from beam_quad.embedding import AnyEmbedderSpec
from beam_quad.errors import UsageError
from beam_quad.gradients import ProxySpec, find_blocks, load_proxy
from beam_quad.influence import (
    Array,
    CurvatureKind,
    CurvatureLabels,
    Examples,
    NearDuplicates,
    QueryTexts,
    check_at_least_one,
    check_curvature,
    check_near_duplicates,
    check_texts,
    embed_examples,
    embedder_spec,
    hold_queries,
    proxy_spec,
    query_groups,
    query_vectors,
    score_texts,
)
from beam_quad.records import Budget, count_lengths
from beam_quad.scoring import InfluenceScorer, tensors
from beam_quad.scoring.cosines import cosines
from beam_quad.selection import NEAR_DUPLICATE, allocate, num_contenders
from beam_quad.selection.near_duplicates import THRESHOLD
from beam_quad.selection.within_shares import GivenShares


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledSelection:
    """The selection of Influence Distillation from n texts, and the reasons for it.

    Attributes:
      ids: Ids of all texts.
      targets: Names of the query groups.
      indices: Positions of the m selected texts, ascending, int64 [m].
      weights: Weight of each selected text, float64 [m]: positive, with the number of selectable texts as their sum.
      takers: The target that took each selected text, a position in `targets`, int64 [m].
      tokens: Tokens of every text by the proxy's tokenizer, int64 [n]; 0 for an unusable text.
      influence: Influence of every text on every target, a cosine, exact for landmarks and predicted for all others;
        float32 [n, num_targets]. Higher is better; nan for an unusable text.
      is_landmark: Which texts were scored exactly, bool [n].
      ridge: The regression; compare its `leave_one_out()` with its `targets` to judge the predictions.
      shortfall: One line on the missing part of the budget; None if the budget was met.
      shares: How shares were met, and the price of each (`selection.group_cuts.about_shares`); None without them.
    """

    ids: list[str]
    targets: tuple[str, ...]
    indices: Array
    weights: Array
    takers: Array
    tokens: Array
    influence: Array
    is_landmark: Array
    ridge: KernelRidge
    shortfall: str | None
    shares: dict[str, Any] | None = None


def distill(
    texts: Sequence[str],
    query_texts: QueryTexts,
    proxy_model: str | ProxySpec,
    *,
    budget_tokens: int | None = None,
    budget_examples: int | None = None,
    query_weights: Mapping[str, float] | None = None,
    ids: Sequence[str] | None = None,
    embedder: str | AnyEmbedderSpec = "minilm",
    num_landmarks: int | None = None,
    ridge: float = 0.01,
    layers: str = "attention",
    curvature: CurvatureKind = "ekfac",
    curvature_examples: int = 1024,
    curvature_labels: CurvatureLabels = "sampled",
    damping: float = 1.0,
    keep_query_copies: bool = False,
    near_duplicates: NearDuplicates = "drop",
    near_duplicate_threshold: float = THRESHOLD,
    shares: Sequence[str] = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
) -> DistilledSelection:
    """Selects the texts of the highest influence on one target, or on several in turn, under a budget.

    The same texts and ids, in any order, give the same selection.

    Args:
      texts: The texts to select from. Texts of white space, of fewer than 2 tokens, or without an embedding are never
        selected; neither are texts too long for a budget in tokens (`records.Budget.longest`).
      query_texts: The texts to become good at, or several groups of them by name: the targets.
      proxy_model: The model whose gradients count, as in `influence.score_influence`.
      budget_tokens: Tokens to select, of the proxy's tokenizer; this or `budget_examples`.
      budget_examples: Texts to select.
      query_weights: Relative shares of the budget by query group; 1 by default.
      ids: Distinct ids of the texts, which decide every draw; by default their positions.
      embedder: "minilm", "static", "hashing", "jvp", a folder or hub id of a sentence encoder, or a spec.
      num_landmarks: Texts to score exactly; by default an eighth of all, 512 to 4,096.
      ridge: Added to the diagonal of the regression's kernel, positive.
      layers: Tracked layers, as in `influence.score_influence`, like the arguments below.
      curvature: Approximation of the Fisher; "identity" is the paper's plain gradient.
      curvature_examples: Number of texts to fit the curvature on.
      curvature_labels: Labels of the Fisher.
      damping: λ over the mean eigenvalue of each block.
      keep_query_copies: Whether texts that contain a query text can be selected; see `selection.leaks`.
      near_duplicates: "drop" selects only the highest-ranked of texts that are nearly the same
        (`selection.near_duplicates`); "keep" selects all of them that rank high enough.
      near_duplicate_threshold: Least similarity of near-duplicates: the Jaccard similarity of their pairs of words, in
        (0, 1].
      shares: What parts of the budget meet, as in `beam_quad.select`; of all targets together.
      columns: The columns that shares speak of: a value for each text, None if there is none.
      seed: Seed of every draw.

    Raises:
      UsageError: If an argument is invalid; the message, of one line, names it.
    """
    texts, ids = check_texts(texts, ids)
    queries, weights_of = query_groups(query_texts, query_weights)
    targets = tuple(queries)
    check_curvature(curvature, curvature_examples, curvature_labels, damping)
    check_at_least_one(
        budget_tokens=budget_tokens, budget_examples=budget_examples, num_landmarks=num_landmarks
    )
    if not 0 < ridge < math.inf:
        raise UsageError(f"ridge must be positive and finite, got {ridge}")
    threshold = check_near_duplicates(near_duplicates, near_duplicate_threshold)
    budget = _budget(budget_tokens, budget_examples)
    given = GivenShares.of(shares, columns, len(texts))
    proxy_model = proxy_spec(proxy_model)

    # 1 Embed. From here on, an example is one of the n usable texts.
    proxy = load_proxy(proxy_model)
    examples, points = embed_examples(
        Examples.of(texts, ids, proxy),
        embedder_spec(embedder, proxy_model, seed),
        proxy,
    )
    keys, tokens = examples.keys, examples.tokens
    # A single long text would use up a tiny budget. Copies of query texts are not selected either, but every fit uses
    # them.
    is_candidate = tokens <= budget.longest(*count_lengths(tokens))
    if not keep_query_copies:
        is_candidate &= ~hold_queries(examples.texts, queries)
    amounts = budget.amounts(tokens)
    groups = given.over(examples.positions, amounts, is_candidate, budget)

    # 2 Landmarks: the lowest hashes, a uniform sample.
    # What a share asks for has some of its own.
    draw = LandmarkDraws.of(
        keys,
        seed,
        num_landmarks or default_num_landmarks(len(keys)),
        *((np.zeros((0, len(keys)), bool), []) if groups is None else groups.asked()),
    ).together()
    landmarks = np.flatnonzero(draw.contains(keys))
    landmarks = landmarks[np.argsort(keys[landmarks])]

    # 3 Curvature and query vectors: `influence.query_vectors` has the formulas.
    blocks = find_blocks(proxy.model, layers)
    vectors = query_vectors(
        proxy, blocks, queries, examples, curvature, curvature_examples, curvature_labels, damping, seed
    )  # fmt: skip

    # 4 Exact influence of the landmarks. Both sides are normalised, so a long gradient gains nothing from its length,
    # and the scores of all targets have one scale.
    scorer = InfluenceScorer(proxy, blocks, vectors, normalize=True)
    norms = np.array([tensors.norm(vector) for vector in vectors.values()])
    exact = cosines(score_texts(scorer, [examples.texts[i] for i in landmarks]), norms)
    is_finite = np.isfinite(exact).all(axis=1)
    if not is_finite.any():
        raise UsageError("no landmark has a finite influence, so nothing can be propagated")
    unscorable, landmarks = landmarks[~is_finite], landmarks[is_finite]

    # 5 Propagate. Landmarks keep their exact influence.
    regression = KernelRidge.fit(
        points[landmarks], exact[is_finite], keys[landmarks], seed=seed, ridge=ridge
    )
    influence = regression.predict(points, keys).astype(np.float32)

    # 6 Targets take turns: the target with the fewest tokens over its weight moves next (fewest texts, if the budget is
    # in texts), and a hash breaks ties. Landmarks without a finite score cannot be taken.
    can_be = is_candidate.copy()
    can_be[unscorable] = False
    takers = np.full(len(keys), -1, np.int64)
    takers[can_be], about = allocate(
        influence[can_be], keys[can_be], amounts[can_be], budget.amount, targets, weights_of, seed, num_contenders(len(targets)),
        [examples.texts[i] for i in np.flatnonzero(can_be).tolist()], threshold, groups and groups.where(can_be),
    )  # fmt: skip
    is_taken = takers >= 0
    can_be[takers == NEAR_DUPLICATE] = False

    # 7 Weigh: w = max(0, (p - μ) / λ), with μ the influence of the best text that was left out.
    weights = np.zeros(len(keys))
    if is_taken.any():
        weights[can_be] = weigh(influence[can_be], takers[can_be])
    is_landmark = np.zeros(len(keys), bool)
    is_landmark[landmarks] = True
    missing = budget.amount - int(amounts[is_taken].sum())
    if about is not None and not about["missing"]:
        # Within shares the budget is met from above or from below, by less than a text.
        missing = 0
    return DistilledSelection(
        ids=ids,
        targets=targets,
        indices=examples.positions[is_taken],
        weights=weights[is_taken],
        takers=takers[is_taken],
        tokens=examples.spread(tokens, 0),
        influence=examples.spread(influence, np.nan),
        is_landmark=examples.spread(is_landmark, False),
        ridge=regression,
        shortfall=f"{missing:,} of {budget.amount:,} {budget.unit} are missing: the texts hold no more"
        if missing > 0
        else None,
        shares=about,
    )


def _budget(tokens: int | None, examples: int | None) -> Budget:
    if tokens is not None and examples is None:
        return Budget(tokens)
    if examples is not None and tokens is None:
        return Budget(examples, "examples")
    raise UsageError("pass one of budget_tokens and budget_examples, and not both")
