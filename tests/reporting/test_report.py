import dataclasses
import html.parser
import re

import numpy as np
import pytest

from beam_quad import reporting

_VOID = {"meta", "br", "hr"}


class _Page(html.parser.HTMLParser):
    """Checks that every tag is closed in order, and keeps what there is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")
        ]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


def sections(text):
    return set(re.findall(r'<section id="([^"]+)"', text))


def test_the_page_is_well_formed_and_has_every_section(page):
    parsed = _Page(page)
    assert sections(page) == {
        "funnel", "scores", "clusters", "arms", "rounds", "examples", "groups", "sources", "timing",
        "configuration",
    }  # fmt: skip
    assert len(parsed.ids) == len(set(parsed.ids))


def test_texts_of_the_corpus_are_shown_and_never_run(page):
    parsed = _Page(page)
    assert "<script>alert('stolen')</script>" in "".join(parsed.text)
    assert not {"script", "img", "iframe", "object", "link"} & set(parsed.tags)
    assert page.count("</body>") == 1


def test_nothing_is_fetched(page):
    parsed = _Page(page)
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_two_pages_of_one_run_are_equal(data, page):
    assert reporting.render(data) == page


def test_the_page_can_be_written(page):
    page.encode("utf-8")


def test_a_policy_that_scores_nothing_gets_a_page_without_those_sections(data):
    bare = reporting.ReportData("Random", "random", dataclasses.replace(data.funnel, scored=None))
    text = reporting.render(bare)
    _Page(text)
    assert sections(text) == {"funnel"}
    assert "random draw" not in text
    listed = reporting.render(
        dataclasses.replace(bare, clusters=data.clusters, sources=data.sources)
    )
    assert sections(listed) == {"funnel", "clusters", "sources"}


def test_a_single_query_group_needs_no_section(data):
    text = reporting.render(dataclasses.replace(data, query_groups=data.query_groups[:1]))
    assert "groups" not in sections(text)


def test_ten_thousand_clusters_stay_small(make_report):
    text = reporting.render(make_report(10_000))
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
    funnel = reporting.Funnel(1000, {}, 900, 100, 100_000, selected, 10_000)
    assert claim in reporting.render(reporting.ReportData("Quad", "quad", funnel))


def test_a_shortfall_is_never_called_fine():
    funnel = reporting.Funnel(1000, {}, 900, 100, 100_000, 9_000, 10_000)
    text = reporting.render(reporting.ReportData("Quad", "quad", funnel))
    assert "No warnings" not in text
    assert "1,000 tokens short of its budget" in text


def test_the_first_screen_answers_whether_random_was_beaten(data, page):
    assert "is higher than that of a random draw" in page
    same = dataclasses.replace(data.scores, scored=data.scores.pilot, selected=data.scores.pilot)
    even = tuple(dataclasses.replace(c, selected_tokens=c.tokens // 10) for c in data.clusters)
    text = reporting.render(dataclasses.replace(data, scores=same, clusters=even))
    assert "cannot be told apart from that of a random draw" in text


def test_degenerate_data_still_gives_a_page(data):
    none = reporting.ScoredSample(np.full(3, np.nan), np.ones(3, np.int64), np.zeros(3, np.int64))
    one = reporting.ScoredSample(np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64))
    empty = reporting.Cluster(0, 0, 0, 0, 0)
    for scores in (reporting.Scores(none, none, none), reporting.Scores(one, one, one)):
        _Page(
            reporting.render(
                dataclasses.replace(
                    data,
                    funnel=reporting.Funnel(0, {}, 0, 0, 0, 0, 1),
                    clusters=(empty,),
                    scores=scores,
                    rounds=(reporting.Round(0, float("-inf"), 0, 0, 0, 0),),
                    arms=(reporting.Arm(0, 0, 1, 0, float("nan"), 0),),
                    sources=(reporting.Source("", 0, 0, 0, 0),),
                )
            )
        )
