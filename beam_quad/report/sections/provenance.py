"""Where it came from and how it was made: sources, timings, configuration, versions."""

from collections.abc import Mapping

from beam_quad.report.data import ReportData, Source
from beam_quad.report.formatting import count, duration, percent, ratio
from beam_quad.report.markup import Column, Html, Section, bar, join, table, tag

MAX_SOURCES = 40


def sources(data: ReportData) -> Section | None:
    """Shows each source's share of the corpus and of the selection; None where there are none."""
    if not data.sources:
        return None
    items = sorted(data.sources, key=lambda s: (-s.selected_tokens, -s.tokens, s.name))
    shown, rest = items[:MAX_SOURCES], items[MAX_SOURCES:]
    if rest:
        shown.append(_total(f"{count(len(rest))} others", rest))
    totals = _total("", items)
    columns = [
        Column("Source", "text"), Column("Examples"), Column("Rejected"), Column("Tokens"),
        Column("Selected tokens"), Column("Corpus"), Column("Selection"), Column("", "bars"),
        Column("Kept", hint="selected tokens of the source's tokens"),
    ]  # fmt: skip
    shares = [
        (
            ratio(s.tokens, totals.tokens) or 0.0,
            ratio(s.selected_tokens, totals.selected_tokens) or 0.0,
        )
        for s in shown
    ]
    largest = max(max(pair) for pair in shares) or 1.0
    rows = (
        (
            s.name, count(s.documents), count(s.rejected), count(s.tokens), count(s.selected_tokens),
            percent(corpus), percent(selection),
            join([bar(corpus / largest, "random"), bar(selection / largest, "selected")]),
            percent(ratio(s.selected_tokens, s.tokens)),
        )
        for s, (corpus, selection) in zip(shown, shares, strict=True)
    )  # fmt: skip
    lead = "Shares are of tokens; the upper bar is the corpus, the lower one the selection."
    return Section("sources", "Sources", table(columns, rows), lead)


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
    """Shows the time by stage; None where it is not known."""
    if not data.timings:
        return None
    longest = max(t.seconds for t in data.timings) or 1.0
    columns = [Column("Stage", "text"), Column("Time"), Column("", "bars")]
    rows = ((t.name, duration(t.seconds), bar(t.seconds / longest, "scored")) for t in data.timings)
    lead = "From the start of a stage's first piece to the end of its last, in the run that did it: an earlier one, maybe."
    return Section("timing", "Time", table(columns, rows), lead)


def configuration(data: ReportData) -> Section | None:
    """Shows options and versions; None where neither is given."""
    parts = [
        tag("div", tag("h3", title), _pairs(values))
        for title, values in (("Options", data.configuration), ("Versions", data.versions))
        if values
    ]
    if not parts:
        return None
    return Section("configuration", "Configuration", tag("div", *parts, class_="columns"))


def _pairs(values: Mapping[str, object]) -> Html:
    rows = ((tag("code", key), tag("code", value)) for key, value in values.items())
    return table((Column("Name", "text"), Column("Value", "wide")), rows)
