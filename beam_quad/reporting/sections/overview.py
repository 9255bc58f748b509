"""The first screen: what was selected, how good against random, was the budget met, what to know."""

from beam_quad.reporting.comparison import Comparison
from beam_quad.reporting.data import Funnel, Notice, ReportData
from beam_quad.reporting.formatting import (
    compact,
    count,
    decimal,
    duration,
    percent,
    ratio,
    signed,
)
from beam_quad.reporting.markup import Html, Section, bar, join, tag
from beam_quad.reporting.sections.query import poor_agreements


def head(data: ReportData, comparison: Comparison | None) -> Html:
    """Makes the page's head: title, verdict, tiles and notices."""
    subtitle = join([x for x in (data.policy, data.subtitle) if x], " · ")
    tiles = (_selected(data), _budget(data.funnel), _random(comparison), _scored(data), _time(data))
    return tag(
        "header",
        tag("h1", data.title),
        tag("p", subtitle, class_="muted"),
        tag("p", _verdict(data.funnel, comparison), class_="verdict"),
        tag("div", *tiles, class_="tiles"),
        _notices(data),
        id="summary",
    )


def _verdict(funnel: Funnel, comparison: Comparison | None) -> Html:
    parts = [
        f"{count(funnel.selected)} of {count(funnel.read)} examples were selected, "
        f"{compact(funnel.tokens_selected)} tokens"
    ]
    if funnel.tokens_budget:
        met = budget_met(funnel)
        share = percent(ratio(funnel.tokens_selected, funnel.tokens_budget))
        parts.append(": the budget is met. " if met else f": only {share} of the budget. ")
    else:
        parts.append(". ")
    if comparison is not None:
        parts.append(_against_random(comparison))
    return join(parts)


def budget_met(funnel: Funnel) -> bool:
    """Tells whether the selection fills the budget to within one average example, the precision of the last cut."""
    if not funnel.tokens_budget:
        return True
    example = funnel.tokens_selected / max(funnel.selected, 1)
    return funnel.tokens_selected + example >= funnel.tokens_budget


def _against_random(comparison: Comparison) -> str:
    gain, spread = comparison.gain, comparison.spread
    if abs(gain.mean) <= gain.half_width:
        return "Their mean influence cannot be told apart from that of a random draw."
    direction = "higher" if gain.mean > 0 else "lower"
    in_spreads = f" by {decimal(abs(gain.mean) / spread, 2)} standard deviations" if spread else ""
    return (
        f"Their mean influence is {direction} than that of a random draw{in_spreads} "
        f"({decimal(comparison.cautious.mean)} against {decimal(comparison.random.mean)})."
    )


def _tile(title: str, value: object, *lines: object) -> Html:
    return tag("div", tag("h3", title), tag("strong", value), *lines, class_="tile")


def _selected(data: ReportData) -> Html:
    funnel = data.funnel
    lines = [
        tag("p", f"{percent(ratio(funnel.selected, funnel.read))} of {count(funnel.read)} read")
    ]
    if data.clusters:
        used = sum(c.selected_documents > 0 for c in data.clusters)
        lines.append(tag("p", f"from {count(used)} of {count(len(data.clusters))} clusters"))
    return _tile("Selected examples", count(funnel.selected), *lines)


def _budget(funnel: Funnel) -> Html:
    share = ratio(funnel.tokens_selected, funnel.tokens_budget or 0)
    if share is None:
        return _tile(
            "Selected tokens",
            compact(funnel.tokens_selected),
            tag("p", f"of {compact(funnel.tokens_read)} read; no budget was set"),
        )
    met = budget_met(funnel)
    missing = (funnel.tokens_budget or 0) - funnel.tokens_selected
    return _tile(
        "Token budget",
        join([percent(share), tag("small", " met" if met else " not met")]),
        bar(share, "selected" if met else "warning"),
        tag("p", f"{count(funnel.tokens_selected)} of {count(funnel.tokens_budget)} tokens"),
        None if met else tag("p", f"short by {count(missing)} tokens"),
    )


