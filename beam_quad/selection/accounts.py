"""What becomes of the rows of a split, counted: read, selected, not selected and rejected, by source, cluster and target."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_quad.additive import Tally
from beam_quad.records import Reason
from beam_quad.selection.kept import Kept

Array = np.ndarray[Any, np.dtype[Any]]


def source_of(shard: str) -> str:
    """Names the part of the input that a shard belongs to: its top folder, or its stem without its number."""
    if "/" in shard:
        return shard.split("/", 1)[0]
    stem = shard.split(".", 1)[0]
    return re.sub(r"[-_]?\d[\d_-]*(of[-_]?\d+)?$", "", stem) or stem


def count_rows(
    shard: str,
    is_usable: Array,
    is_candidate: Array,
    tokens: Array,
    reasons: Mapping[str, int],
    kept: Kept,
) -> Tally:
    """Counts the rows of a split.

    Args:
      shard: The shard that the split is of.
      is_usable: Which rows were not rejected when they were read, bool [n].
      is_candidate: Which of these are short enough for the budget, bool [n].
      tokens: Tokens of each row, int64 [n].
      reasons: How many of the others were rejected for what.
      kept: The rows that are selected.

    Returns:
      `read`, `rejected`, `selected`, `not_selected`, `passed_over` (usable but no candidates), `tokens_read`, `tokens_selected` and
      `tokens_passed_over`; `source/NAME/` with `documents`,
      `tokens`, `rejected`, `selected_documents` and `selected_tokens`; `rejected/REASON`; and of what is selected
      `target/NAME/` and `cluster/ID/` with `documents` and `tokens`.
    """
    passed_over = is_usable & ~is_candidate
    left = is_usable.copy()
    left[kept.unscorable] = False
    num_read, num_rejected = len(is_usable), int((~left).sum())
    # Counted from what is neither taken nor rejected, so that a row that is both, or none, shows in the sum.
    left[kept.rows] = False
    num_selected = len(kept.rows)
    selected = tokens[kept.rows]
    source = f"source/{source_of(shard)}"
    usable_tokens = int(tokens[is_usable].sum())
    counts = {
        "read": num_read,
        "rejected": num_rejected,
        "selected": num_selected,
        "not_selected": int(left.sum()),
        "tokens_read": usable_tokens,
        "tokens_selected": int(selected.sum()),
        "passed_over": int(passed_over.sum()),
        "tokens_passed_over": int(tokens[passed_over].sum()),
        f"{source}/documents": num_read - num_rejected,
        f"{source}/tokens": usable_tokens,
        f"{source}/rejected": num_rejected,
        f"{source}/selected_documents": num_selected,
        f"{source}/selected_tokens": int(selected.sum()),
    }
    for reason, count in reasons.items():
        counts[f"rejected/{reason}"] = count
    if len(kept.unscorable):
        counts[f"rejected/{Reason.NOT_FINITE}"] = len(kept.unscorable)
    for target in sorted(set(kept.target or ())):
        own = np.array([name == target for name in kept.target or ()])
        counts[f"target/{target}/documents"] = int(own.sum())
        counts[f"target/{target}/tokens"] = int(selected[own].sum())
    clustered = kept.cluster >= 0
    clusters, at = np.unique(kept.cluster[clustered], return_inverse=True)
    documents, sums = np.bincount(at), np.bincount(at, weights=selected[clustered])
    for cluster, count, weight in zip(clusters, documents, sums, strict=True):
        counts[f"cluster/{cluster}/documents"] = int(count)
        counts[f"cluster/{cluster}/tokens"] = int(weight)
    return Tally(counts)
