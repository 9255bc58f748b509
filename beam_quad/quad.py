"""Quad on one page: influence and diversity by a bandit over clusters, in memory, without Beam and without files.

    1  embed                    texts -> unit vectors
    2  cluster                  the arms of the bandit: similar texts within, different texts between clusters
    3  curvature, query vector  v = (F + λI)⁻¹ ∇L(query), once
    4  blocks                   random cuts of a cluster: a pull scores a few texts of one, a good pull selects it
    5  pilot and rounds         pull the arms with the highest upper bounds; score a few texts of each, exactly
    6  accept                   the pulls that reach the threshold
    7  cut                      at the token budget
    8  weigh                    by the excess over the best text that was left out

The score of the paper's arm is like UCB's: the mean influence of its scored texts plus a bonus that shrinks with every
pull. Arms that reach the threshold τ give texts until the budget is met. The paper's constants (α = 1e-4, τ = 0.002,
20,000 texts per pull) depend on the scale of the scores and of the corpus. Here the unit of α is the error of one pull,
τ is the *water level*, the influence above which the rest of the corpus just fills the budget, and a pull gives a block
of its cluster.

`select` has these steps in this order, and the functions below it are what a step needs: `_cut_into_blocks`, `_play`,
`_in_accepted_blocks` and `_predict`. Shares of a budget and near-duplicates are not in the paper: see
`_estimate_within_shares` and `selection.filling`.

With `acceptance="shortlist"` there is no bandit: the steps of `beam_quad.shortlist` replace step 4 and all later steps.

`pipelines.quad` does the same over shards on disk, stage by stage. Its tests compare it with this page.

References:
  Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, ICLR 2025,
  arXiv:2409.16986.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad import seeding
from beam_quad import shortlist as shortlist_page
from beam_quad.bandit import (
    ACCEPTANCES,
    Accepts,
    BanditState,
    Blocks,
    Pulls,
    PullScores,
    QuadPolicy,
    RoundScores,
    example_blocks,
    first_drawn,
    meets_budget,
    num_blocks,
    replay,
    shortfall_message,
)
from beam_quad.bandit.acceptance import WholeBlocks, WholeClusters
from beam_quad.bandit.group_shifts import GroupShifts
from beam_quad.bandit.scored import Scored, accepted_blocks, arm_code, mean_by_block, with_least
from beam_quad.columns import find_sorted, look_up, run_bounds
from beam_quad.distillation import weigh
from beam_quad.distillation.within_clusters import fit_by_cluster, predict_by_cluster
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
    check_choice,
    check_curvature,
    check_near_duplicates,
    check_texts,
    cluster_examples,
    embed_examples,
    embedder_spec,
    hold_queries,
    proxy_spec,
    query_groups,
    query_vectors,
    score_texts,
)
from beam_quad.records import Budget, count_lengths
from beam_quad.scoring import InfluenceScorer
from beam_quad.scoring.groups import combine_scores, standardised_weights
from beam_quad.scoring.vectors import Vectors, combine_vectors
from beam_quad.selection import (
    CutExamples,
    accepted_columns,
    accepted_first,
    cut_blocks,
    cut_draws,
    keep_accepted,
    or_estimate,
    rank_usable,
    ranks_from,
)
from beam_quad.selection.filling import Filled, Limits, fill_budget
from beam_quad.selection.near_duplicates import THRESHOLD
from beam_quad.selection.within_shares import GivenShares, SharedGroups


@dataclasses.dataclass(frozen=True, eq=False)
class QuadSelection:
    """The selection of Quad from n texts, and the reasons for it.

    Attributes:
      ids: Ids of all texts.
      indices: Positions of the m selected texts, ascending, int64 [m].
      weights: Weight of each selected text, float64 [m]: positive, with the number of selectable texts as their sum.
      tokens: Tokens of every text by the proxy's tokenizer, int64 [n]; 0 for an unusable text.
      influence: Exact influence of the scored texts, float64 [n]; nan for all others. Higher is better.
      estimate: Estimated worth of every text, float64 [n]: the mean influence of the scored texts of its block, or of
        its cluster if the block was not pulled, corrected for texts that a share asks for (`bandit.group_shifts`). With
        `cluster` acceptance, unless near-duplicates are kept, the mean of its cluster; with `instance`, the selected
        texts' own influence; with `propagate`, the known or predicted influence; with `shortlist`, the joint rank of influence and n-grams. nan
        for an unusable text and for a text outside the shortlist.
      clusters: Cluster of every text, int64 [n]; -1 for an unusable text.
      blocks: Block of every text within its cluster, int64 [n]; -1 for an unusable text, or without a bandit.
      state: State of the bandit at the end: the log of rounds, a row for each arm, and the reason it stopped; None
        without a bandit.
      shortfall: One line on the missing part of the budget and a remedy; None if the budget was met.
      ngrams: With `shortlist` acceptance, influence of every text under a model of n-grams, float64 [n]; nan for an
        unusable text. Higher is more like the query set.
      shares: How shares and caps were met, and the price of each (`selection.group_cuts.about_shares`); None without
        them.
    """

    ids: list[str]
    indices: Array
    weights: Array
    tokens: Array
    influence: Array
    estimate: Array
    clusters: Array
    blocks: Array
    state: BanditState | None
    shortfall: str | None
    ngrams: Array | None = None
    shares: dict[str, Any] | None = None


def select(
    texts: Sequence[str],
    query_texts: QueryTexts,
    proxy_model: str | ProxySpec,
    *,
    budget_tokens: int,
    ids: Sequence[str] | None = None,
    query_weights: Mapping[str, float] | None = None,
    embedder: str | AnyEmbedderSpec | None = None,
    num_clusters: int | None = None,
    max_cluster_share: float = 0.05,
    num_rounds: int = 16,
    arms_per_round: int | None = None,
    samples_per_pull: int | None = None,
    blocks_per_cluster: int = 16,
    acceptance: str = "shortlist",
    shortlist: float = 4.0,
    tau: float | None = None,
    alpha: float = 0.5,
    max_share_per_cluster: float = 1.0,
    shares: Sequence[str] = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
    layers: str | None = None,
    curvature: CurvatureKind = "ekfac",
    curvature_examples: int = 1024,
    curvature_labels: CurvatureLabels = "sampled",
    damping: float = 1.0,
    normalize: bool | None = None,
    keep_query_copies: bool = False,
    near_duplicates: NearDuplicates = "drop",
    near_duplicate_threshold: float = THRESHOLD,
    seed: int = 0,
) -> QuadSelection:
    """Selects texts under a token budget by their influence on the query texts, and by diversity.

    The same texts and ids, in any order, give the same selection.

    Args:
      texts: The texts to select from. Texts of white space, of fewer than 2 tokens, or without an embedding are never
        selected; neither are texts too long for the budget (`records.Budget.longest`).
      query_texts: The texts to become good at, or several groups of them by name, each standardised.
      proxy_model: The model whose gradients count, as in `influence.score_influence`.
      budget_tokens: Tokens to select, of the proxy's tokenizer. The text in which the budget ends is selected.
      ids: Distinct ids of the texts, which decide every draw; by default their positions.
      query_weights: Weights of query groups; 1 by default.
      embedder: "minilm", "static", "hashing", "jvp", a folder or hub id of a sentence encoder, or a spec; by default
        "static" with a shortlist, which uses clusters only for `max_share_per_cluster`, and "minilm" with a bandit.
      num_clusters: Number of clusters, the arms; by default √(n / 2), 8 to 10,000.
      max_cluster_share: A cluster with a larger share of the texts is split again, in (0, 1].
      num_rounds: Rounds after the pilot, 1 to 50.
      arms_per_round: Arms to pull in a round; by default as many as the budget needs.
      samples_per_pull: Texts scored in a pull; by default 4 to 10, depending on the size of the corpus. With `instance`
        acceptance, the texts of a block, 32 by default.
      blocks_per_cluster: The most blocks of a cluster, a power of two.
      acceptance: "shortlist" uses no bandit: it takes the texts whose n-grams are likeliest in the query set, and of
        these selects the texts of the highest joint rank. The others use a bandit, as in the paper, and decide what a
        good pull selects. "block": its whole block. "instance": its texts, all scored, that reach the threshold.
        "propagate": the texts with the best influence as predicted from the scored texts of their cluster. "cluster":
        its cluster, if it is among the best after the last round.
      shortlist: With `shortlist` acceptance, tokens of the shortlist, in budgets, at least 1.
      tau: A fixed threshold on influence; by default the water level.
      alpha: Weight of the exploration bonus, in errors of one pull; 0 is greedy.
      max_share_per_cluster: The largest share of the budget from one cluster, in (0, 1].
      shares: Bounds on parts of the budget, each as "language=de >= 0.1", "license in (nc, unknown) = 0" or
        "quality_score > 3 >= 0.5"; see `selection.shares`.
      columns: The columns that shares name: a value for each text, None for a missing one.
      layers: Tracked layers, as in `influence.score_influence`, like the arguments below; by default "all+head",
        and "attention" with a bandit.
      curvature: Approximation of the Fisher.
      curvature_examples: Number of texts to fit the curvature on.
      curvature_labels: Labels of the Fisher.
      damping: λ over the mean eigenvalue of each block.
      normalize: Whether to divide influence by the norm of the text's gradient; by default only with `shortlist`
        acceptance.
      keep_query_copies: Whether texts that contain a query text can be selected; see `selection.leaks`.
      near_duplicates: "drop" selects only the highest-ranked of texts that are nearly the same
        (`selection.near_duplicates`). What a bandit accepted comes first; the texts of the highest estimate fill the
        budget up.
      near_duplicate_threshold: Least similarity of near-duplicates: the Jaccard similarity of their pairs of words, in
        (0, 1].
      seed: Seed of every draw.

    Raises:
      UsageError: If an argument is invalid; the message, of one line, names it.
    """
    texts, ids = check_texts(texts, ids)
    queries, group_weights = query_groups(query_texts, query_weights)
    check_curvature(curvature, curvature_examples, curvature_labels, damping)
    check_at_least_one(
        budget_tokens=budget_tokens, num_clusters=num_clusters, samples_per_pull=samples_per_pull
    )
    if not 0 < max_cluster_share <= 1:
        raise UsageError(f"max_cluster_share must lie in (0, 1], got {max_cluster_share}")
    check_choice("acceptance", acceptance, (*ACCEPTANCES, shortlist_page.NAME))
    threshold = check_near_duplicates(near_duplicates, near_duplicate_threshold)
    has_bandit = acceptance in ACCEPTANCES
    if not has_bandit:
        shortlist_page.check_shortlist(
            shortlist, tau=tau, arms_per_round=arms_per_round, samples_per_pull=samples_per_pull
        )
    given = GivenShares.of(shares, columns, len(texts))
    if shares and has_bandit and ACCEPTANCES[acceptance].accepts is Accepts.EXAMPLES:
        raise UsageError(
            f"acceptance={acceptance!r} selects only texts that it scored, of which a share may have none; pass "
            "acceptance='propagate' or 'shortlist' with shares"
        )
    policy = _policy(
        blocks_per_cluster,
        budget_tokens=budget_tokens,
        samples_per_pull=samples_per_pull or 1,
        num_rounds=num_rounds,
        arms_per_round=arms_per_round,
        alpha=alpha,
        tau=tau,
        acceptance=acceptance if has_bandit else WholeBlocks.name,
        max_share_per_cluster=max_share_per_cluster,
        seed=seed,
    )
    embedder = embedder or ("minilm" if has_bandit else "static")
    layers = layers or ("attention" if has_bandit else shortlist_page.LAYERS)
    if normalize is None:
        normalize = False if has_bandit else shortlist_page.NORMALIZE
    proxy_model, budget = proxy_spec(proxy_model), Budget(budget_tokens)

    # 1 Embed. From here on, an example is one of the n usable texts.
    proxy = load_proxy(proxy_model)
    examples, points = embed_examples(
        Examples.of(texts, ids, proxy), embedder_spec(embedder, proxy_model, seed), proxy
    )
    keys, tokens = examples.keys, examples.tokens
    # A single long text would use up a tiny budget. Copies of query texts are not selected either, but every fit uses
    # them.
    is_candidate = tokens <= budget.longest(*count_lengths(tokens))
    if not keep_query_copies:
        is_candidate &= ~hold_queries(examples.texts, queries)
    groups = given.over(examples.positions, tokens, is_candidate, budget)

    # 2 Cluster. Spherical k-means on a sample: a few hundred points per center are enough.
    centers, clusters = cluster_examples(examples, points, num_clusters, max_cluster_share, seed)
    limits = Limits(groups, clusters, max_share_per_cluster, threshold)

    # 3 Curvature and query vector: `influence.query_vectors` has the formulas.
    tracked = find_blocks(proxy.model, layers)
    vectors = query_vectors(
        proxy, tracked, queries, examples, curvature, curvature_examples, curvature_labels, damping, seed
    )  # fmt: skip
    if not has_bandit:
        found = shortlist_page.select_from_shortlist(
            proxy, tracked, vectors, examples, queries, group_weights, is_candidate, limits,
            budget_tokens=budget_tokens, shortlist=shortlist, normalize=normalize, seed=seed,
        )  # fmt: skip
        return _of_shortlist(found, ids, examples, clusters)

    # 4 Blocks. A pull scores a few texts of one block. They represent the whole block, because it is a random cut of
    # its cluster.
    sizing = policy.rule.pulls(samples_per_pull, blocks_per_cluster)
    arms = _cut_into_blocks(examples, is_candidate, clusters, centers.num_clusters, sizing, seed)
    num_samples = sizing.samples(len(keys), centers.num_clusters)
    policy = dataclasses.replace(policy, samples_per_pull=num_samples)

    # 5 Pilot and rounds.
    scorer_of = functools.partial(InfluenceScorer, proxy, tracked, normalize=normalize)
    played = _play(policy, arms, examples, is_candidate, scorer_of, vectors, group_weights)
    state, influence = played.state, played.influence

    # 6 Accept. The estimate of an example is the mean of its block's scores, or of its cluster's if the block was not
    # pulled. A scored text without a finite score cannot be selected.
    can_be = is_candidate & ~(played.is_scored & np.isnan(influence))
    known = np.flatnonzero(played.is_scored & is_candidate)
    known = known[np.argsort(keys[known])]
    scored = arms.columns(examples, influence, known)
    of_cluster = with_least(state.arms.mean_influence)[clusters]
    estimate = or_estimate(look_up(*mean_by_block(scored), arms.code, np.nan), of_cluster)
    # A cap on clusters is no limit to what is accepted: the bandit has kept to it.
    has_limits = groups is not None or threshold is not None
    is_accepted: Array | None = None
    match policy.rule.accepts:
        case Accepts.BLOCKS:
            is_accepted = _in_accepted_blocks(state, arms, scored, examples, can_be, seed)
            if acceptance == WholeClusters.name and has_limits:
                # The rule judged clusters: a block of a good one is not worse for its own few scores.
                estimate = of_cluster
            ranks = estimate
        case Accepts.EXAMPLES:
            is_accepted = np.isin(keys, state.accepted_examples.keys)
            ranks = influence
        case Accepts.PREDICTIONS:
            predicted = _predict(scored, points[known], clusters, arms.code, points, seed)
            predicted[known] = influence[known]
            # In single precision, as the pipelines store predictions.
            ranks = predicted.astype(np.float32)
            estimate = or_estimate(ranks, of_cluster)

    # 7 Cut at the budget, which the bandit has done already if it accepts blocks or examples. But near-duplicates among
    # them make room for others, and a share may need more than was accepted.
    filled: Filled | None = None
    if groups is not None:
        estimate = _estimate_within_shares(
            played, arms, examples, is_candidate, groups, estimate, policy.rule.accepts, seed
        )
        can_be = is_candidate & ~(played.is_scored & ~np.isfinite(influence))
        is_accepted, ranks = None, estimate
    if is_accepted is not None and not has_limits:
        is_selected = is_accepted
    else:
        ranks = ranks_from(ranks, tau)
        packed, _ = rank_usable(ranks, can_be, limits.may_give(can_be), keys, seed)
        if is_accepted is not None:
            packed = accepted_first(packed, is_accepted, meets_budget(policy, state))
            ranks = np.where(is_accepted, np.inf, ranks)
        filled = fill_budget(
            packed, ranks, keys, tokens, budget_tokens, limits, seed, "influence", texts=examples.texts
        )  # fmt: skip
        is_selected = filled.is_selected
        can_be &= ~filled.is_near_duplicate
        if is_accepted is not None and filled.about_shares is not None:
            # What was accepted has infinite values, of which a mean is meaningless.
            filled.about_shares["mean"] |= {"selected": None, "without_bounds": None}
    if policy.rule.accepts is Accepts.EXAMPLES:
        estimate[is_selected] = influence[is_selected]

    # 8 Weigh, by the excess over the best text that was left out: `distillation.weights` has the derivation.
    weights = np.zeros(len(keys))
    single, takers = estimate.astype(np.float32)[:, None], np.where(is_selected, 0, -1)
    if is_selected.any():
        weights[can_be] = weigh(single[can_be], takers[can_be])
    return QuadSelection(
        ids=ids,
        indices=examples.positions[is_selected],
        weights=weights[is_selected],
        tokens=examples.spread(tokens, 0),
        influence=examples.spread(influence, np.nan),
        estimate=examples.spread(estimate.astype(np.float64), np.nan),
        clusters=examples.spread(clusters.astype(np.int64), -1),
        blocks=examples.spread(arms.block.astype(np.int64), -1),
        state=state,
        shortfall=shortfall_message(
            policy, arms.blocks, state, None if filled is None else budget_tokens - filled.missing
        ),
        shares=None if filled is None else filled.about_shares,
    )


def _of_shortlist(
    found: shortlist_page.Shortlisted, ids: list[str], examples: Examples, clusters: Array
) -> QuadSelection:
    """Describes the selection of a shortlist, which has neither a bandit nor blocks."""
    return QuadSelection(
        ids=ids,
        indices=examples.positions[found.is_selected],
        weights=found.weights[found.is_selected],
        tokens=examples.spread(examples.tokens, 0),
        influence=examples.spread(found.influence, np.nan),
        estimate=examples.spread(found.joint_rank, np.nan),
        clusters=examples.spread(clusters.astype(np.int64), -1),
        blocks=np.full(len(ids), -1),
        state=None,
        shortfall=found.shortfall,
        ngrams=examples.spread(found.ngrams, np.nan),
        shares=found.shares,
    )


def _policy(blocks_per_cluster: int, **options: Any) -> QuadPolicy:
    """Makes the policy; refuses invalid options before a model is loaded."""
    try:
        num_blocks(np.zeros(1, np.int64), np.zeros(1, np.int64), 1, blocks_per_cluster)
        return QuadPolicy(**options)
    except ValueError as error:
        raise UsageError(str(error)) from error


@dataclasses.dataclass(frozen=True, eq=False)
class _Arms:
    """The clusters, cut into blocks.

    Attributes:
      clusters: Cluster of each example, int32 [n].
      block: Block of each example within its cluster, int32 [n].
      blocks: Contents of the blocks.
      drawn: Positions of the examples that a pull scores, by (cluster, block).
    """

    clusters: Array
    block: Array
    blocks: Blocks
    drawn: dict[tuple[int, int], Array]

    @property
    def code(self) -> Array:
        """Arm code of each example's block, int64 [n]."""
        return np.asarray(arm_code(self.clusters, self.block))

    def columns(self, examples: Examples, influence: Array, at: Array) -> Scored:
        """The examples at some positions, as columns."""
        return {
            "key": examples.keys[at],
            "cluster": self.clusters[at],
            "block": self.block[at],
            "tokens": examples.tokens[at],
            "influence": influence[at],
        }