def _random(comparison: Comparison | None) -> Html | None:
    if comparison is None:
        return None
    gain = comparison.gain
    return _tile(
        "Influence above random",
        join([signed(gain.mean), tag("small", f" ± {decimal(gain.half_width, 2)}")]),
        tag("p", f"{decimal(comparison.cautious.mean)} against {decimal(comparison.random.mean)}"),
        tag("p", f"above {percent(comparison.percentile)} of the pilot (clusters by their tokens)"),
    )


def _scored(data: ReportData) -> Html | None:
    scored = data.funnel.scored
    if scored is None:
        return None
    lines = [tag("p", f"{percent(ratio(scored, data.funnel.read))} of the examples read")]
    if data.rounds:
        pulls = sum(r.pulls for r in data.rounds)
        lines.append(tag("p", f"{count(pulls)} pulls in {count(len(data.rounds))} rounds"))
    return _tile("Scored examples", count(scored), *lines)


def _time(data: ReportData) -> Html | None:
    if not data.timings:
        return None
    longest = max(data.timings, key=lambda t: t.seconds)
    total = sum(t.seconds for t in data.timings)
    share = percent(ratio(longest.seconds, total))
    return _tile(
        "Time", duration(total), tag("p", f"in {len(data.timings)} stages"),
        tag("p", f"{longest.name}: {share}"),
    )  # fmt: skip


def _notices(data: ReportData) -> Html:
    notices = data.notices
    if not any(notice.level == "warning" for notice in notices):
        notices = (*_plain_warnings(data.funnel), *notices)
    notices = (*notices, *poor_agreements(data.query_groups or ()))
    notices = tuple(sorted(notices, key=lambda notice: notice.level != "warning"))
    items = [
        tag("li", tag("b", notice.level.capitalize()), notice.message, class_=notice.level)
        for notice in notices
    ]
    if not any(notice.level == "warning" for notice in notices):
        items.insert(0, tag("li", tag("b", "No warnings"), class_="none"))
    return tag("ul", *items, class_="notices")


def _plain_warnings(funnel: Funnel) -> list[Notice]:
    """Gives the warnings that follow from the counts alone, so that the page never calls a shortfall fine."""
    warnings = []
    if not budget_met(funnel):
        missing = (funnel.tokens_budget or 0) - funnel.tokens_selected
        warnings.append(Notice(f"The selection is {count(missing)} tokens short of its budget."))
    if funnel.bad_files:
        warnings.append(Notice(f"Input files left out as unreadable: {count(funnel.bad_files)}."))
    return warnings


def funnel(data: ReportData) -> Section:
    """Shows rows from the input to the selection, rejections by reason, and tokens."""
    f = data.funnel
    rejected = sum(f.rejected.values())
    rows = [
        _funnel_row("Read", f.read, f.read, "random"),
        _funnel_row("Rejected", rejected, f.read, "warning"),
    ]
    by_reason = sorted(f.rejected.items(), key=lambda item: (-item[1], item[0]))
    rows += [_funnel_row(r, n, f.read, "warning", "sub") for r, n in by_reason if n]
    if f.scored is not None:
        rows.append(_funnel_row("Scored", f.scored, f.read, "scored"))
    rows.append(_funnel_row("Not selected", f.not_selected, f.read, "random"))
    rows.append(_funnel_row("Selected", f.selected, f.read, "selected"))
    tokens = [_funnel_row("Read", f.tokens_read, f.tokens_read, "random")]
    if f.tokens_budget is not None:
        tokens.append(_funnel_row("Budget", f.tokens_budget, f.tokens_read, "scored"))
    tokens.append(_funnel_row("Selected", f.tokens_selected, f.tokens_read, "selected"))
    body = [tag("div", tag("h3", "Rows"), *rows, tag("h3", "Tokens"), *tokens, class_="funnel")]
    if f.bad_files:
        body.append(tag("p", f"Input files left out as unreadable: {count(f.bad_files)}."))
    return Section("funnel", "Funnel", join(body))


def _funnel_row(label: str, value: int, whole: int, kind: str, level: str | None = None) -> Html:
    share = ratio(value, whole)
    figure = join([count(value), tag("small", percent(share))], " ")
    return join(
        [tag("span", label, class_=level), tag("div", figure, class_="value"), bar(share, kind)]
    )
