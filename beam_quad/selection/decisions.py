"""The decision on every row that was read, and its reason, also for rows not selected."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_quad.records import Reason
from beam_quad.selection.kept import Kept

Array = np.ndarray[Any, np.dtype[Any]]


class Decision(enum.StrEnum):
    """Outcome of a row."""

    SELECTED = "selected"
    NOT_SELECTED = "not_selected"
    REJECTED = "rejected"


class Unselected(enum.StrEnum):
    """Why a usable row is not selected, apart from near-duplicates."""

    TOO_LONG = "too_long"
    NOT_SHORTLISTED = "not_shortlisted"
    SHARE_FULL = "share_full"
    BLOCK_NOT_PULLED = "block_not_pulled"
    BLOCK_NOT_ACCEPTED = "block_not_accepted"
    NOT_SCORED = "not_scored"
    BELOW_CUT = "below_cut"
    LEFT_OUT_BEFORE = "left_out_before"


DECISIONS: tuple[Decision, ...] = tuple(Decision)
# Reasons of rejection first, by their place in the enumeration.
REASONS: tuple[str, ...] = (*map(str, Reason), *map(str, Unselected))
NO_REASON = -1


def reason_number(reason: Reason | Unselected) -> int:
    """The place of a reason in `REASONS`."""
    return REASONS.index(str(reason))


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a selection knows of the rows of a split; rows that cannot be selected hold arbitrary values. All [n].

    Attributes:
      influence: Influence of the scored rows, float64, nan elsewhere.
      why: Reason a row is not selected, unless another reason precedes it, `reason_number` of an `Unselected`, int64.
      cluster: int64, -1 for none.
      block: int64, -1 for none.
      round: Round in which its block was pulled, int64, -1 if never.
      predicted: Predicted influence of the unscored rows, float64, nan elsewhere.
      rank: What the budget was cut by, float64, nan if it was not cut in a ranking.
      cut: The lowest selected rank of the rows that each competed with, float64, nan likewise.
    """

    influence: Array
    why: Array
    cluster: Array
    block: Array
    round: Array
    predicted: Array
    rank: Array
    cut: Array

    @classmethod
    def of(
        cls,
        num_rows: int,
        why: Array | Unselected,
        influence: Array | None = None,
        cluster: Array | None = None,
        predicted: Array | None = None,
    ) -> "Standing":
        """Describes rows of a selection without pulls; an argument of None is unknown for all rows."""
        number = reason_number(why) if isinstance(why, Unselected) else why
        none, nothing = np.full(num_rows, -1, np.int64), np.full(num_rows, np.nan)
        return cls(
            _float64(influence, num_rows),
            np.broadcast_to(np.asarray(number, np.int64), (num_rows,)),
            none if cluster is None else cluster.astype(np.int64),
            none,
            none,
            _float64(predicted, num_rows),
            nothing,
            nothing,
        )


def _float64(values: Array | None, num_rows: int) -> Array:
    return np.full(num_rows, np.nan) if values is None else np.asarray(values, np.float64)


def why_of(*cases: tuple[Array, Unselected], otherwise: Unselected) -> Array:
    """Gives each row the reason of the first case, bool [n], in which it is True: `reason_number`, int64 [n]."""
    return np.select(
        [holds for holds, _ in cases],
        [reason_number(reason) for _, reason in cases],
        reason_number(otherwise),
    ).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Decided:
    """The decisions on the rows of a split. All [n].

    Attributes:
      decision: Place in `DECISIONS`, int64.
      reason: Place in `REASONS`, int64; `NO_REASON` if the row is selected.
      standing: Their standing: for selected rows the values they were selected by; empty for rejected rows.
    """

    decision: Array
    reason: Array
    standing: Standing


def decide(
    rejected: Sequence[Reason | None],
    codes: Array,
    is_candidate: Array,
    kept: Kept,
    standing: Standing,
) -> Decided:
    """Decides every row; the counts of `count_rows` are sums over these decisions.

    Args:
      rejected: Reason of rejection for each code, None for usable rows.
      codes: Code of each row, integer [n].
      is_candidate: Which rows can be selected: usable, and short enough for the budget, bool [n].
      kept: The selected rows.
      standing: Standing of all rows.
    """
    numbers = [NO_REASON if reason is None else reason_number(reason) for reason in rejected]
    reason = np.array(numbers, np.int64)[codes]
    is_usable = reason == NO_REASON
    reason[is_usable] = np.where(is_candidate, standing.why, reason_number(Unselected.TOO_LONG))[
        is_usable
    ]
    # Assigned in rising precedence: a selected row has no reason, even if an earlier line gave it one.
    if kept.twins is not None:
        reason[kept.twins.rows] = reason_number(Reason.NEAR_DUPLICATE)
    reason[kept.unscorable] = reason_number(Reason.NOT_FINITE)
    reason[kept.rows] = NO_REASON
    is_rejected = ~is_usable
    is_rejected[kept.unscorable] = True
    decision = np.full(len(reason), DECISIONS.index(Decision.NOT_SELECTED))
    decision[is_rejected] = DECISIONS.index(Decision.REJECTED)
    decision[kept.rows] = DECISIONS.index(Decision.SELECTED)
    return Decided(decision, reason, _as_kept(standing, kept, is_usable))


def _as_kept(standing: Standing, kept: Kept, is_usable: Array) -> Standing:
    """Sets selected rows to the values they were selected by, and empties rejected rows."""
    columns = {}
    for name in ("cluster", "block", "round", "influence", "predicted"):
        column, own = getattr(standing, name), getattr(kept, name)
        none = np.nan if column.dtype.kind == "f" else -1
        column = np.where(is_usable, column, none)
        if own is not None:
            # A row carried over by a refresh was judged by an earlier run, so its known values override this run's.
            # nan is not equal to itself.
            is_known = own == own if column.dtype.kind == "f" else own >= 0
            column[kept.rows[is_known]] = own[is_known]
        columns[name] = column
    for name in ("rank", "cut"):
        columns[name] = np.where(is_usable, getattr(standing, name), np.nan)
    return dataclasses.replace(standing, **columns)
