"""What the scores say: against a random draw, their distributions, the best and the worst examples, how they were made."""

from collections.abc import Callable, Mapping

import numpy as np

from beam_quad import answers
from beam_quad.report import plots
from beam_quad.report.comparison import (
    Comparison,
    Estimate,
    finite,
    sampling_weights,
    token_shares,
)
from beam_quad.report.data import Example, ReportData
from beam_quad.report.formatting import count, decimal, percent, signed
from beam_quad.report.markup import Column, Html, Section, clean, join, table, tag
from beam_quad.report.sections.common import ImageKey, figure
from beam_quad.report.svg import RANDOM, SCORED, SELECTED

_NAME_CHARACTERS = 60


def scores(data: ReportData, comparison: Comparison | None) -> Section | None:
    """Shows the selection against a random draw, and the distributions of influence; None without scores."""
    if data.scores is None or not np.isfinite(data.scores.scored.influence).any():
        return None
    parts = [_histogram(data)]
    text = None
    if comparison is not None:
        parts.insert(0, _intervals(comparison))
        text = _comparison_table(comparison)
    title = "Against a random draw" if comparison is not None else "Scores"
    return Section("scores", title, join([tag("div", *parts, class_="plots"), text]), _unit(data))


def _unit(data: ReportData) -> str:
    unit = f"decrease of the query loss, in nats per token, per {_step(data.configuration or {})}"
    if len(data.query_groups or ()) > 1:
        unit = f"for each query group the {unit}; the groups are put on one scale and added"
    return f"Influence: {unit}. Higher is better, below 0 harms; numbers of another proxy or query set do not compare."


def _step(options: Mapping[str, object]) -> str:
    """Says for which step on a document the query loss decreases by the influence."""
    is_plain, is_normalized = options.get("curvature") == "identity", options.get("normalize")
    if is_plain and is_normalized:
        return "gradient step of length 1 on the document"
    if is_plain:
        return "unit of a gradient step on the document"
    step = "unit of a curvature-preconditioned step on the document"
    return f"{step}, its gradient first scaled to length 1" if is_normalized else step


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
    lines = [
        (label, [(estimate, color)]) for label, estimate, color in _named_estimates(comparison)
    ]
    drawing = plots.estimates(lines)
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


def examples(data: ReportData) -> Section | None:
    """Shows the best and the worst scored examples side by side; None where there are neither."""
    rank = _rank_in_all(data)
    lists = [("Highest", data.best or (), rank)]
    for target in data.targets or ():
        best = (data.best_by_target or {}).get(target.name, ())
        title = f"Highest for {clean(target.name, _NAME_CHARACTERS)}"
        lists.append((title, best, _rank(target.influence, "landmarks")))
    lists.append(("Lowest", data.worst or (), rank))
    lists = [each for each in lists if each[1]]
    if not lists:
        return None
    columns = [
        tag("div", tag("h3", title), *(_example(e, rank(e)) for e in items))
        for title, items, rank in lists
    ]
    lead = (
        "Of all scored examples, each with the share of the pilot's scores that lie below its own."
    )
    if data.targets:
        lead = "Of all landmarks, each with the share of them whose influence lies below its own."
        if len(data.targets) > 1:
            lead += " Of the lowest, influence is that on the target for which it is highest."
    is_ranked = any(rank(e) is not None for _, items, rank in lists for e in items)
    body = tag("div", *columns, class_="columns")
    return Section("examples", "Best and worst", body, lead if is_ranked else None)


def _rank_in_all(data: ReportData) -> Callable[[Example], str | None]:
    if data.targets:
        return _rank(np.max([t.influence for t in data.targets], axis=0), "landmarks")
    if data.scores is not None and data.scores.pilot is not None:
        return _rank(finite(data.scores.pilot).influence, "pilot")
    return _rank(np.zeros(0), "pilot")


def _rank(values: np.ndarray, sample: str) -> Callable[[Example], str | None]:
    """Says of an example how much of a sample it is above; None where that is empty."""

    def rank(example: Example) -> str | None:
        if not len(values):
            return None
        return f"above {percent(float((values < example.influence).mean()))} of the {sample}"

    return rank


def _example(example: Example, rank: str | None) -> Html:
    facts = [
        tag("strong", signed(example.influence)),
        tag("span", rank) if rank is not None else None,
        tag("span", f"cluster {example.cluster_id}") if example.cluster_id is not None else None,
        tag("span", f"{count(example.tokens)} tokens"),
        tag("span", "selected", class_="badge selected") if example.is_selected else None,
    ]
    return tag(
        "article",
        tag("header", *facts),
        tag("code", example.example_id),
        tag("p", answers.plain(example.text), dir="auto"),
    )
