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

With `acceptance="shortlist"` there is no bandit: the steps of `beam_quad.shortlist` replace step 4 and all later steps.

`pipelines.quad` does the same over shards on disk, stage by stage. Its tests compare it with this page.

References:
  Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, ICLR 2025,
  arXiv:2409.16986.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad import seeding
from beam_quad import shortlist as shortlist_page
from beam_quad.bandit import (
    ACCEPTANCES,
    Accepts,
    BanditState,
    Blocks,
    PullScores,
    QuadPolicy,
    example_blocks,
    first_drawn,
    meets_budget,
    num_blocks,
    replay,
    shortfall_message,
)
from beam_quad.bandit.acceptance import WholeBlocks, WholeClusters
from beam_quad.bandit.group_shifts import GroupShifts, draws_of_shares
from beam_quad.bandit.scored import Scored, arm_code, mean_by_block, with_least
from beam_quad.columns import find_sorted, look_up, run_bounds
from beam_quad.distillation import LandmarkDraw, weigh
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
from beam_quad.scoring.vectors import combine_vectors
from beam_quad.selection import (
    MAX_DRAW,
    CutExamples,
    accepted_first,
    amounts_of,
    cut_blocks,
    cut_draws,
    is_reached,
    or_estimate,
    rank_usable,
    ranks_from,
    search_budget,
)
from beam_quad.selection.near_duplicates import THRESHOLD, without_near_duplicates
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
    has_bandit = acceptance in ACCEPTANCES
    threshold = check_near_duplicates(near_duplicates, near_duplicate_threshold)
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
    try:
        # Invalid arguments are refused before a model is loaded. The default size of a pull depends on the corpus.
        num_blocks(np.zeros(1, np.int64), np.zeros(1, np.int64), 1, blocks_per_cluster)
        policy = QuadPolicy(
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
    except ValueError as error:
        raise UsageError(str(error)) from error
    proxy_model = proxy_spec(proxy_model)
    accepts = policy.rule.accepts

    # 1 Embed. From here on, an example is one of the n usable texts.
    proxy = load_proxy(proxy_model)
    examples, points = embed_examples(
        Examples.of(texts, ids, proxy),
        embedder_spec(embedder or ("minilm" if has_bandit else "static"), proxy_model, seed),
        proxy,
    )
    keys, tokens = examples.keys, examples.tokens
    # A single long text would use up a tiny budget. Copies of query texts are not selected either, but every fit uses
    # them.
    is_candidate = tokens <= Budget(budget_tokens).longest(*count_lengths(tokens))
    if not keep_query_copies:
        is_candidate &= ~hold_queries(examples.texts, queries)

    shares_of = given.over(examples.positions, tokens, is_candidate, Budget(budget_tokens))

    # 2 Cluster. Spherical k-means on a sample: a few hundred points per center are enough.
    centers, clusters = cluster_examples(examples, points, num_clusters, max_cluster_share, seed)

    # 3 Curvature and query vector: `influence.query_vectors` has the formulas.
    tracked = find_blocks(
        proxy.model, layers or ("attention" if has_bandit else shortlist_page.LAYERS)
    )
    vectors = query_vectors(
        proxy, tracked, queries, examples, curvature, curvature_examples, curvature_labels, damping, seed
    )  # fmt: skip
    if normalize is None:
        normalize = False if has_bandit else shortlist_page.NORMALIZE
    if not has_bandit:
        found = shortlist_page.select_from_shortlist(
            proxy, tracked, vectors, examples, queries, group_weights, clusters, is_candidate,
            budget_tokens=budget_tokens, shortlist=shortlist, max_share_per_cluster=max_share_per_cluster, shares=shares_of,
            normalize=normalize, seed=seed, near_duplicate_threshold=threshold,
        )  # fmt: skip
        return QuadSelection(
            ids=ids,
            indices=examples.positions[found.is_selected],
            weights=found.weights[found.is_selected],
            tokens=examples.spread(tokens, 0),
            influence=examples.spread(found.influence, np.nan),
            estimate=examples.spread(found.joint_rank, np.nan),
            clusters=examples.spread(clusters.astype(np.int64), -1),
            blocks=np.full(len(texts), -1),
            state=None,
            shortfall=found.shortfall,
            ngrams=examples.spread(found.ngrams, np.nan),
            shares=found.shares,
        )

    # 4 Blocks. A pull scores a few texts of one block. They represent the whole block, because it is a random cut of
    # its cluster. Texts that cannot be selected count as 0 tokens, so they use up none of the budget.
    sizes = np.bincount(clusters, minlength=centers.num_clusters)
    sizing = ACCEPTANCES[acceptance].pulls(samples_per_pull, blocks_per_cluster)
    num_samples, num = sizing.samples(len(keys), len(sizes)), sizing.num_blocks(sizes, sizes)
    block = example_blocks(seed, keys, clusters, num)
    blocks = Blocks.of(
        num, clusters, block, np.where(is_candidate, tokens, 0), np.ones(len(keys), bool)
    )
    drawn = first_drawn(
        clusters, block, seeding.mix(seed, "candidate", keys), keys, None if sizing.is_census else num_samples
    )  # fmt: skip
    pulls = [drawn[a:b] for a, b in run_bounds(clusters[drawn], block[drawn])]
    candidates = {(int(clusters[own[0]]), int(block[own[0]])): own for own in pulls}

    # 5 Pilot and rounds. The bandit carries no state from round to round: it is replayed from all scores. Round 0, the
    # pilot, pulls every arm once. Its scores set the water level and the unit of α.
    policy = dataclasses.replace(policy, samples_per_pull=num_samples)
    scorer = InfluenceScorer(proxy, tracked, vectors, normalize)
    influence, is_scored = np.full(len(keys), np.nan), np.zeros(len(keys), bool)
    rounds: list[tuple[PullScores, ...]] = []
    while not (state := replay(policy, blocks, rounds)).is_done:
        arms = sorted(state.pulls)
        # A score depends only on its own text, so all pulls go through the model together.
        pulled = np.concatenate([candidates[arm] for arm in arms])
        of_pulled = score_texts(scorer, [examples.texts[i] for i in pulled])
        ends = itertools.accumulate(len(candidates[arm]) for arm in arms)
        scores = [
            of_pulled[end - len(candidates[arm]) : end] for arm, end in zip(arms, ends, strict=True)
        ]
        weights = np.ones(1)
        if len(scorer.groups) > 1:
            # Scores of query groups have different scales, so each is divided by its spread in the pilot. Scores are
            # linear in the vector, so one combined vector is enough for all later rounds.
            weights = standardised_weights(group_weights, np.concatenate(scores))
            combined = combine_vectors(vectors, dict(zip(vectors, weights.tolist(), strict=True)))
            scorer = InfluenceScorer(proxy, tracked, {"combined": combined}, normalize)
        for arm, own in zip(arms, scores, strict=True):
            influence[candidates[arm]] = combine_scores(own, weights)
            is_scored[candidates[arm]] = True
        counted = [(arm, candidates[arm][is_candidate[candidates[arm]]]) for arm in arms]
        rounds.append(
            tuple(PullScores(*arm, keys[own], tokens[own], influence[own]) for arm, own in counted)
        )

    # 6 Accept, and 7 cut at the budget. A scored text without a finite score cannot be selected.
    can_be = is_candidate & ~(is_scored & np.isnan(influence))
    known = np.flatnonzero(is_scored & is_candidate)
    known = known[np.argsort(keys[known])]
    everything = {
        "key": keys,
        "cluster": clusters,
        "block": block,
        "tokens": tokens,
        "influence": influence,
    }
    scored = {name: column[known] for name, column in everything.items()}
    code = arm_code(clusters, block)
    # The estimate of an example is the mean of its block's scores, or of its cluster's if the block was not pulled.
    of_cluster = with_least(state.arms.mean_influence)[clusters]
    estimate = or_estimate(look_up(*mean_by_block(scored), code, np.nan), of_cluster)
    about: dict[str, Any] | None = None
    is_accepted: Array | None = None
    filled: int | None = None
    if accepts is Accepts.PREDICTIONS:
        predicted = _predict(scored, points[known], clusters, code, points, seed)
        predicted[known] = influence[known]
        ranks = predicted.astype(np.float32)
        estimate = or_estimate(ranks, of_cluster)
    elif accepts is Accepts.EXAMPLES:
        is_accepted, ranks = np.isin(keys, state.accepted_examples.keys), influence
    else:
        is_accepted = _in_accepted_blocks(state, code, can_be, tokens, keys, seed)
        if acceptance == WholeClusters.name and (shares_of is not None or threshold is not None):
            estimate = of_cluster.copy()
        ranks = estimate
    if is_accepted is not None and shares_of is None and threshold is None:
        is_selected = is_accepted
    else:
        # A share may need more than was accepted. Otherwise the accepted texts come first, and others replace those
        # that are left out as near-duplicates.
        if shares_of is not None:
            drawn = _draw_for_shares(
                shares_of, keys, is_candidate & ~is_scored, sum(len(pull.keys) for pull in rounds[0]), seed
            )  # fmt: skip
            if len(drawn):
                influence[drawn] = score_texts(scorer, [examples.texts[i] for i in drawn])[:, 0]
                is_scored[drawn] = True
                can_be[drawn] = np.isfinite(influence[drawn])
            shifts = GroupShifts.of(
                influence[drawn] - estimate[drawn],
                tokens[drawn],
                clusters[drawn],
                shares_of.groups[drawn],
                shares_of.system.asked,
                state.deviation,
            )
            estimate = estimate + shifts.at(clusters, shares_of.groups)
            if accepts is Accepts.PREDICTIONS:
                # What is predicted example by example is known of the scored ones.
                estimate = np.where(is_scored & np.isfinite(influence), influence, estimate)
            is_accepted, ranks = None, estimate
        is_selected, is_near_duplicate, missing, about = _best(
            ranks_from(ranks, tau), is_accepted, meets_budget(policy, state), shares_of, max_share_per_cluster, clusters, can_be, examples,
            budget_tokens, seed, threshold,
        )  # fmt: skip
        can_be &= ~is_near_duplicate
        filled = budget_tokens - missing
    if accepts is Accepts.EXAMPLES:
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
        blocks=examples.spread(block.astype(np.int64), -1),
        state=state,
        shortfall=shortfall_message(policy, blocks, state, filled),
        shares=about,
    )


