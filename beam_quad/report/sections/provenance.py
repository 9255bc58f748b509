"""Where it came from and how it was made: sources, timings, configuration, versions."""

import math

from beam_quad.report.data import ReportData, Source
from beam_quad.report.formatting import count, ratio
from beam_quad.report.pages import Section

MAX_SOURCES = 40


def sources(data: ReportData) -> Section | None:
    """Shows each source's share of the corpus and of the selection; None where there are none."""
    if not data.sources:
        return None
    items = sorted(data.sources, key=lambda s: (-s.selected_tokens, -s.tokens, s.name))
    shown, rest = items[:MAX_SOURCES], items[MAX_SOURCES:]
    if rest:
        shown.append(_total(f"{count(len(rest))} others", rest))
    total = _total("", items)
    rows = [
        (
            s,
            ratio(s.tokens, total.tokens) or 0.0,
            ratio(s.selected_tokens, total.selected_tokens) or 0.0,
        )
        for s in shown
    ]
    view = {"rows": rows, "largest": max(max(pair) for _, *pair in rows) or 1.0}
    lead = "Shares are of tokens; the upper bar is the corpus, the lower one the selection."
    return Section("sources", "Sources", view, lead)


def _total(name: str, items: list[Source]) -> Source:
    return Source(
        name,
        sum(s.documents for s in items),
        sum(s.tokens for s in items),
        sum(s.selected_documents for s in items),
        sum(s.selected_tokens for s in items),
        sum(s.rejected for s in items),
    )


def timings(data: ReportData) -> Section | None:
    """Shows the time by stage, planned and taken; None where it is not known."""
    items = data.timings
    if not items:
        return None
    planned = [t.planned for t in items if t.planned is not None]
    view = {
        "rows": items,
        "longest": max([t.seconds for t in items] + planned) or 1.0,
        "planned": math.fsum(planned) if planned else None,
        "taken": math.fsum(t.seconds for t in items),
    }
    lead = "From the start of a stage's first piece to the end of its last, in the run that did it: an earlier one, maybe."
    if planned:
        lead += " The upper bar is the plan, the lower one what was taken; a line of the plan is shared equally among its stages."
    return Section("timing", "Time", view, lead)


def configuration(data: ReportData) -> Section | None:
    """Shows options and versions; None where neither is given."""
    named = (("Options", data.configuration), ("Versions", data.versions))
    lists = [(title, values) for title, values in named if values]
    return Section("configuration", "Configuration", {"lists": lists}) if lists else None
