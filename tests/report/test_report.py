import dataclasses
import math
import re

import numpy as np
import pytest

from beam_quad import report
from beam_quad.report.sections import query
from tests.report.parsed import Page


def sections(text):
    return set(re.findall(r'<section id="([^"]+)"', text))


def test_the_page_is_well_formed_and_has_every_section(page):
    parsed = Page(page)
    assert sections(page) == {
        "funnel", "scores", "clusters", "arms", "rounds", "examples", "groups", "sources",
        "timing", "configuration",
    }  # fmt: skip
    assert len(parsed.ids) == len(set(parsed.ids))


def test_texts_of_the_corpus_are_shown_and_never_run(page):
    parsed = Page(page)
    assert "<script>alert('stolen')</script>" in "".join(parsed.text)
    assert not {"script", "img", "iframe", "object", "link"} & set(parsed.tags)
    assert page.count("</body>") == 1


def test_nothing_is_fetched(page):
    parsed = Page(page)
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_two_pages_of_one_run_are_equal(data, page):
    assert report.render(data) == page


def test_the_page_can_be_written(page):
    page.encode("utf-8")


def test_a_policy_that_scores_nothing_gets_a_page_without_those_sections(data):
    bare = report.ReportData("Random", "random", dataclasses.replace(data.funnel, scored=None))
    text = report.render(bare)
    Page(text)
    assert sections(text) == {"funnel"}
    assert "random draw" not in text
    listed = report.render(dataclasses.replace(bare, clusters=data.clusters, sources=data.sources))
    assert sections(listed) == {"funnel", "clusters", "sources"}


def with_agreement(data, *agreements):
    """The report of as many query groups, as the agreements of their halves."""
    groups = tuple(
        dataclasses.replace(group, name=name, halves_agreement=agreement)
        for name, group, agreement in zip("ab", data.query_groups, agreements, strict=False)
    )
    return report.render(dataclasses.replace(data, query_groups=groups, notices=()))


def test_a_single_query_group_needs_no_section_unless_its_halves_are_known(data):
    assert "groups" not in sections(with_agreement(data, None))
    text = with_agreement(data, 0.9)
    assert "groups" in sections(text)
    assert "Std. deviation" not in text


def test_a_query_group_whose_halves_disagree_gives_a_warning(data):
    text = with_agreement(data, 0.93, 0.31)
    assert "The halves of query group b rank the pilot differently (rank correlation 0.31)" in text
    assert "halves of query group a" not in text
    for agreements in ((0.93, 0.5), (None, math.nan)):
        assert "rank the pilot differently" not in with_agreement(data, *agreements)


@pytest.mark.parametrize(("halves", "whole"), [(1, 1), (0.5, 2 / 3), (0, 0), (-0.2, 0), (-1, 0)])
def test_the_whole_query_set_is_more_reliable_than_its_halves(halves, whole):
    assert query.reliability(halves) == pytest.approx(whole)


def test_the_reliability_is_the_agreement_of_two_whole_sets():
    rng = np.random.default_rng(0)
    quarters = rng.normal(size=100_000) + rng.normal(size=(4, 100_000))
    halves = np.corrcoef(quarters)[0, 1]
    whole = np.corrcoef(quarters[:2].sum(axis=0), quarters[2:].sum(axis=0))[0, 1]
    assert query.reliability(halves) == pytest.approx(whole, abs=0.01)


def test_a_run_that_does_not_know_halves_keeps_its_other_sections(data, page):
    groups = tuple(dataclasses.replace(g, halves_agreement=None) for g in data.query_groups)
    text = report.render(dataclasses.replace(data, query_groups=groups))
    assert sections(page) == sections(text)
    assert "Is the query set good enough?" not in text


def test_an_example_shows_the_share_of_the_pilot_below_it(data):
    pilot = report.ScoredSample(
        np.array([0.1, 0.2, 0.3, np.nan, 0.9]), np.ones(5, np.int64), np.zeros(5, np.int64)
    )
    example = report.Example("x", "text", 0.3, 10)
    scores = dataclasses.replace(data.scores, pilot=pilot)
    changed = dataclasses.replace(data, scores=scores, best=(example,), worst=None)
    assert "above 50.0 % of the pilot" in report.render(changed)


def test_the_unit_of_influence_is_said_once(page):
    assert page.count("in nats per token") == 1


@pytest.mark.parametrize(
    ("options", "claim"),
    [
        ({"curvature": "ekfac"}, "per unit of a curvature-preconditioned step on the document;"),
        ({"curvature": "identity"}, "per unit of a gradient step on the document;"),
        (
            {"curvature": "kfac", "normalize": True},
            "per unit of a curvature-preconditioned step on the document, its gradient first scaled to length 1;",
        ),
        (
            {"curvature": "identity", "normalize": True},
            "per gradient step of length 1 on the document;",
        ),
    ],
)
def test_the_unit_of_influence_is_that_of_the_options(data, options, claim):
    options = {"normalize": False, **options}
    assert claim in report.render(dataclasses.replace(data, configuration=options))


def test_ten_thousand_clusters_stay_small(make_report):
    text = report.render(make_report(10_000))
    assert len(text.encode()) < 1_000_000
    assert "clusters are not listed" in text


@pytest.mark.parametrize(
    ("selected", "claim"),
    [
        (10_000, "the budget is met"),
        (9_950, "the budget is met"),
        (9_500, "only 95.0 % of the budget"),
    ],
)
def test_the_budget_counts_as_met_to_within_one_example(selected, claim):
    funnel = report.Funnel(1000, {}, 900, 100, 100_000, selected, 10_000)
    assert claim in report.render(report.ReportData("Quad", "quad", funnel))


def test_a_shortfall_is_never_called_fine():
    funnel = report.Funnel(1000, {}, 900, 100, 100_000, 9_000, 10_000)
    text = report.render(report.ReportData("Quad", "quad", funnel))
    assert "No warnings" not in text
    assert "1,000 tokens short of its budget" in text


def test_the_first_screen_answers_whether_random_was_beaten(data, page):
    assert "is higher than that of a random draw" in page
    same = dataclasses.replace(data.scores, scored=data.scores.pilot, selected=data.scores.pilot)
    even = tuple(dataclasses.replace(c, selected_tokens=c.tokens // 10) for c in data.clusters)
    text = report.render(dataclasses.replace(data, scores=same, clusters=even))
    assert "cannot be told apart from that of a random draw" in text


def test_degenerate_data_still_gives_a_page(data):
    none = report.ScoredSample(np.full(3, np.nan), np.ones(3, np.int64), np.zeros(3, np.int64))
    one = report.ScoredSample(np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64))
    empty = report.Cluster(0, 0, 0, 0, 0)
    for scores in (report.Scores(none, none, none), report.Scores(one, one, one)):
        Page(
            report.render(
                dataclasses.replace(
                    data,
                    funnel=report.Funnel(0, {}, 0, 0, 0, 0, 1),
                    clusters=(empty,),
                    scores=scores,
                    rounds=(report.Round(0, float("-inf"), 0, 0, 0, 0),),
                    arms=(report.Arm(0, 0, 1, 0, float("nan"), 0),),
                    sources=(report.Source("", 0, 0, 0, 0),),
                )
            )
        )
