"""The shortlist on one page: a cheap score of every text, influence of the best texts, and a joint rank, in memory.

    1  n-grams       influence of every text under a model of n-grams of the proxy's tokens, which has learned some of what
                     a first look takes
    2  shortlist     the best by n-grams, without near-duplicates of better ones, until their tokens reach four budgets
    3  influence     of the shortlist alone, with gradients of unit length
    4  joint rank    ½ Φ⁻¹(rank of influence) + Φ⁻¹(rank of n-grams), ranks over the shortlist
    5  cut           the best first, until the budget is met, within shares of groups and of clusters
    6  weigh         by the excess over the best text of the shortlist that was left out

Quad's bandit finds the clusters worth scoring and selects whole blocks of them. But texts differ more within clusters
than between clusters. A score that needs no pass of a model can rank every text by these differences, and influence
then decides among the best texts. The two scores have different units, so their ranks are added
(`selection.joint_ranks`).

`beam_quad.select(..., acceptance="shortlist")` calls this page after the texts are embedded and clustered.

References:
  Xie, Santurkar, Ma & Liang, Data Selection for Language Models via Importance Resampling, 2023 (n-grams).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad.additive import total
from beam_quad.distillation import weigh
from beam_quad.errors import UsageError
from beam_quad.gradients import Block, Proxy
from beam_quad.influence import Array, Examples, runs_of, score_texts
from beam_quad.scoring import InfluenceScorer, NgramScorer, TokenNgramCounts
from beam_quad.scoring.groups import combine_standardised
from beam_quad.scoring.ngrams import NUM_LOOKED_AT, count_taken
from beam_quad.scoring.vectors import Vectors
from beam_quad.selection import SHORTLIST_WEIGHTS, JointRanks, rank_usable
from beam_quad.selection.filling import Limits, fill_budget

NAME = "shortlist"
# A proxy learns at least as much in its MLPs and its head as in its attention. Normalised, a long gradient gains
# nothing from its length.
LAYERS = "all+head"
NORMALIZE = True


@dataclasses.dataclass(frozen=True, eq=False)
class Shortlisted:
    """The selection of a shortlist from n examples, and the reasons for it.

    Attributes:
      is_selected: Which examples are selected, bool [n].
      weights: Weight of each example, float64 [n]: positive for selected ones, with the number of selectable examples
        as their sum; 0 for all others.
      ngrams: Influence of each example under a model of n-grams, float64 [n]; higher is more like the query set.
      influence: Influence of the shortlist, float64 [n]; nan for all other examples and if it is not finite.
      joint_rank: Weighted sum of the normal scores of both, over the shortlist, float64 [n]; nan for all other examples.
      shortfall: One line on the missing part of the budget and a remedy; None if the budget was met.
      shares: How shares and caps were met, and the price of each (`selection.group_cuts.about_shares`); None without
        them.
    """

    is_selected: Array
    weights: Array
    ngrams: Array
    influence: Array
    joint_rank: Array
    shortfall: str | None
    shares: dict[str, Any] | None = None


def check_shortlist(shortlist: float, **bandit: object) -> None:
    """Checks the options of a shortlist.

    Args:
      shortlist: Tokens of the shortlist, in budgets.
      bandit: Options of the bandit by name, which must be None.

    Raises:
      UsageError: If the shortlist cannot fill a budget, or an option of the bandit is set.
    """
    if not 1 <= shortlist < math.inf:
        raise UsageError(f"shortlist must be finite and at least 1 budget, got {shortlist}")
    for name, value in bandit.items():
        if value is not None:
            raise UsageError(
                f"{name} is an option of the bandit; leave it out, or pass acceptance='block' with it"
            )


def select_from_shortlist(
    proxy: Proxy,
    blocks: Sequence[Block],
    vectors: Vectors,
    examples: Examples,
    queries: Mapping[str, Sequence[str]],
    group_weights: Sequence[float],
    is_candidate: Array,
    limits: Limits,
    *,
    budget_tokens: int,
    shortlist: float,
    normalize: bool,
    seed: int,
) -> Shortlisted:
    """Selects examples by a shortlist.

    Args:
      proxy: The model.
      blocks: The tracked layers.
      vectors: Preconditioned query vectors of each group (`influence.query_vectors`).
      examples: The n examples of the corpus.
      queries: Texts of each query group.
      group_weights: Weight of each query group.
      is_candidate: Which examples can be selected, bool [n].
      limits: Shares, a cap on clusters, and the similarity from which near-duplicates are left off the list.
      budget_tokens: Tokens to select. The example in which the budget ends is selected.
      shortlist: Tokens of the shortlist, in budgets, at least 1.
      normalize: Whether influence is divided by the norm of the example's gradient.
      seed: Seed of the hash that breaks ties.
    """
    keys, tokens = examples.keys, examples.tokens
    usable = np.ones(len(keys), bool)

    # 1 N-grams. As with influence, scores of query groups have different scales and are standardised.
    by_group = score_ngrams(proxy, examples, queries, group_weights, seed)
    ngrams = combine_standardised(by_group, group_weights)

    # 2 Shortlist: counting finds the threshold at which the tokens of the best reach the given number of budgets.
    # Within shares, each group has as many budgets on the list as the whole. Clusters are capped in the selection only.
    may_give = limits.may_give(is_candidate)
    packed, _ = rank_usable(ngrams, usable, may_give, keys, seed)
    on_list = fill_budget(
        packed, ngrams, keys, tokens, math.ceil(shortlist * budget_tokens),
        dataclasses.replace(limits, clusters=None, max_share_per_cluster=1.0), seed, "score", texts=examples.texts,
    )  # fmt: skip
    listed = np.flatnonzero(on_list.is_selected)
    listed = listed[np.argsort(keys[listed])]

    # 3 Influence.
    scorer = InfluenceScorer(proxy, blocks, vectors, normalize)
    influence = np.full(len(keys), np.nan)
    scores = score_texts(scorer, [examples.texts[i] for i in listed])
    influence[listed] = combine_standardised(scores, group_weights)

    # 4 Joint rank. A scored text without a finite score has none and cannot be selected.
    pair = [influence[listed], ngrams[listed]]
    joint_rank = np.full(len(keys), np.nan)
    joint_rank[listed] = JointRanks.of(pair).rank(pair, SHORTLIST_WEIGHTS)

    # 5 Cut, within shares and caps if there are any.
    packed, _ = rank_usable(joint_rank, usable, may_give, keys, seed)
    filled = fill_budget(
        packed, joint_rank, keys, tokens, budget_tokens,
        dataclasses.replace(limits, near_duplicate_threshold=None), seed, "joint rank", influence=influence,
    )  # fmt: skip
    is_selected, about = filled.is_selected, filled.about_shares

    # 6 Weigh: `distillation.weights` has the derivation. Only the shortlist has joint ranks, so its weights are scaled
    # up to the number of selectable texts in the corpus.
    weights = np.zeros(len(keys))
    ranked = np.flatnonzero(np.isfinite(joint_rank))
    if is_selected.any():
        takers = np.where(is_selected[ranked], 0, -1)
        own = weigh(joint_rank[ranked].astype(np.float32)[:, None], takers)
        unscorable = len(listed) - len(ranked)
        num_candidates = int((is_candidate & ~on_list.is_near_duplicate).sum()) - unscorable
        weights[ranked] = own * (num_candidates / len(ranked))
    missing = budget_tokens - int(tokens[is_selected].sum())
    if about is not None and not about["missing"]:
        # Within shares the budget is met from above or from below, by less than a document.
        missing = 0
    return Shortlisted(
        is_selected=is_selected,
        weights=weights,
        ngrams=ngrams,
        influence=influence,
        joint_rank=joint_rank,
        shortfall=_shortfall(missing, budget_tokens, int(tokens[ranked].sum())),
        shares=about,
    )


def score_ngrams(
    proxy: Proxy,
    examples: Examples,
    queries: Mapping[str, Sequence[str]],
    group_weights: Sequence[float],
    seed: int,
) -> Array:
    """Scores the n examples by the n-grams of the proxy's tokens, counted in their texts and in each query group.

    Args:
      proxy: The model, for its tokenizer and windows; it does not run.
      examples: The corpus.
      queries: Texts of each query group.
      group_weights: Weight of each query group.
      seed: Seed of the draw of the texts that a first look takes from (`scoring.ngrams.count_taken`).

    Returns:
      As `NgramScorer.score`, float64 [n, num_groups]; nan for a text of fewer than 2 tokens.

    Raises:
      UsageError: If a group has no text with at least 2 tokens.
    """
    counts = {name: _count(proxy, own) for name, own in queries.items()}
    for name, own in counts.items():
        if not own.counts.any():
            raise UsageError(f"no text of query group {name!r} has at least 2 tokens")
    corpus = _count(proxy, examples.texts)
    first = NgramScorer(counts, corpus, proxy.read)
    drawn = examples.drawn(NUM_LOOKED_AT, seed)
    taken = count_taken([examples.texts[i] for i in drawn], first, group_weights)
    return score_texts(NgramScorer(counts, corpus, proxy.read, taken), examples.texts)


def _count(proxy: Proxy, texts: Sequence[str]) -> TokenNgramCounts:
    vocabulary = proxy.model.get_input_embeddings().weight.shape[0]
    parts = (TokenNgramCounts.of(proxy.read(texts[run]), vocabulary) for run in runs_of(len(texts)))
    return total(parts, TokenNgramCounts.zero(vocabulary))


def _shortfall(missing: int, budget_tokens: int, ranked_tokens: int) -> str | None:
    if missing <= 0:
        return None
    reason = (
        f"the shortlist holds {ranked_tokens:,} that could be scored; raise shortlist, or give more texts"
        if ranked_tokens < budget_tokens
        else "its clusters and groups may give no more; change max_share_per_cluster or shares, or raise shortlist"
    )
    return f"{missing:,} of {budget_tokens:,} tokens are missing ({missing / budget_tokens:.1%}): {reason}"
