"""Counts of the rows of a split: read, selected, not selected and rejected, by source, cluster and target."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad.additive import ByName, Tally, add_fields
from beam_quad.records import Reason
from beam_quad.selection.kept import Kept

Array = np.ndarray[Any, np.dtype[Any]]


def source_of(shard: str) -> str:
    """Names the source of a shard: its top folder, or its stem without its number."""
    if "/" in shard:
        return shard.split("/", 1)[0]
    # Shards of one source differ by a number at the end, as `wiki-00003` or `wiki_03_of_31`.
    stem = shard.split(".", 1)[0]
    return re.sub(r"[-_]?\d[\d_-]*(of[-_]?\d+)?$", "", stem) or stem


@dataclasses.dataclass(frozen=True)
class Amount:
    """Documents and their tokens. An additive statistic."""

    documents: int = 0
    tokens: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return add_fields(self, other)


@dataclasses.dataclass(frozen=True)
class SourceCounts:
    """Counts of the rows of a source. An additive statistic.

    Attributes:
      documents: Rows not rejected.
      tokens: Tokens of the rows usable when read.
      rejected: Rejected rows.
      selected: The selected rows.
    """

    documents: int
    tokens: int
    rejected: int
    selected: Amount

    def __add__(self, other: "SourceCounts") -> "SourceCounts":
        return add_fields(self, other)


@dataclasses.dataclass(frozen=True)
class RowCounts:
    """Counts of rows by outcome. An additive statistic.

    Attributes:
      read: Rows read.
      rejected: Rejected rows.
      not_selected: Usable rows not selected.
      selected: The selected rows.
      usable_tokens: Tokens of the rows usable when read.
      passed_over: Usable rows that are too long for the budget.
      near_duplicates: Rows that would be selected if no near-duplicate ranked above them.
      bad_files: Files left out because they could not be read.
      reasons: Rejected rows by reason.
      leaks: Rows rejected because they contain a protected text, by its set.
      sources: Counts by source.
      clusters: The amount selected, by cluster id.
      targets: The amount selected, by target.
    """

    read: int = 0
    rejected: int = 0
    not_selected: int = 0
    selected: Amount = Amount()
    usable_tokens: int = 0
    passed_over: Amount = Amount()
    near_duplicates: Amount = Amount()
    bad_files: int = 0
    reasons: Tally = dataclasses.field(default_factory=Tally)
    leaks: Tally = dataclasses.field(default_factory=Tally)
    sources: ByName[SourceCounts] = dataclasses.field(default_factory=ByName)
    clusters: ByName[Amount] = dataclasses.field(default_factory=ByName)
    targets: ByName[Amount] = dataclasses.field(default_factory=ByName)

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return add_fields(self, other)

    def of_cluster(self, cluster: int) -> Amount:
        """The amount selected from a cluster."""
        return self.clusters.named.get(str(cluster), Amount())

    def of_target(self, target: str) -> Amount:
        """The amount selected for a target."""
        return self.targets.named.get(target, Amount())

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "RowCounts":
        """Reads the output of `records.as_json`."""
        sources = {
            name: SourceCounts(**{**own, "selected": Amount(**own["selected"])})
            for name, own in stored["sources"]["named"].items()
        }
        return cls(
            **{name: stored[name] for name in _NUMBERS},
            selected=Amount(**stored["selected"]),
            passed_over=Amount(**stored["passed_over"]),
            near_duplicates=Amount(**stored["near_duplicates"]),
            reasons=Tally(stored["reasons"]["counts"]),
            leaks=Tally(stored["leaks"]["counts"]),
            sources=ByName(sources),
            clusters=_amounts(stored["clusters"]),
            targets=_amounts(stored["targets"]),
        )


_NUMBERS = ("read", "rejected", "not_selected", "usable_tokens", "bad_files")


def _amounts(stored: Mapping[str, Any]) -> ByName[Amount]:
    return ByName({name: Amount(**own) for name, own in stored["named"].items()})


def count_rows(
    shards: Sequence[tuple[str, slice]],
    is_usable: Array,
    is_candidate: Array,
    tokens: Array,
    reasons: Mapping[str, int],
    kept: Kept,
) -> RowCounts:
    """Counts the rows of a split.

    Args:
      shards: The shards of the split, and the rows of each in it.
      is_usable: Which rows were not rejected when they were read, bool [n].
      is_candidate: Which of these are short enough for the budget, bool [n].
      tokens: Tokens of each row, int64 [n].
      reasons: Number of rejected rows by reason.
      kept: The selected rows.
    """
    left = is_usable.copy()
    left[kept.unscorable] = False
    num_rejected = int((~left).sum())
    sources: ByName[SourceCounts] = ByName()
    for shard, own in shards:
        first, last, _ = own.indices(len(left))
        selected = kept.rows[slice(*np.searchsorted(kept.rows, [first, last]))]
        documents = int(left[own].sum())
        source = SourceCounts(
            documents,
            int(tokens[own][is_usable[own]].sum()),
            last - first - documents,
            _amount(tokens, selected),
        )
        sources = sources + ByName({source_of(shard): source})
    # Counted independently of the other totals, so that a row in two of them, or in none, shows in the sum.
    left[kept.rows] = False
    not_finite = {str(Reason.NOT_FINITE): len(kept.unscorable)} if len(kept.unscorable) else {}
    return RowCounts(
        read=len(is_usable),
        rejected=num_rejected,
        not_selected=int(left.sum()),
        selected=_amount(tokens, kept.rows),
        usable_tokens=int(tokens[is_usable].sum()),
        passed_over=_amount(tokens, np.flatnonzero(is_usable & ~is_candidate)),
        near_duplicates=Amount() if kept.twins is None else _amount(tokens, kept.twins.rows),
        reasons=Tally(dict(reasons)) + Tally(not_finite),
        sources=sources,
        clusters=_by_cluster(tokens, kept),
        targets=_by_target(tokens, kept),
    )


def _amount(tokens: Array, rows: Array) -> Amount:
    return Amount(len(rows), int(tokens[rows].sum()))


def _by_cluster(tokens: Array, kept: Kept) -> ByName[Amount]:
    clustered = kept.cluster >= 0
    rows = kept.rows[clustered]
    clusters, at = np.unique(kept.cluster[clustered], return_inverse=True)
    documents, sums = np.bincount(at), np.bincount(at, weights=tokens[rows])
    amounts = zip(clusters.tolist(), documents.tolist(), sums.tolist(), strict=True)
    return ByName({str(cluster): Amount(number, int(total)) for cluster, number, total in amounts})


def _by_target(tokens: Array, kept: Kept) -> ByName[Amount]:
    targets = np.array(kept.target or ())
    return ByName({str(t): _amount(tokens, kept.rows[targets == t]) for t in np.unique(targets)})
