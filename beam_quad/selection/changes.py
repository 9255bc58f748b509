"""The difference between an earlier selection and a new one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_quad.additive import ByName, Tally, add_fields
from beam_quad.selection.accounts import Amount

Array = np.ndarray[Any, np.dtype[Any]]

# Reasons why rows leave, in addition to the reasons of rejection.
SHARD_GONE, SHARD_CHANGED, NOT_AMONG_THE_BEST = "shard_gone", "shard_changed", "not_among_the_best"


@dataclasses.dataclass(frozen=True)
class Changes:
    """How a selection differs from the one before it. An additive statistic.

    Attributes:
      kept: Rows of both.
      added: Rows of the new one alone.
      left: Rows of the old one alone, by reason.
      parts: Rows of both, by the number of their part in the old selection.
      splits: Rows of the new one alone, by the number of their split.
      harmful: Rows of the new one alone whose own influence is negative: training on them raises the query loss.
    """

    kept: Amount = dataclasses.field(default_factory=Amount)
    added: Amount = dataclasses.field(default_factory=Amount)
    left: ByName[Amount] = dataclasses.field(default_factory=ByName)
    parts: Tally = dataclasses.field(default_factory=Tally)
    splits: Tally = dataclasses.field(default_factory=Tally)
    harmful: int = 0

    def __add__(self, other: "Changes") -> "Changes":
        return add_fields(self, other)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Changes":
        """Reads the output of `records.as_json`."""
        left = {reason: Amount(**own) for reason, own in stored["left"]["named"].items()}
        kept, added = Amount(**stored["kept"]), Amount(**stored["added"])
        tallies = (Tally(stored[name]["counts"]) for name in ("parts", "splits"))
        parts, splits = tallies
        return cls(kept, added, ByName(left), parts, splits, stored["harmful"])


def changes_of(
    split: int,
    tokens: Array,
    selected: Array,
    held: Array,
    held_parts: Array,
    reasons: Mapping[int, str],
) -> Changes:
    """Compares the old and the new selection of a split in both corpora.

    Args:
      split: Its number.
      tokens: Tokens of each row, int64 [n].
      selected: The rows selected now, ascending, int64 [m].
      held: The rows selected before, ascending, int64 [k].
      held_parts: The part of each of these rows, int64 [k].
      reasons: Why a row that was selected before is rejected now, by row; one without a reason is not among the best.
    """
    stays = np.isin(held, selected, assume_unique=True)
    added = selected[~np.isin(selected, held, assume_unique=True)]
    parts, numbers = np.unique(held_parts[stays], return_counts=True)
    left: dict[str, Amount] = {}
    for row in held[~stays].tolist():
        reason = reasons.get(row, NOT_AMONG_THE_BEST)
        left[reason] = left.get(reason, Amount()) + Amount(1, int(tokens[row]))
    return Changes(
        _amount(tokens[held[stays]]),
        _amount(tokens[added]),
        ByName(left),
        Tally({str(part): int(number) for part, number in zip(parts, numbers, strict=True)}),
        Tally({str(split): len(added)} if len(added) else {}),
    )


def all_left(tokens: Array, reason: str) -> Changes:
    """Counts all selected rows of a shard that is gone or changed as left.

    Args:
      tokens: Tokens of each row selected from the shard, int64 [k].
      reason: `SHARD_GONE` or `SHARD_CHANGED`.
    """
    return Changes(left=ByName({reason: _amount(tokens)} if len(tokens) else {}))


def _amount(tokens: Array) -> Amount:
    return Amount(len(tokens), int(tokens.sum()))