def _cut_into_blocks(
    examples: Examples,
    is_candidate: Array,
    clusters: Array,
    num_clusters: int,
    sizing: Pulls,
    seed: int,
) -> _Arms:
    """Cuts every cluster into blocks by hash, and draws the examples that a pull of each block scores."""
    keys = examples.keys
    sizes = np.bincount(clusters, minlength=num_clusters)
    num = sizing.num_blocks(sizes, sizes)
    block = example_blocks(seed, keys, clusters, num)
    # Texts that cannot be selected count as 0 tokens, so they use up none of the budget.
    tokens = np.where(is_candidate, examples.tokens, 0)
    blocks = Blocks.of(num, clusters, block, tokens, np.ones(len(keys), bool))
    num_samples = None if sizing.is_census else sizing.samples(len(keys), num_clusters)
    drawn = first_drawn(clusters, block, seeding.mix(seed, "candidate", keys), keys, num_samples)
    pulls = [drawn[a:b] for a, b in run_bounds(clusters[drawn], block[drawn])]
    by_arm = {(int(clusters[own[0]]), int(block[own[0]])): own for own in pulls}
    return _Arms(clusters, block, blocks, by_arm)


@dataclasses.dataclass(frozen=True, eq=False)
class _Played:
    """The bandit after its last round.

    Attributes:
      state: Its state.
      influence: Influence of the scored examples, float64 [n]; nan for all others and if it is not finite.
      is_scored: Which examples were scored, bool [n].
      scorer: Scores further texts on the scale of the rounds.
      num_pilot: Number of examples of the pilot that can be selected.
    """

    state: BanditState
    influence: Array
    is_scored: Array
    scorer: InfluenceScorer
    num_pilot: int


