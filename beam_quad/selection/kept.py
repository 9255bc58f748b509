"""The selected rows of a split, and why they were selected."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad.bandit.scored import Scored, arm_code
from beam_quad.columns import find_sorted
from beam_quad.selection.budget import MAX_DRAW
from beam_quad.selection.ranking import is_reached

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Twins:
    """Rows of a split that would be selected if no near-duplicate ranked above them. Both [m], by ascending row.

    Attributes:
      rows: Row numbers, int64.
      names: The row that stays instead of each, as `SHARD#ROW`.
    """

    rows: np.ndarray
    names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Kept:
    """The selected rows of a split, and why they were selected. All columns are [m], by ascending row.

    Attributes:
      rows: Row numbers, int64.
      cluster: int64, -1 for none.
      block: int64, -1 for none.
      round: Round in which its block was accepted or, if it was not, pulled, int64, -1 for none.
      influence: float64, nan if the example itself was not scored.
      block_influence: Mean influence of its block's scored examples, float64, nan for none.
      unscorable: Rows rejected for a score that is not finite, int64.
      predicted: Influence predicted from other examples, float64, nan for none; None if no row has one.
      target: Names of the query groups that took the rows, or None.
      worth: The influence, known or estimated, by which the rows were selected, float64; None if another criterion
        decides.
      twins: Rows left out for a near-duplicate; None if near-duplicates are not searched for.
      is_accepted: Whether a bandit accepted it, bool; the others fill the budget up. None if all are selected by rank.
    """

    rows: np.ndarray
    cluster: np.ndarray
    block: np.ndarray
    round: np.ndarray
    influence: np.ndarray
    block_influence: np.ndarray
    unscorable: np.ndarray
    predicted: np.ndarray | None = None
    target: Sequence[str] | None = None
    worth: np.ndarray | None = None
    twins: Twins | None = None
    is_accepted: np.ndarray | None = None


# Attributes about other rows than the selected ones.
_OF_OTHER_ROWS = ("unscorable", "twins")


@dataclasses.dataclass(frozen=True)
class Taken:
    """The influence and the takers of the rows of a split.

    Attributes:
      influence: Influence of each row on each target, known or estimated, float32 [n, num_targets].
      takers: The target that takes each, -1 for none, int64 [n].
      is_example: Which rows could have been taken, bool [n]; the other attributes are valid only for these.
    """

    influence: np.ndarray
    takers: np.ndarray
    is_example: np.ndarray

    @classmethod
    def by_one_target(cls, influence: np.ndarray, kept: Kept, is_candidate: np.ndarray) -> "Taken":
        """Describes a selection for a single target.

        Args:
          influence: Influence of each row, known or estimated, float [n].
          kept: The selected rows.
          is_candidate: Which rows can be selected: usable, and short enough for the budget, bool [n].
        """
        is_example = is_candidate.copy()
        is_example[kept.unscorable] = False
        if kept.twins is not None:
            is_example[kept.twins.rows] = False
        takers = np.full(len(influence), -1, np.int64)
        takers[kept.rows] = 0
        single = np.where(is_example, influence, 0.0).astype(np.float32)
        return cls(single[:, None], takers, is_example)


def known_influence(scored: Scored, keys: Array, counts: Array) -> tuple[Array, Array]:
    """Finds the influence of the scored rows.

    Args:
      scored: The scored examples, `key` ascending.
      keys: Keys of the rows (`seeding.keys`), uint64 [n].
      counts: Which rows may have been scored, bool [n]; a rejected row shares its key with others.

    Returns:
      Influence, float64 [n], nan for none; and which rows were scored, with or without a finite score, bool [n].
    """
    at = find_sorted(scored["key"], keys)
    has_score = (at >= 0) & counts
    influence = np.full(len(keys), np.nan)
    influence[has_score] = scored["influence"][at[has_score]]
    return influence, has_score


def or_estimate(influence: Array, estimate: Array) -> Array:
    """Replaces influence that is not finite by an estimate: both float [n], to float [n]."""
    return np.where(np.isfinite(influence), influence, estimate)


def accepted_columns(
    blocks: Sequence[tuple[int, int, int, float]],
    highest_draws: Mapping[tuple[int, int], np.uint64 | None],
) -> dict[str, Array]:
    """Lists the accepted blocks of which something is taken, by column, for `keep_accepted`.

    Args:
      blocks: (cluster, block, round, influence) of each, ascending.
      highest_draws: What `cut_blocks` gives for the blocks that are cut; all others are taken whole.
    """
    # The example in which a cut ends may overshoot it, and a later block then gives nothing: its draw is None.
    taken = [
        (*own, draw) for own in blocks if (draw := highest_draws.get(own[:2], MAX_DRAW)) is not None
    ]
    clusters, numbers, rounds, influence, draws = zip(*taken, strict=True) if taken else ((),) * 5
    return {
        "cluster": np.array(clusters, np.int64),
        "block": np.array(numbers, np.int64),
        "round": np.array(rounds, np.int64),
        "block_influence": np.array(influence, np.float64),
        "highest_draw": np.array(draws, np.uint64),
    }


def keep_accepted(
    accepted: Mapping[str, Array],
    scored: Scored,
    clusters: Array,
    blocks: Array,
    keys: Array,
    draws: Array,
    is_candidate: Array,
    accepted_keys: Array | None = None,
) -> Kept:
    """Keeps the rows of the blocks a bandit accepted, without rows that could not be scored.

    Args:
      accepted: The accepted blocks, ascending by (`cluster`, `block`), with the `round` of each, its `block_influence`
        and the `highest_draw` taken from it.
      scored: The scored examples, `key` ascending.
      clusters: Cluster of each row, integer [n]; -1 for none.
      blocks: Block of each row, integer [n].
      keys: uint64 [n].
      draws: `cut_draws` of the rows, uint64 [n].
      is_candidate: Which rows can be selected: usable, and short enough for the budget, bool [n].
      accepted_keys: Only these examples are kept, uint64, ascending; None keeps whole blocks.
    """
    codes = arm_code(accepted["cluster"], accepted["block"])
    place = find_sorted(codes, arm_code(clusters, blocks))
    influence, has_score = known_influence(scored, keys, clusters >= 0)
    unscorable = has_score & np.isnan(influence)
    taken = (place >= 0) & (clusters >= 0) & ~unscorable & is_candidate
    # Without accepted blocks there is no draw to look up.
    if len(codes):
        taken &= draws <= accepted["highest_draw"][place]
    if accepted_keys is not None:
        taken &= find_sorted(accepted_keys, keys) >= 0
    at = np.flatnonzero(taken)
    why = place[at]
    return Kept(
        at,
        clusters[at].astype(np.int64),
        blocks[at],
        accepted["round"][why],
        influence[at],
        accepted["block_influence"][why],
        np.flatnonzero(unscorable),
        is_accepted=np.ones(len(at), bool),
    )


def within_reach(kept: Kept, is_kept: Array) -> Kept:
    """Reduces a selection by a further cut, bool [n] over all rows; unscorable rows stay unscorable."""
    at = np.flatnonzero(is_kept[kept.rows])
    of_rows: dict[str, Any] = {
        field.name: np.asarray(getattr(kept, field.name))[at]
        for field in dataclasses.fields(kept)
        if field.name not in _OF_OTHER_ROWS and getattr(kept, field.name) is not None
    }
    return dataclasses.replace(kept, **of_rows)


def keep_again(is_kept: Array, clusters: Array, worth: Array, is_unscorable: Array) -> Kept:
    """Keeps rows that an earlier run selected; that run wrote their blocks and rounds.

    Args:
      is_kept: Which rows these are, bool [n].
      clusters: Cluster of each row, integer [n].
      worth: The influence by which they were selected, float64 [n].
      is_unscorable: Which rows could not be scored, bool [n].
    """
    at = np.flatnonzero(is_kept)
    none, nothing = np.full(len(at), -1, np.int64), np.full(len(at), np.nan)
    return Kept(
        at,
        clusters[at].astype(np.int64),
        none,
        none,
        nothing,
        nothing,
        np.flatnonzero(is_unscorable),
        worth=worth[at],
    )


def keep_ranked(
    packed: Array,
    floor: Array | np.uint64,
    unscorable: Array,
    clusters: Array | None = None,
    influence: Array | None = None,
) -> Kept:
    """Keeps the rows that a baseline ranks highest.

    Args:
      packed: Priorities, uint64 [n], 0 for rows that cannot be selected.
      floor: The lowest selected priority, common or per row, uint64 [n].
      unscorable: Which rows have no finite rank, bool [n].
      clusters: Cluster of each row, integer [n]; None if nothing was clustered.
      influence: Influence of each row, float64 [n]; None if it was not computed.
    """
    at = np.flatnonzero(is_reached(packed, floor))
    none, nothing = np.full(len(at), -1, np.int64), np.full(len(at), np.nan)
    return Kept(
        at,
        none if clusters is None else clusters[at].astype(np.int64),
        none,
        none,
        nothing if influence is None else influence[at],
        nothing,
        np.flatnonzero(unscorable),
    )


def keep_predicted(
    packed: Array,
    floor: Array | np.uint64,
    predicted: Array,
    pulled: Mapping[str, Array],
    scored: Scored,
    clusters: Array,
    blocks: Array,
    places: Array,
    keys: Array,
) -> Kept:
    """Keeps the rows of the highest known or predicted influence.

    Args:
      packed: Priorities, uint64 [n], 0 for rows that cannot be selected.
      floor: The lowest selected priority, common or per row, uint64 [n].
      predicted: Influence, known or predicted, float [n].
      pulled: The pulled blocks, with the `round` of each and its mean `influence`.
      scored: The scored examples, `key` ascending.
      clusters: Cluster of each row, int64 [n]; -1 for none.
      blocks: Block of each row, int64 [n]; -1 for none.
      places: Place of its block in `pulled`, int64 [n]; -1 if it was not pulled.
      keys: uint64 [n].
    """
    influence, has_score = known_influence(scored, keys, clusters >= 0)
    # A row has either its own influence or a prediction, never both.
    predicted = np.where(has_score, np.nan, predicted)
    at = np.flatnonzero(is_reached(packed, floor))
    why = places[at]
    return Kept(
        at,
        clusters[at],
        blocks[at],
        np.where(why >= 0, pulled["round"][why], -1),
        influence[at],
        np.where(why >= 0, pulled["influence"][why], np.nan),
        np.flatnonzero(has_score & np.isnan(influence)),
        predicted=predicted[at],
        worth=np.where(has_score, influence, predicted)[at],
    )


def keep_for_targets(
    influence: Array,
    takers: Array,
    keys: Array,
    exact_keys: Array,
    unscorable: Array,
    targets: Sequence[str],
) -> Kept:
    """Keeps the rows taken by targets, by influence known for some rows and predicted for the others.

    Args:
      influence: Influence on each target, float32 [n, num_targets].
      takers: The target that takes each row, -1 for none, int64 [n].
      keys: Keys of the rows (`seeding.keys`), uint64 [n].
      exact_keys: Keys of the examples whose own influence was computed, uint64.
      unscorable: Which rows have no finite score, bool [n].
      targets: Names of the targets.
    """
    at = np.flatnonzero(takers >= 0)
    target = takers[at]
    own = influence[at, target].astype(np.float64)
    is_exact = np.isin(keys[at], exact_keys)
    none, nothing = np.full(len(at), -1, np.int64), np.full(len(at), np.nan)
    return Kept(
        rows=at,
        cluster=none,
        block=none,
        round=none,
        influence=np.where(is_exact, own, np.nan),
        block_influence=nothing,
        unscorable=np.flatnonzero(unscorable),
        predicted=np.where(is_exact, np.nan, own),
        target=[targets[i] for i in target],
    )
