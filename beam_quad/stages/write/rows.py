"""What becomes of the rows of a split: selected with a reason, rejected with another, or counted."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from beam_quad.additive import Tally
from beam_quad.artifacts import aligned
from beam_quad.corpus.batches import default_id
from beam_quad.corpus.output import Rejected, Selected, provenance
from beam_quad.distillation import WeightSums
from beam_quad.records import Reason, finite_or_none
from beam_quad.report.data import Outcome
from beam_quad.selection import Kept, RowCounts, count_rows
from beam_quad.selection.decisions import NO_REASON, REASONS, Decided
from beam_quad.stages.read.corpus import Places
from beam_quad.stages.read.leaks import FoundLeak
from beam_quad.stages.write.decisions import twins_of


@dataclasses.dataclass
class PartLog:
    """What the splits of a part come to. It grows while their rows are written, one split after the other.

    Attributes:
      counts: The rows by outcome.
      rejected: Lines of the file of rejected rows.
      weights: Sums over the weights of the selected rows.
      num_due: Number of rows that the part must hold.
      outcomes: What became of the examples that the report shows, by key.
    """

    counts: RowCounts = dataclasses.field(default_factory=RowCounts)
    rejected: list[Rejected] = dataclasses.field(default_factory=list)
    weights: WeightSums = dataclasses.field(default_factory=WeightSums)
    num_due: int = 0
    outcomes: list[tuple[str, Outcome]] = dataclasses.field(default_factory=list)


def by_shard(
    places: Places, rows: np.ndarray, why: Any, weights: np.ndarray | None
) -> Iterator[Selected]:
    """Yields chosen rows, int64 [m], shard by shard, with the provenance and the weight of each."""
    # A split may join several small shards, each with row numbers of its own.
    for part in places.parts:
        first, last = np.searchsorted(rows, [part.first, part.first + part.num_rows])
        if first < last:
            own = None if weights is None else weights[first:last]
            numbers = part.split.first_row + rows[first:last] - part.first
            yield Selected(part.split, numbers, why.slice(first, last - first), own)


def provenance_of(places: Places, rows: aligned.Rows, kept: Kept, since: np.ndarray) -> Any:
    """Describes why each kept row was selected; `since` has the number of the run that first selected it."""
    ids = [rows.ids[row] or default_id(*places.of(row)) for row in kept.rows.tolist()]
    return provenance(
        ids,
        tokens=rows.tokens[kept.rows],
        cluster=_or_null(kept.cluster),
        block=_or_null(kept.block),
        round=_or_null(kept.round),
        influence=kept.influence,
        block_influence=kept.block_influence,
        predicted_influence=kept.predicted,
        target=kept.target,
        since=since,
    )


def rejected_rows(
    places: Places, rows: aligned.Rows, kept: Kept, leaks: Mapping[int, FoundLeak]
) -> Iterator[tuple[int, Rejected]]:
    """Yields the lines of `rejected/` for the rows of a split, by row."""
    unscorable, twins = set(kept.unscorable.tolist()), twins_of(kept)
    # In the order of the rows, so equal runs write equal files.
    for row in sorted(unscorable.union(np.flatnonzero(~rows.usable).tolist(), twins)):
        shard, number = places.of(row)
        if row in twins:
            # Usable, and counted as not selected: it is listed here only to name its twin.
            detail = f"{twins[row]} is nearly the same, and ranks higher; counted as not selected"
            yield row, Rejected(shard, number, Reason.NEAR_DUPLICATE, detail)
            continue
        if row in unscorable:
            yield row, Rejected(shard, number, Reason.NOT_FINITE, "its score is not finite")
            continue
        reason = aligned.reason_of(int(rows.reasons[row]))
        detail = rows.details[row] or ""
        if reason is Reason.DUPLICATE_ID:
            detail = f"id {rows.ids[row]!r} stands at an earlier row"
        elif reason is Reason.NO_EMBEDDING:
            detail = "the embedder gives its text no finite, non-zero vector"
        elif reason is Reason.EXCLUDED:
            detail = "its id is on the list of --exclude"
        elif reason is Reason.CONTAMINATED:
            detail = leaks[row].detail()
        yield row, Rejected(shard, number, reason or Reason.BAD_FILE, detail)


def count_outcomes(
    places: Places,
    rows: aligned.Rows,
    kept: Kept,
    is_candidate: np.ndarray,
    leaks: Mapping[int, FoundLeak],
) -> RowCounts:
    """Counts the rows of a split by outcome."""
    codes, occurrences = np.unique(rows.reasons[~rows.usable], return_counts=True)
    reasons = {
        str(aligned.reason_of(int(code))): int(count)
        for code, count in zip(codes, occurrences, strict=True)
    }
    shards = [
        (part.split.shard, slice(part.first, part.first + part.num_rows)) for part in places.parts
    ]
    counts = count_rows(shards, rows.usable, is_candidate, rows.tokens, reasons, kept)
    is_leak = rows.reasons == aligned.reason_code(Reason.CONTAMINATED)
    sets = collections.Counter(leaks[row].set for row in np.flatnonzero(is_leak).tolist())
    return dataclasses.replace(counts, leaks=Tally(dict(sets)))


def outcome_of(row: int, kept: Kept, decided: Decided, twin: str | None, is_held: bool) -> Outcome:
    """Describes what became of one row, for the report.

    Args:
      row: Number of the row.
      kept: The selected rows of its split.
      decided: The decisions on its split.
      twin: The near-duplicate that stays in its place; None if there is none.
      is_held: Whether it is selected because the base selected it.
    """
    reason, found = int(decided.reason[row]), decided.standing
    cut: dict[str, Any] = {
        name: finite_or_none(getattr(found, name)[row]) for name in ("rank", "cut")
    }
    if reason != NO_REASON:
        pulled = int(found.round[row])
        return Outcome(REASONS[reason], twin, pulled if pulled >= 0 else None, **cut)
    own = int(np.searchsorted(kept.rows, row))
    return Outcome(
        round=int(kept.round[own]) if kept.round[own] >= 0 else None,
        block_influence=finite_or_none(kept.block_influence[own]),
        worth=None if kept.worth is None else finite_or_none(kept.worth[own]),
        target=None if kept.target is None else kept.target[own],
        is_kept=is_held,
        **cut,
        is_accepted=None if kept.is_accepted is None else bool(kept.is_accepted[own]),
    )


def _or_null(column: np.ndarray) -> Any:
    # -1 is for arrays of integers, which have no null; the output has.
    return np.ma.masked_less(column, 0) if (column < 0).any() else column