def _in_accepted_blocks(
    state: BanditState, code: Array, can_be: Array, tokens: Array, keys: Array, seed: int
) -> Array:
    """Returns the selected examples of accepted blocks, bool [n]; a block at the end of the budget is cut in hash order.

    Args:
      state: The bandit at the end.
      code: Arm code of each example's block, int64 [n].
      can_be: Which examples can be selected, bool [n].
      tokens: int64 [n].
      keys: uint64 [n].
      seed: The seed of the hash.
    """
    draws = cut_draws(seed, keys)
    takes = {(b.cluster_id, b.block): b.take_tokens for b in state.accepted if b.is_cut}
    cut = np.array([arm_code(*arm) for arm in sorted(takes)], np.int64)
    bucket = find_sorted(cut, code)
    inside = (bucket >= 0) & can_be
    highest = cut_blocks(takes, CutExamples(bucket[inside], draws[inside], tokens[inside]))
    # The example in which a cut ends may overshoot it. A later block that is no longer needed then has no highest draw.
    taken = sorted(
        (int(arm_code(*arm)), draw)
        for arm in ((b.cluster_id, b.block) for b in state.accepted)
        if (draw := highest.get(arm, MAX_DRAW)) is not None
    )
    codes, limits = (
        np.array([c for c, _ in taken], np.int64),
        np.array([d for _, d in taken], np.uint64),
    )
    place = find_sorted(codes, code)
    is_low = draws <= np.append(limits, np.uint64(0))[place]
    return np.asarray(can_be & (place >= 0) & is_low)


