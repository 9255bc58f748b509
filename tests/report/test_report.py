import dataclasses
import re

import numpy as np
import pytest

from beam_quad import report
from beam_quad.report import data as shown
from beam_quad.report.outcomes import why
from beam_quad.selection import Amount, SourceCounts
from tests.report.made import manifest
from tests.report.parsed import Page


def sections(text):
    return set(re.findall(r'<section id="([^"]+)"', text))


def test_the_page_is_well_formed_and_has_every_section(page):
    parsed = Page(page)
    assert sections(page) == {
        "funnel", "scores", "map", "clusters", "arms", "rounds", "examples", "groups", "layers", "sources",
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
    bare = shown.ReportData("Random", manifest(1000, 100, (10_000, 1000, 1000), method="random"))
    text = report.render(bare)
    Page(text)
    assert sections(text) == {"funnel"}
    assert "random draw" not in text
    listed = report.render(dataclasses.replace(bare, clusters=data.clusters, sources=data.sources))
    assert sections(listed) == {"funnel", "map", "clusters", "sources"}


def with_options(data, options):
    """The same run, with these options."""
    return dataclasses.replace(data, manifest=data.manifest | {"config": options})


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


def test_query_groups_without_a_pilot_have_no_columns_of_it(data):
    groups = tuple(dataclasses.replace(group, pilot=None) for group in data.query_groups)
    text = report.render(dataclasses.replace(data, query_groups=groups))
    section = text[text.index('id="groups"') :].split("</table>")[0]
    assert "put on one scale and added with the weights" in section
    assert "pilot" not in section.lower()


def test_a_run_that_does_not_know_halves_keeps_its_other_sections(data, page):
    groups = tuple(dataclasses.replace(g, halves_agreement=None) for g in data.query_groups)
    text = report.render(dataclasses.replace(data, query_groups=groups))
    assert sections(page) == sections(text)
    assert "Is the query set good enough?" not in text


def test_an_example_shows_the_share_of_the_pilot_below_it(data):
    pilot = shown.ScoredSample(
        np.array([0.1, 0.2, 0.3, np.nan, 0.9]), np.ones(5, np.int64), np.zeros(5, np.int64)
    )
    example = shown.Example("x", "text", 0.3, 10)
    scores = dataclasses.replace(data.scores, pilot=pilot)
    changed = dataclasses.replace(data, scores=scores, best=(example,), worst=None)
    assert "above 50.0 % of the pilot" in report.render(changed)


def test_the_unit_of_influence_is_said_once(page):
    assert page.count("in nats per token") == 1


@pytest.mark.parametrize(
    ("options", "claim"),
    [
        (
            {"curvature": "ekfac"},
            "per unit of a curvature-preconditioned step on the document, for each query group;",
        ),
        (
            {"curvature": "identity"},
            "per unit of a gradient step on the document, for each query group;",
        ),
        (
            {"curvature": "kfac", "normalize": True},
            "per unit of a curvature-preconditioned step on the document, its gradient first scaled to length 1, for each query group;",
        ),
        (
            {"curvature": "identity", "normalize": True},
            "per gradient step of length 1 on the document, for each query group;",
        ),
    ],
)
def test_the_unit_of_influence_is_that_of_the_options(data, options, claim):
    options = {"normalize": False, **options}
    assert claim in report.render(with_options(data, options))


def test_ten_thousand_clusters_stay_small(make_report):
    text = report.render(make_report(10_000))
    assert len(text.encode()) < 1_500_000
    assert text.count("<title>") == 1 + 1000
    assert "clusters are not listed" in text


def test_the_page_says_what_was_judged(data):
    notices = (shown.Notice("memory ran out", "note"),)
    text = report.render(dataclasses.replace(data, verdict="Good.", notices=notices))
    assert '<p class="verdict">Good.</p>' in text
    assert "<b>Note</b> Memory ran out." in text
    assert "No warnings" in text
    warned = dataclasses.replace(data, notices=(shown.Notice("9 tokens are missing"),))
    assert "No warnings" not in report.render(warned)


def test_shares_of_layers_are_drawn_of_the_groups_of_which_they_are_known(page):
    section = page[page.index('<section id="layers"') :].split("</section>")[0]
    assert section.count("<figure>") == 1
    assert "Share of the variance of influence on biomedicine" in section
    assert "In all: attention 45.0 %; MLP 60.0 %; outside of layers −5.0 %." in section


def test_planned_and_counted_stand_side_by_side_by_line_of_the_plan(data, page):
    def planned(line, seconds, documents, flops=0.0, stored=0.0):
        costs = {"documents": documents, "flops": flops, "device_hours": 0.0, "dollars": 0.25}
        moved = {"bytes_read": 0.0, "bytes_shuffled": 0.0, "bytes_stored": stored}
        return {"line": line, "seconds": seconds, **costs, **moved}

    timings = (
        shown.StageTiming(
            "EmbedExamples", 90.0, planned("embed", 60.0, 0), 912, {"bytes_stored": 9}, True
        ),
        shown.StageTiming(
            "Round1", 10.0, planned("rounds", 4.0, 30, 2e9, 2048), 28, {"bytes_stored": 1536}
        ),
        shown.StageTiming("Round2", 20.0, planned("rounds", 5.0, 30, 3e9), 29),
        shown.StageTiming("CutRanking0", 1.0, planned("cut", 1.0, 900)),
    )
    text = report.render(dataclasses.replace(data, timings=timings))
    section = text[text.index('id="timing"') :]
    cells = re.findall(r"<td[^>]*>(?:<strong>)?([^<]*)", section[: section.index("</table>")])
    rows = [
        ["embed", "0", "–", "–", "1 min 00 s", "made earlier", "0.25"],
        ["rounds", "60", "57", "5.0e+09", "9.0 s", "30 s", "0.50"],
        ["cut", "900", "–", "–", "1.0 s", "1.0 s", "0.25"],
        ["All", "5.0e+09", "1 min 10 s", "31 s", "1.00"],
    ]
    assert [cell for cell in cells if cell.strip()] == [cell for row in rows for cell in row]
    # Nothing was read or shuffled; what an earlier run stored is not counted again.
    (stored,) = re.findall(r"<h3>Bytes</h3>(.*?)</table>", section, re.DOTALL)
    assert re.findall(r">([^<\n]+)</t[hd]>", stored) == [
        "Stages", "Stored, planned", "Stored, counted", "embed", "–", "–", "rounds", "2 KiB", "1.5 KiB", "cut", "–", "–", "All",
        "2 KiB", "1.5 KiB",
    ]  # fmt: skip
    assert "in 3 stages; an earlier run made 1" in text
    assert "planned" not in page[page.index('id="timing"') :]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (
            shown.Outcome("near_duplicate", twin="a#1"),
            "Not selected: a#1 is nearly the same, and ranks higher.",
        ),
        # A reason without words of its own is named as in the decisions.
        (shown.Outcome("block_not_pulled"), "Not selected: block not pulled."),
        (
            shown.Outcome("block_not_accepted", round=2),
            "its block was not accepted: its scored documents have a mean influence of −0.250, and the threshold was "
            "0.0700.",
        ),
        (
            shown.Outcome(round=1, block_influence=0.125, is_accepted=True),
            "Selected: round 1 accepted its block, of which the scored documents have a mean influence of 0.125, and the "
            "threshold was 0.0500.",
        ),
        (
            # Its block was pulled, but not accepted.
            shown.Outcome(round=1, block_influence=0.125, worth=0.125, is_accepted=False),
            "Selected: it was not accepted, but fills the budget up with an estimated influence of 0.125.",
        ),
        (
            shown.Outcome(round=1, block_influence=0.125, worth=0.5),
            "Selected: with an estimated influence of 0.500 it ranks above where the budget ends.",
        ),
        (
            shown.Outcome(worth=0.9),
            "Selected: with an influence of 0.900 it ranks above where the budget ends.",
        ),
        (shown.Outcome(), "Selected: it ranks above where the budget ends."),
        (
            shown.Outcome(worth=0.9, rank=0.9, cut=0.25),
            "Selected: with an influence of 0.900 it ranks above where the budget ends, at 0.250.",
        ),
        (
            shown.Outcome("below_cut", rank=0.125, cut=0.25),
            "Not selected: with an estimated influence of 0.125 it ranks below where the budget ends, at 0.250.",
        ),
        (
            shown.Outcome("share_full", rank=0.125, cut=0.25),
            "Not selected: its share of the budget is full, down to an influence of 0.250, and its own is 0.125.",
        ),
        (
            shown.Outcome("block_not_accepted", round=1, rank=0.125, cut=0.25),
            "and the threshold was 0.0500; filled up by rank, the budget ends at 0.250.",
        ),
        (shown.Outcome(is_kept=True, worth=0.5), "Selected: the last run had selected it."),
    ],
)
def test_an_example_says_why_it_was_selected_or_not(data, outcome, words):
    rounds = tuple(
        shown.Round(number, tau, 1, 1, 1, 1) for number, tau in enumerate((None, 0.05, 0.07))
    )
    example = shown.Example("b#2", "A text.", 0.9, 10, 3, -0.25)
    changed = dataclasses.replace(
        with_options(data, {"policy": "quad", "acceptance": "block"}),
        best=(example,),
        outcomes={"0": outcome},
        rounds=rounds,
    )
    text = report.render(changed)
    assert words in text


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (shown.Outcome(rank=1.5, cut=0.25), "selected: {}is 1.50, above where the budget ends, at 0.250"),
        (shown.Outcome("below_cut", rank=-0.5, cut=0.25), "not selected: {}is −0.500, below where the budget ends, at 0.250"),
        # The whole corpus fits, so nothing ends anywhere.
        (shown.Outcome(rank=1.5), "selected: {}is 1.50, above where the budget ends"),
    ],
)  # fmt: skip
def test_an_example_of_a_shortlist_says_its_joint_rank_and_that_at_the_cut(data, outcome, words):
    shortlist = with_options(data, {"policy": "quad", "acceptance": "shortlist"})
    own = "its joint rank, by influence and by n-grams, "
    shortlist = dataclasses.replace(shortlist, outcomes={"0": outcome})
    example = shown.Example("b#2", "A text.", 0.9, 10)
    assert why(shortlist, example) == words.format(own)
    within = dataclasses.replace(
        shortlist, manifest=shortlist.manifest | {"shares": {"bounds": ()}}
    )
    assert "where the budget ends within its shares" in why(within, example)


