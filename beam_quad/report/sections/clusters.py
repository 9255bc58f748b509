"""The clusters: sizes, cohesion, typical words and texts, share of the corpus against share of the selection."""

import itertools
import math
from collections.abc import Sequence

from beam_quad.report import plots
from beam_quad.report.data import Cluster, ReportData
from beam_quad.report.formatting import count, decimal, ratio
from beam_quad.report.pages import Section
from beam_quad.report.sections.corpus_map import drawn
from beam_quad.report.svg import Picture

# Up to this many clusters are all listed; of more, the ends of three orders are.
MAX_LISTED = 80
_FIRST_ROWS, _EXTREME_ROWS = 20, 10
# Of so many texts are read: each may be a request to a store.
_MAX_NAMED = 100


def clusters(data: ReportData) -> Section | None:
    """Shows the clusters; None if there are none."""
    items = data.clusters
    if not items:
        return None
    sizes = sorted(c.documents for c in items)
    lead = (
        f"{count(len(items))} clusters of {count(sizes[0])} to {count(sizes[-1])} examples (median "
        f"{count(sizes[len(sizes) // 2])}). By tokens, the corpus is as diverse as "
        f"{decimal(effective_number([c.tokens for c in items]))} clusters of equal size, the selection as "
        f"{decimal(effective_number([c.selected_tokens for c in items]))}."
    )
    totals = sum(c.tokens for c in items), sum(c.selected_tokens for c in items)
    lists = [(title, _rows(own, *totals), is_more) for title, own, is_more in listed(items)]
    num_listed = len({c.cluster_id for _, own, _ in listed(items) for c in own})
    view = {"pictures": _pictures(items), "lists": lists, "not_listed": len(items) - num_listed}
    return Section("clusters", "Clusters", view, lead)


def listed(items: Sequence[Cluster]) -> list[tuple[str, Sequence[Cluster], bool]]:
    """Chooses what is listed, in which order: lists with their titles, and whether each is shown only when asked for."""
    by_selection = sorted(
        items, key=lambda c: (-c.selected_tokens, -(c.mean_influence or 0), c.cluster_id)
    )
    if len(items) <= MAX_LISTED:
        first, rest = by_selection[:_FIRST_ROWS], by_selection[_FIRST_ROWS:]
        more = f"{count(len(rest))} more clusters"
        return [
            ("By share of the selection", first, False),
            *([(more, rest, True)] if rest else []),
        ]
    # Of thousands of clusters the ends are worth a look: what was taken, what was passed over, and what would harm.
    passed_over = [c for c in items if not c.selected_tokens]
    passed_over = sorted(passed_over, key=lambda c: (-c.tokens, c.cluster_id))[:_EXTREME_ROWS]
    scored = [c for c in items if c.mean_influence is not None]
    lowest = sorted(scored, key=lambda c: (c.mean_influence, c.cluster_id))[:_EXTREME_ROWS]
    lists = (
        ("Largest share of the selection", by_selection[:_FIRST_ROWS], False),
        ("Largest without a selected example", passed_over, False),
        ("Lowest influence", lowest, False),
    )
    return [each for each in lists if each[1]]


def named(items: Sequence[Cluster]) -> list[int]:
    """Chooses the clusters whose words and texts are shown: all that are listed, and the largest on the map."""
    chosen = {c.cluster_id for _, own, _ in listed(items) for c in own}
    largest = (c.cluster_id for c in drawn(items) if c.cluster_id not in chosen)
    chosen.update(itertools.islice(largest, max(0, _MAX_NAMED - len(chosen))))
    return sorted(chosen)


def effective_number(sizes: Sequence[int]) -> float:
    """Computes the number of equal clusters with the same entropy, exp(-sum p ln p); 0 for no tokens at all.

    References:
      Hill, Diversity and Evenness: A Unifying Notation and Its Consequences, 1973 (order 1).
    """
    total = sum(sizes)
    if not total:
        return 0.0
    return math.exp(-math.fsum(s / total * math.log(s / total) for s in sizes if s))


def _pictures(items: Sequence[Cluster]) -> list[Picture]:
    not_drawn = ""
    if len(items) > plots.MAX_MARKS:
        not_drawn = (
            f" The {count(plots.MAX_MARKS)} largest of {count(len(items))} clusters are drawn."
        )
    return [
        Picture.of(
            plots.cluster_shares(items),
            "shares",
            "Share of the selection against share of the corpus",
            (("selected", "some of it is selected"), ("random", "nothing is (lower edge)")),
            f"A cluster above the dashed line has a larger share of the selection than of the corpus.{not_drawn}",
        ),
        Picture.of(
            plots.cluster_concentration(items),
            "concentration",
            "Share of the largest clusters",
            (("random", "corpus"), ("selected", "selection")),
            "Each curve orders the clusters by their tokens in it.",
        ),
    ]


def _rows(
    items: Sequence[Cluster], corpus_tokens: int, selected_tokens: int
) -> list[tuple[Cluster, float, float, float]]:
    """Each cluster with its shares of the corpus and of the selection, and the largest of these on the list."""
    shares = [
        (ratio(c.tokens, corpus_tokens) or 0.0, ratio(c.selected_tokens, selected_tokens) or 0.0)
        for c in items
    ]
    # All bars of a list have one scale, so that rows compare as well as the two bars of a row.
    largest = max((s for pair in shares for s in pair), default=0.0) or 1.0
    return [(c, *pair, largest) for c, pair in zip(items, shares, strict=True)]