def _draw_for_shares(
    shares: SharedGroups, keys: Array, can_be_drawn: Array, num_pilot: int, seed: int
) -> Array:
    """Draws examples from each group that a share asks for: positions, ascending by key, int64 [m]."""
    meets, asked = shares.asked()
    drawn = [
        LandmarkDraw.of(keys[own & can_be_drawn], seed, number).keys
        for own, number in zip(meets, draws_of_shares(asked, num_pilot), strict=True)
    ]
    at = np.flatnonzero(np.isin(keys, np.concatenate([keys[:0], *drawn])))
    return np.asarray(at[np.argsort(keys[at])])


def _best(
    ranks: Array,
    is_first: Array | None,
    fills_up: bool,
    shares: SharedGroups | None,
    max_share_per_cluster: float,
    clusters: Array,
    can_be: Array,
    examples: Examples,
    budget_tokens: int,
    seed: int,
    threshold: float | None,
) -> tuple[Array, Array, int, dict[str, Any] | None]:
    """Takes the examples of the highest ranks, float [n], within shares and a cap on clusters.

    What a bandit accepted, bool [n], comes first, and others only if they may fill up; None puts nothing first.

    Returns:
      The examples taken, bool [n]; those that a near-duplicate keeps from it, bool [n]; the number of missing tokens; and
      how the bounds were met, None without bounds.
    """
    keys, tokens = examples.keys, examples.tokens
    is_bound = shares is not None or max_share_per_cluster < 1
    shares = shares or SharedGroups.free(len(keys))
    packed, _ = rank_usable(ranks, can_be, can_be & shares.may_give, keys, seed)
    if is_first is not None:
        packed = accepted_first(packed, is_first, fills_up)
        ranks = np.where(is_first, np.inf, ranks)
    kept = packed
    if threshold is not None:
        kept = without_near_duplicates(
            packed, examples.texts, tokens, budget_tokens, threshold, compares_all=is_bound
        )
    about: dict[str, Any] | None = None
    if is_bound:
        shares = shares.capped(clusters, kept, tokens, budget_tokens, max_share_per_cluster)
        floor, about = shares.cut(kept, ranks, None, keys, tokens, budget_tokens, seed, "influence")
        missing = about["missing"]
        if is_first is not None:
            # As these have infinite values, a mean is meaningless.
            about["mean"] |= {"selected": None, "without_bounds": None}
    else:
        column = kept[:, None]
        search = search_budget(column, amounts_of(column, tokens), budget_tokens)
        floor, missing = search.floors[0], search.missing(budget_tokens)
    is_selected = is_reached(kept, floor)
    return is_selected, is_reached(packed, floor) & ~is_selected, missing, about


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
