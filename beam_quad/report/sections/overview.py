"""The first screen: what was selected, how good against random, was the budget met, what to know."""

from collections.abc import Mapping, Sequence
from typing import Any

from beam_quad.report.comparison import Comparison, Contrast, compare_target
from beam_quad.report.data import Funnel, Notice, ReportData, Target
from beam_quad.report.formatting import (
    compact,
    count,
    decimal,
    duration,
    percent,
    ratio,
    signed,
)
from beam_quad.report.markup import Html, Section, bar, clean, join, tag
from beam_quad.report.sections.query import poor_agreements
from beam_quad.report.sections.targets import in_deviations, poor_propagations

_MAX_NAMES = 4
_NAME_CHARACTERS = 20


def head(data: ReportData, comparison: Comparison | None) -> Html:
    """Makes the page's head: title, verdict, tiles and notices."""
    subtitle = join([x for x in (data.policy, data.subtitle) if x], " · ")
    tiles = (
        _selected(data),
        _budget(data.funnel),
        _random(comparison) if comparison is not None else _random_by_target(data.targets or ()),
        _scored(data),
        _time(data),
    )
    return tag(
        "header",
        tag("h1", data.title),
        tag("p", subtitle, class_="muted"),
        tag("p", _verdict(data, comparison), class_="verdict"),
        tag("div", *tiles, class_="tiles"),
        _notices(data),
        id="summary",
    )


def _verdict(data: ReportData, comparison: Comparison | None) -> Html:
    funnel = data.funnel
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
    elif data.targets:
        parts.append(_targets_against_random(data.targets))
    return join(parts)


def budget_met(funnel: Funnel) -> bool:
    """Tells whether the selection fills the budget to within one average example, the precision of the last cut."""
    if not funnel.tokens_budget:
        return True
    example = funnel.tokens_selected / max(funnel.selected, 1)
    return funnel.tokens_selected + example >= funnel.tokens_budget


def passed_over(manifest: Mapping[str, Any]) -> str | None:
    """Says which documents were too long to be selected, from a manifest; None where none was."""
    found = manifest["passed_over"]
    if not found["documents"]:
        return None
    number, verb = found["documents"], "was" if found["documents"] == 1 else "were"
    return (
        f"{count(number)} {'document' if number == 1 else 'documents'} of more than {count(found['longer_than'])} "
        f"tokens, {count(found['tokens'])} in all, {verb} passed over: more than a tenth of the budget, and more than "
        "a typical document."
    )


def near_duplicates(manifest: Mapping[str, Any]) -> str | None:
    """Says how many documents were left out for a near-duplicate, from a manifest; None where none was."""
    number = manifest["near_duplicates"]["documents"]
    if not number:
        return None
    what, verb = ("near-duplicate", "was") if number == 1 else ("near-duplicates", "were")
    return f"{count(number)} {what} of documents that rank higher {verb} left out; rejected/ names them."


def _against_random(comparison: Contrast) -> str:
    gain, spread = comparison.gain, comparison.spread
    if abs(gain.mean) <= gain.half_width:
        return "Their mean influence cannot be told apart from that of a random draw."
    direction = "higher" if gain.mean > 0 else "lower"
    in_spreads = f" by {decimal(abs(gain.mean) / spread, 2)} standard deviations" if spread else ""
    return (
        f"Their mean influence is {direction} than that of a random draw{in_spreads} "
        f"({decimal(comparison.selection.mean)} against {decimal(comparison.random.mean)})."
    )


def _targets_against_random(targets: Sequence[Target]) -> str:
    contrasts = [compare_target(target) for target in targets]
    if len(targets) == 1:
        if contrasts[0] is not None:
            return _against_random(contrasts[0])
        return (
            "Too few landmarks stand for them to tell their influence from that of a random draw."
        )
    named = list(zip(targets, contrasts, strict=True))
    above = [c for _, c in named if c is not None and c.is_above]
    if not above:
        return (
            f"For none of the {count(len(targets))} targets is the mean influence of what was taken for it shown to be "
            "above that of a random draw."
        )
    others = [clean(t.name, _NAME_CHARACTERS) for t, c in named if c is None or not c.is_above]
    number = count(len(above)) if others else "each"
    gains = sorted(in_deviations(c) or 0.0 for c in above)
    between = " to ".join(dict.fromkeys(decimal(g, 2) for g in (gains[0], gains[-1])))
    not_for = f" (not for {_listed(others)})" if others else ""
    return (
        f"For {number} of the {count(len(targets))} targets{not_for}, the mean influence of what was taken for it is higher than "
        f"that of a random draw, by {between} standard deviations."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {count(more)} more" if more > 0 else "")


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
    if data.weights is not None and (number := data.weights.effective_number):
        low, high = decimal(data.weights.lowest), decimal(data.weights.highest)
        lines.append(tag("p", f"weights {low} to {high}, worth {count(number)} equal ones"))
    return _tile("Selected examples", count(funnel.selected), *lines)


def _budget(funnel: Funnel) -> Html:
    share = ratio(funnel.tokens_selected, funnel.tokens_budget or 0)
    if share is None:
        return _tile(
            "Selected tokens",
            compact(funnel.tokens_selected),
            tag("p", f"of {compact(funnel.tokens_read)} read; no budget of tokens was set"),
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


def _random(comparison: Contrast, sample: str = "the pilot (clusters by their tokens)") -> Html:
    gain = comparison.gain
    return _tile(
        "Influence above random",
        join([signed(gain.mean), tag("small", f" ± {decimal(gain.half_width, 2)}")]),
        tag("p", f"{decimal(comparison.selection.mean)} against {decimal(comparison.random.mean)}"),
        tag("p", f"above {percent(comparison.percentile)} of {sample}"),
    )


def _random_by_target(targets: Sequence[Target]) -> Html | None:
    contrasts = [compare_target(target) for target in targets]
    if not any(contrasts):
        return None
    if len(targets) == 1 and contrasts[0] is not None:
        return _random(contrasts[0], "the landmarks (by their tokens)")
    above = sum(c is not None and c.is_above for c in contrasts)
    value = join([f"{count(above)} of {count(len(targets))}", tag("small", " targets")])
    lines = [
        tag("p", f"{clean(target.name, _NAME_CHARACTERS)}: {_gain(contrast)}")
        for target, contrast in zip(targets[:_MAX_NAMES], contrasts, strict=False)
    ]
    if len(targets) > _MAX_NAMES:
        lines.append(tag("p", f"and {count(len(targets) - _MAX_NAMES)} more"))
    return _tile("Influence above random", value, *lines)


def _gain(contrast: Contrast | None) -> str:
    if contrast is None:
        return "too few landmarks"
    return f"{signed(contrast.gain.mean)} ± {decimal(contrast.gain.half_width, 2)}"


def _scored(data: ReportData) -> Html | None:
    scored = data.funnel.scored
    if scored is None:
        return None
    lines = [tag("p", f"{percent(ratio(scored, data.funnel.read))} of the examples read")]
    if data.targets:
        lines.append(tag("p", "landmarks; the others are predicted"))
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
    notices = (*notices, *poor_propagations(data.targets or ()), *poor_agreements(data))
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
