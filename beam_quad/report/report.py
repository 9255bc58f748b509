"""The report of a run: one self-contained page, without scripts and without anything to fetch."""

from beam_quad.report.comparison import compare
from beam_quad.report.data import ReportData
from beam_quad.report.markup import Html, clean, join, tag
from beam_quad.report.sections import (
    bandit,
    clusters,
    leaks,
    overview,
    provenance,
    query,
    refresh,
    scores,
    targets,
)
from beam_quad.report.style import STYLE

# Nothing may be loaded or run, whatever a text from the corpus contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(data: ReportData) -> str:
    """Makes the page.

    Args:
      data: What to show. Sections whose data is absent are left out. Texts are escaped and cut.

    Returns:
      An HTML document, the same for the same data; below 3 MB for 10,000 clusters.
    """
    comparison = compare(data)
    sections = [
        section
        for section in (
            overview.funnel(data),
            refresh.refresh(data),
            targets.targets(data),
            scores.scores(data, comparison),
            clusters.clusters(data),
            bandit.arms(data),
            bandit.rounds(data),
            scores.examples(data),
            query.query_groups(data),
            leaks.leaks(data),
            leaks.paraphrases(data),
            provenance.sources(data),
            provenance.timings(data),
            provenance.configuration(data),
        )
        if section is not None
    ]
    links = [tag("a", "Summary", href="#summary")]
    links += [tag("a", section.title, href=f"#{section.anchor}") for section in sections]
    body = join(
        [
            tag("nav", tag("div", *links), aria_label="Contents"),
            overview.head(data, comparison),
            tag("main", *(section.to_html() for section in sections)),
        ]
    )
    return page(data.title, body)


def page(title: str, body: Html) -> str:
    """Makes the document around a body."""
    return f"<!doctype html>\n{tag('html', _head(title), tag('body', body), lang='en')}\n"


def _head(title: str) -> Html:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", clean(title)),
        tag("style", Html(STYLE)),
    )