@pytest.mark.parametrize(
    ("options", "outcome", "words"),
    [
        (
            {},
            shown.Outcome(round=1, block_influence=0.125, is_accepted=True),
            "selected: round 1 accepted its block, judged with the cluster's earlier scores at 0.125, and the threshold was "
            "0.0500",
        ),
        # It waited until the rounds ended.
        (
            {},
            shown.Outcome(round=1, block_influence=0.01, is_accepted=True),
            "selected: round 1 accepted its block, judged with the cluster's earlier scores at 0.0100",
        ),
        (
            {"refit": True},
            shown.Outcome(round=1, block_influence=0.125, is_accepted=True),
            "selected: round 1 accepted its block, of which the scored documents have a mean influence of 0.125, and the "
            "threshold was 0.0500",
        ),
        (
            {},
            shown.Outcome("below_cut"),
            "not selected: the budget ends before it, as the last run's documents keep their places",
        ),
        (
            {"reselect": True},
            shown.Outcome("below_cut"),
            "not selected: it ranks below where the budget ends",
        ),
    ],
)
def test_an_example_of_a_refresh_says_what_the_last_run_had_to_do_with_it(
    data, outcome, options, words
):
    data = with_options(data, {"policy": "quad", "acceptance": "block"} | options)
    changed = dataclasses.replace(
        data,
        manifest=data.manifest | {"refresh": {}},
        outcomes={"0": outcome},
        targets=None,
        rounds=(shown.Round(1, 0.05, 1, 1, 1, 1),),
    )
    assert why(changed, shown.Example("b#2", "A text.", 0.9, 10)) == words


def test_degenerate_data_still_gives_a_page(data):
    none = shown.ScoredSample(np.full(3, np.nan), np.ones(3, np.int64), np.zeros(3, np.int64))
    one = shown.ScoredSample(np.ones(1), np.ones(1, np.int64), np.zeros(1, np.int64))
    empty = shown.Cluster(0, 0, 0, 0, 0)
    for scores in (shown.Scores(none, none, none), shown.Scores(one, one, one)):
        Page(
            report.render(
                dataclasses.replace(
                    data,
                    manifest=manifest(0, 0, (0, 0, 1)),
                    clusters=(empty,),
                    scores=scores,
                    rounds=(shown.Round(0, float("-inf"), 0, 0, 0, 0),),
                    arms=(shown.Arm(0, 0, 1, 0, float("nan"), 0),),
                    sources={"": SourceCounts(0, 0, 0, Amount())},
                )
            )
        )
