"""The clusters: sizes, cohesion, typical words and texts, share of the corpus against share of the selection."""

import math
from collections.abc import Sequence

from beam_quad.report import plots
from beam_quad.report.data import Cluster, ReportData
from beam_quad.report.formatting import count, decimal, percent, ratio
from beam_quad.report.markup import Column, Html, Section, bar, join, table, tag
from beam_quad.report.sections.common import ImageKey, figure

# Up to this many clusters are all listed; of more, the ends of three orders are.
MAX_LISTED = 80
_FIRST_ROWS = 20
_MAX_TEXTS = 3
_MAX_WORDS = 10
_COLUMNS = (
    Column("Cluster"),
    Column("Typical words and texts", "wide"),
    Column("Examples"),
    Column("Corpus", hint="share of the corpus's tokens"),
    Column("Selection", hint="share of the selection's tokens"),
    Column("", "bars"),
    Column("Cohesion", hint="mean cosine similarity to the center"),
    Column("Influence", hint="token-weighted mean of the scored examples"),
)


def clusters(data: ReportData) -> Section | None:
    """Shows the clusters; None where there are none."""
    items = data.clusters
    if not items:
        return None
    sizes = sorted(c.documents for c in items)
    lead = (
        f"{count(len(items))} clusters of {count(sizes[0])} to {count(sizes[-1])} examples (median "
        f"{count(sizes[len(sizes) // 2])}). In tokens, the corpus is spread as over "
        f"{decimal(effective_number([c.tokens for c in items]))} equal clusters, the selection as over "
        f"{decimal(effective_number([c.selected_tokens for c in items]))}."
    )
    return Section("clusters", "Clusters", join([_plots(items), _tables(items)]), lead)


def effective_number(sizes: Sequence[int]) -> float:
    """Computes the number of equal clusters with the same entropy, exp(-sum p ln p); 0 for no tokens at all.

    References:
      Hill, Diversity and Evenness: A Unifying Notation and Its Consequences, 1973 (order 1).
    """
    total = sum(sizes)
    if not total:
        return 0.0
    return math.exp(-math.fsum(s / total * math.log(s / total) for s in sizes if s))


def _plots(items: Sequence[Cluster]) -> Html:
    drawn = min(len(items), plots.MAX_MARKS)
    not_drawn = (
        f" The {count(drawn)} largest of {count(len(items))} are drawn."
        if drawn < len(items)
        else ""
    )
    shares = figure(
        plots.cluster_shares(items),
        "shares",
        "Share of the selection against share of the corpus",
        (ImageKey("selected", "gave something"), ImageKey("random", "gave nothing (lower edge)")),
        f"Above the dashed line a cluster is over-represented.{not_drawn}",
    )
    concentration = figure(
        plots.cluster_concentration(items),
        "concentration",
        "How much lies in the largest clusters",
        (ImageKey("random", "corpus"), ImageKey("selected", "selection")),
        "Clusters are ordered by size, for each curve anew.",
    )
    return tag("div", shares, concentration, class_="plots")


def _tables(items: Sequence[Cluster]) -> Html:
    by_selection = sorted(
        items, key=lambda c: (-c.selected_tokens, -(c.mean_influence or 0), c.cluster_id)
    )
    totals = sum(c.tokens for c in items), sum(c.selected_tokens for c in items)
    if len(items) <= MAX_LISTED:
        first, rest = by_selection[:_FIRST_ROWS], by_selection[_FIRST_ROWS:]
        parts = [tag("h3", "By share of the selection"), _table(first, totals)]
        if rest:
            more = tag("summary", f"{count(len(rest))} more clusters")
            parts.append(tag("details", more, _table(rest, totals), class_="more"))
        return join(parts)
    return _extremes(items, by_selection, totals)


def _extremes(
    items: Sequence[Cluster], by_selection: Sequence[Cluster], totals: tuple[int, int]
) -> Html:
    top = by_selection[:_FIRST_ROWS]
    passed_over = [
        c for c in sorted(items, key=lambda c: (-c.tokens, c.cluster_id)) if not c.selected_tokens
    ]
    scored = [c for c in items if c.mean_influence is not None]
    lowest = sorted(scored, key=lambda c: (c.mean_influence, c.cluster_id))[:10]
    shown = {c.cluster_id for c in (*top, *passed_over[:10], *lowest)}
    parts = [tag("h3", "Largest share of the selection"), _table(top, totals)]
    if passed_over:
        parts += [tag("h3", "Largest that gave nothing"), _table(passed_over[:10], totals)]
    if lowest:
        parts += [tag("h3", "Lowest influence"), _table(lowest, totals)]
    parts.append(
        tag("p", f"{count(len(items) - len(shown))} clusters are not listed.", class_="muted")
    )
    return join(parts)


def _table(items: Sequence[Cluster], totals: tuple[int, int]) -> Html:
    shares = [(ratio(c.tokens, totals[0]), ratio(c.selected_tokens, totals[1])) for c in items]
    largest = max((s or 0.0 for pair in shares for s in pair), default=0.0) or 1.0
    return table(
        _COLUMNS,
        (_row(cluster, *pair, largest) for cluster, pair in zip(items, shares, strict=True)),
    )


def _row(
    cluster: Cluster, corpus: float | None, selection: float | None, largest: float
) -> tuple[object, ...]:
    return (
        str(cluster.cluster_id),
        _typical(cluster),
        count(cluster.documents),
        percent(corpus),
        percent(selection),
        join([bar((corpus or 0) / largest, "random"), bar((selection or 0) / largest, "selected")]),
        decimal(cluster.cohesion, 2),
        decimal(cluster.mean_influence),
    )


def _typical(cluster: Cluster) -> Html:
    words = join([tag("span", word) for word in cluster.words[:_MAX_WORDS]], ", ")
    if not cluster.texts:
        return words
    texts = [tag("p", text) for text in cluster.texts[:_MAX_TEXTS]]
    return join([words, tag("details", tag("summary", "typical texts"), *texts)])
