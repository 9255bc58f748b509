"""A budget filled in memory: the highest ranks first, within shares and a cap on clusters, without near-duplicates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.selection.near_duplicates import without_near_duplicates
from beam_quad.selection.ranking import amounts_of, is_reached, search_budget
from beam_quad.selection.within_shares import SharedGroups

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Limits:
    """What keeps an example of high rank out of a selection.

    Attributes:
      shares: The examples in groups, and the bounds on these; None without shares.
      clusters: Cluster of each example, int [n]; None without a cap on clusters.
      max_share_per_cluster: The largest share of the budget from one cluster, in (0, 1].
      near_duplicate_threshold: Similarity from which only the highest-ranked of several examples is selected; None
        selects all of them.
    """

    shares: SharedGroups | None = None
    clusters: Array | None = None
    max_share_per_cluster: float = 1.0
    near_duplicate_threshold: float | None = None

    def may_give(self, is_candidate: Array) -> Array:
        """Returns which candidates a share of 0 does not rule out, bool [n]."""
        if self.shares is None:
            return is_candidate
        return np.asarray(is_candidate & self.shares.may_give)


@dataclasses.dataclass(frozen=True, eq=False)
class Filled:
    """The examples that fill a budget.

    Attributes:
      is_selected: Which these are, bool [n].
      is_near_duplicate: Which would be among them, but for a near-duplicate of higher rank, bool [n].
      missing: Number of missing tokens.
      about_shares: The report of `group_cuts.about_shares`; None without shares or a cap.
    """

    is_selected: Array
    is_near_duplicate: Array
    missing: int
    about_shares: dict[str, Any] | None = None


def fill_budget(
    packed: Array,
    values: Array,
    keys: Array,
    tokens: Array,
    budget_tokens: int,
    limits: Limits,
    seed: int,
    unit: str,
    *,
    texts: Sequence[str] = (),
    influence: Array | None = None,
) -> Filled:
    """Selects the examples of the highest priority until a token budget is met.

    Args:
      packed: Priorities, uint64 [n]; 0 for examples that cannot be selected.
      values: What they are ranked by, float [n]; prices of shares are in its unit.
      keys: uint64 [n].
      tokens: int64 [n].
      budget_tokens: The budget. The example in which it ends is selected.
      limits: What else keeps an example out.
      seed: The run's seed.
      unit: One word that names what a value measures.
      texts: The n texts, needed if near-duplicates are left out.
      influence: Influence of each example, float64 [n], of which shares report the mean; None if it is not known.
    """
    shares = limits.shares
    if shares is None and limits.max_share_per_cluster < 1:
        shares = SharedGroups.free(len(keys))
    kept = packed
    if limits.near_duplicate_threshold is not None:
        # Shares and caps may reach far below the cut of a budget without them.
        kept = without_near_duplicates(
            packed, texts, tokens, budget_tokens, limits.near_duplicate_threshold,
            compares_all=shares is not None,
        )  # fmt: skip
    if shares is None:
        column = kept[:, None]
        search = search_budget(column, amounts_of(column, tokens), budget_tokens)
        floor, missing, about = search.floors[0], search.missing(budget_tokens), None
    else:
        if limits.clusters is not None:
            shares = shares.capped(
                limits.clusters, kept, tokens, budget_tokens, limits.max_share_per_cluster
            )
        floor, about = shares.cut(kept, values, influence, keys, tokens, budget_tokens, seed, unit)
        missing = about["missing"]
    is_selected = is_reached(kept, floor)
    # These reach the floor in the ranking that still has near-duplicates, so only a better copy keeps them out.
    return Filled(is_selected, is_reached(packed, floor) & ~is_selected, missing, about)
