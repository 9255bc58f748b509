"""What the scores say: against a random draw, their distributions, query groups, the best and the worst examples."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from beam_quad.reporting import plots
from beam_quad.reporting.comparison import (
    Comparison,
    Estimate,
    finite,
    percentile,
    sampling_weights,
    token_shares,
)
from beam_quad.reporting.data import Example, QueryGroup, ReportData, ScoredSample
from beam_quad.reporting.formatting import compact, count, decimal, percent, signed
from beam_quad.reporting.markup import Column, Html, Section, join, table, tag
from beam_quad.reporting.sections.common import ImageKey, figure
from beam_quad.reporting.svg import RANDOM, SCORED, SELECTED


def scores(data: ReportData, comparison: Comparison | None) -> Section | None:
    """Shows the selection against a random draw, and the distributions of influence; None without scores."""
    if data.scores is None or not np.isfinite(data.scores.scored.influence).any():
        return None
    parts = [_histogram(data)]
    text = None
    if comparison is not None:
        parts.insert(0, _intervals(comparison))
        text = _comparison_table(comparison)
    lead = (
        "Influence is how much training on an example lowers the loss on the query set, to first order: "
        "higher is better, and only differences and ratios carry meaning."
    )
    title = "Against a random draw" if comparison is not None else "Scores"
    return Section("scores", title, join([tag("div", *parts, class_="plots"), text]), lead)


def _named_estimates(comparison: Comparison) -> list[tuple[str, Estimate, str]]:
    rows = [("random draw", comparison.random, RANDOM)]
    if comparison.by_clusters is not None:
        rows.append(("selection, by clusters", comparison.by_clusters, SELECTED))
        rows.append(("selection, by blocks", comparison.by_blocks, SELECTED))
    else:
        rows.append(("selection", comparison.by_blocks, SELECTED))
    return rows


def _intervals(comparison: Comparison) -> Html:
    note = "95 % intervals."
    if comparison.by_clusters is not None:
        note += (
            " By blocks: the scored examples of the accepted blocks, the very scores that had them accepted, so too "
            "high. By clusters: all scored examples of the clusters drawn from, weighted by what each gave."
        )
    drawing = plots.estimates(_named_estimates(comparison))
    return figure(drawing, "estimates", "Mean influence per token", (), note)


def _comparison_table(comparison: Comparison) -> Html:
    columns = (
        Column("", "name"),
        Column("Mean influence"),
        Column("95 % interval, ±"),
        Column("Above random"),
        Column("In standard deviations", hint="of the influence of a random token's example"),
        Column("Scored examples"),
    )
    base, spread = comparison.random.mean, comparison.spread
    rows = [
        (
            label,
            decimal(estimate.mean),
            decimal(estimate.half_width, 2),
            signed(estimate.mean - base) if label != "random draw" else "",
            signed((estimate.mean - base) / spread, 2) if spread and label != "random draw" else "",
            count(estimate.num_examples),
        )
        for label, estimate, _ in _named_estimates(comparison)
    ]
    return table(columns, rows)


def _histogram(data: ReportData) -> Html:
    all_scores = data.scores
    if all_scores is None:
        raise ValueError("a histogram needs scores")
    corpus, selection = token_shares(data.clusters)
    series, keys = [], []
    for sample, shares, color, key in (
        (all_scores.pilot, corpus, RANDOM, ImageKey("random", "random draw (pilot, weighted)")),
        (all_scores.scored, None, SCORED, ImageKey("scored", "all scored")),
        (all_scores.selected, None if all_scores.is_census else selection, SELECTED,
         ImageKey("selected", "selection")),
    ):  # fmt: skip
        kept = finite(sample) if sample is not None else None
        weights = sampling_weights(kept, shares) if kept is not None else np.zeros(0)
        if kept is not None and weights.any():
            series.append((kept.influence, weights, color))
            keys.append(key)
    tau = data.rounds[-1].tau if data.rounds else None
    note = "Shares of tokens; the outermost bins hold the tails."
    if tau is not None and np.isfinite(tau):
        note += f" Dashed: the last threshold, {decimal(tau)}."
    return figure(
        plots.histograms(series, tau), "histograms", "Distribution of influence", keys, note
    )


def query_groups(data: ReportData) -> Section | None:
    """Shows what each query group thinks of the pilot's examples; None with fewer than two groups."""
    groups = data.query_groups
    if not groups or len(groups) < 2:
        return None
    corpus, _ = token_shares(data.clusters)
    pilot = data.scores.pilot if data.scores is not None else None
    columns = [
        Column("Query group", "text"), Column("Texts"), Column("Tokens"), Column("Weight"),
        Column("Pilot mean"), Column("Std. deviation"), Column("5 %"), Column("Median"), Column("95 %"),
    ]  # fmt: skip
    rows = (_group_row(group, pilot, corpus) for group in groups)
    body = [table(columns, rows), _correlations(groups)]
    lead = (
        "Each group's scores are divided by their standard deviation in the pilot and added with the weights. "
        "Groups that correlate weakly or negatively compete for the budget."
    )
    return Section("groups", "Query groups", join(body), lead)