def _play(
    policy: QuadPolicy,
    arms: _Arms,
    examples: Examples,
    is_candidate: Array,
    scorer_of: Callable[[Vectors], InfluenceScorer],
    vectors: Vectors,
    group_weights: Sequence[float],
) -> _Played:
    """Plays the bandit: round 0, the pilot, pulls every arm once; its scores set the water level and the unit of α."""
    influence = np.full(len(examples.keys), np.nan)
    is_scored = np.zeros(len(examples.keys), bool)
    scorer = scorer_of(vectors)
    rounds: list[RoundScores] = []
    # The bandit carries no state from round to round: it is replayed from all scores.
    while not (state := replay(policy, arms.blocks, rounds)).is_done:
        order = sorted(state.pulls)
        pulls = [arms.drawn[arm] for arm in order]
        # A score depends only on its own text, so all pulls go through the model together.
        pulled = np.concatenate(pulls)
        scores = score_texts(scorer, [examples.texts[i] for i in pulled])
        weights = np.ones(1)
        if len(scorer.groups) > 1:
            # Scores of query groups have different scales, so each is divided by its spread in the pilot. Scores are
            # linear in the vector, so one combined vector is enough for all later rounds.
            weights = standardised_weights(group_weights, scores)
            combined = combine_vectors(vectors, dict(zip(vectors, weights.tolist(), strict=True)))
            scorer = scorer_of({"combined": combined})
        ends = np.cumsum([len(own) for own in pulls])
        for own, of_pull in zip(pulls, np.split(scores, ends[:-1]), strict=True):
            influence[own] = combine_scores(of_pull, weights)
        is_scored[pulled] = True
        # A text that cannot be selected must not speak for its block.
        counted = [own[is_candidate[own]] for own in pulls]
        rounds.append(
            tuple(
                PullScores(*arm, examples.keys[own], examples.tokens[own], influence[own])
                for arm, own in zip(order, counted, strict=True)
            )
        )
    num_pilot = sum(len(pull.keys) for pull in rounds[0])
    return _Played(state, influence, is_scored, scorer, num_pilot)


