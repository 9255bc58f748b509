"""The report of a run: one self-contained page, without scripts or external resources."""

from beam_quad.report import pages
from beam_quad.report.comparison import compare, compare_target
from beam_quad.report.data import ReportData
from beam_quad.report.judgements import budget_met
from beam_quad.report.sections import (
    bandit,
    clusters,
    corpus_map,
    leaks,
    overview,
    provenance,
    query,
    scores,
    targets,
)


def render(data: ReportData) -> str:
    """Makes the page.

    Args:
      data: The data to show. Sections without data are left out. Texts are escaped and cut.

    Returns:
      An HTML document, below 3 MB for 10,000 clusters; equal data gives equal output.
    """
    comparison = compare(data)
    # What a reader decides by comes first; how it came about, and what it took, comes last.
    sections = (
        overview.funnel(data),
        overview.shares(data),
        overview.refresh(data),
        targets.targets(data),
        scores.scores(data, comparison),
        corpus_map.corpus_map(data),
        clusters.clusters(data),
        bandit.arms(data),
        bandit.rounds(data),
        scores.examples(data),
        query.query_groups(data),
        query.layers(data),
        leaks.leaks(data),
        leaks.paraphrases(data),
        provenance.sources(data),
        provenance.timings(data),
        provenance.configuration(data),
    )
    return pages.render(
        "report.j2",
        title=data.title,
        data=data,
        sections=[section for section in sections if section is not None],
        comparison=comparison,
        contrasts=[(target, compare_target(target)) for target in data.targets or ()],
        budget_met=budget_met(data.manifest),
    )