def _group_row(
    group: QueryGroup, pilot: ScoredSample | None, corpus: dict[int, int] | None
) -> tuple[object, ...]:
    known = (group.name, count(group.documents), compact(group.tokens), f"{group.weight:g}")
    if group.pilot is None or not np.isfinite(group.pilot).any():
        return (*known, *[decimal(None)] * 5)
    values = group.pilot[np.isfinite(group.pilot)]
    mean = float(values.mean())
    if pilot is not None and len(pilot.influence) == len(group.pilot):
        weighted = finite(dataclasses.replace(pilot, influence=group.pilot))
        mean = float(sampling_weights(weighted, corpus) @ weighted.influence)
    quantiles = np.quantile(values, [0.05, 0.5, 0.95])
    return (
        *known,
        decimal(mean),
        decimal(float(values.std())),
        *(decimal(float(q)) for q in quantiles),
    )


def _correlations(groups: Sequence[QueryGroup]) -> Html | None:
    columns = [g.pilot for g in groups if g.pilot is not None]
    if len(columns) < len(groups) or len({len(c) for c in columns}) > 1 or len(groups) > 12:
        return None
    values = np.stack(columns)
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[1] < 3 or (values.std(axis=1) == 0).any():
        return None
    matrix = np.corrcoef(values)
    rows = (
        (g.name, *(f"{x:.2f}".replace("-", "−") for x in row))
        for g, row in zip(groups, matrix, strict=True)
    )
    head = [Column("", "text"), *(Column(g.name) for g in groups)]
    return join([tag("h3", "Correlation of the groups' scores in the pilot"), table(head, rows)])


def examples(data: ReportData) -> Section | None:
    """Shows the best and the worst scored examples side by side; None where there are neither."""
    if not data.best and not data.worst:
        return None
    rank = _ranking(data)
    columns = [
        tag("div", tag("h3", title), *(_example(e, rank(e.influence)) for e in items))
        for title, items in (("Highest", data.best), ("Lowest", data.worst))
        if items
    ]
    lead = (
        "Of all scored examples. Percentiles are of the corpus's tokens, estimated from the pilot."
    )
    body = tag("div", *columns, class_="columns")
    return Section("examples", "Best and worst", body, lead if _has_pilot(data) else None)


def _has_pilot(data: ReportData) -> bool:
    return data.scores is not None and data.scores.pilot is not None


def _ranking(data: ReportData) -> Callable[[float], float | None]:
    if data.scores is None or data.scores.pilot is None:
        return lambda _: None
    pilot = finite(data.scores.pilot)
    weights = sampling_weights(pilot, token_shares(data.clusters)[0])
    return lambda value: percentile(pilot, weights, value)


def _example(example: Example, rank: float | None) -> Html:
    facts = [
        tag("strong", signed(example.influence)),
        tag("span", f"percentile {_percentile(rank)}") if rank is not None else None,
        tag("span", f"cluster {example.cluster_id}") if example.cluster_id is not None else None,
        tag("span", f"{count(example.tokens)} tokens"),
        tag("span", "selected", class_="badge selected") if example.is_selected else None,
    ]
    return tag(
        "article",
        tag("header", *facts),
        tag("code", example.example_id),
        tag("p", example.text, dir="auto"),
    )


def _percentile(rank: float) -> str:
    return percent(rank).removesuffix(" %")