def _in_accepted_blocks(
    state: BanditState,
    arms: _Arms,
    scored: Scored,
    examples: Examples,
    can_be: Array,
    seed: int,
) -> Array:
    """Returns the selected examples of accepted blocks, bool [n]; a block at the end of the budget is cut in hash order."""
    draws = cut_draws(seed, examples.keys)
    takes = {(b.cluster_id, b.block): b.take_tokens for b in state.accepted if b.is_cut}
    cut = np.array([arm_code(*arm) for arm in sorted(takes)], np.int64)
    bucket = find_sorted(cut, arms.code)
    inside = (bucket >= 0) & can_be
    highest = cut_blocks(takes, CutExamples(bucket[inside], draws[inside], examples.tokens[inside]))
    accepted = accepted_columns(accepted_blocks(state, scored), highest)
    kept = keep_accepted(accepted, scored, arms.clusters, arms.block, examples.keys, draws, can_be)
    is_accepted = np.zeros(len(can_be), bool)
    is_accepted[kept.rows] = True
    return is_accepted


def _predict(
    scored: Scored, landmarks: Array, clusters: Array, code: Array, points: Array, seed: int
) -> Array:
    """Predicts influence within clusters: the scored examples of each are landmarks of a kernel ridge regression.

    Blocks are random cuts, so the regression also holds for unpulled blocks. A cluster with too few scored examples for
    a regression has predictions for its pulled blocks only.

    Args:
      scored: The scored examples, `key` ascending.
      landmarks: Their embeddings, float16 [m, dim].
      clusters: Cluster of each example, int [n].
      code: Arm code of its block, int64 [n].
      points: Its embedding, float16 [n, dim].
      seed: Seed of the bandwidth's sample.

    Returns:
      Float64 [n]; nan for examples without a prediction.
    """
    finite = np.isfinite(scored["influence"])
    cluster, influence, tokens, key = (
        scored[name][finite] for name in ("cluster", "influence", "tokens", "key")
    )
    fits = fit_by_cluster(cluster, landmarks[finite], influence, tokens, key, seed)
    regressions = {arm: fitted for arm, _, fitted in fits}
    is_pulled = np.isin(code, arm_code(scored["cluster"], scored["block"]))
    return predict_by_cluster(regressions.get, clusters, is_pulled, points)


def _estimate_within_shares(
    played: _Played,
    arms: _Arms,
    examples: Examples,
    is_candidate: Array,
    shares: SharedGroups,
    estimate: Array,
    accepts: Accepts,
    seed: int,
) -> Array:
    """Scores examples of each group that a share asks for, and corrects the estimates by these scores.

    The scores are added to those of the bandit.

    Returns:
      The corrected estimates, float64 [n].
    """
    influence, is_scored = played.influence, played.is_scored
    drawn = shares.draw_asked(examples.keys, is_candidate & ~is_scored, played.num_pilot, seed)
    if len(drawn):
        influence[drawn] = score_texts(played.scorer, [examples.texts[i] for i in drawn])[:, 0]
        is_scored[drawn] = True
    shifts = GroupShifts.of(
        influence[drawn] - estimate[drawn],
        examples.tokens[drawn],
        arms.clusters[drawn],
        shares.groups[drawn],
        shares.system.asked,
        played.state.deviation,
    )
    shifted = np.asarray(estimate + shifts.at(arms.clusters, shares.groups))
    if accepts is not Accepts.PREDICTIONS:
        return shifted
    # What is predicted example by example is known of the scored ones.
    return np.where(is_scored & np.isfinite(influence), influence, shifted)
