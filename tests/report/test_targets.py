"""The page of Influence Distillation: what each target was given, and how well its influence was predicted."""

import dataclasses
import html
import re

import numpy as np
import pytest
from scipy import stats

from beam_quad import report
from beam_quad.distillation import WeightSums
from beam_quad.report import comparison, judgements
from beam_quad.report import data as shown
from tests.report.made import manifest
from tests.report.parsed import Page


def make_target(
    name: str, noise: float = 0.02, num_landmarks: int = 400, taken: float = 0.1
) -> shown.Target:
    """A target of a tenth of the corpus, whose influence is predicted with normal noise."""
    rng = np.random.default_rng(len(name))
    is_own = rng.random(num_landmarks) < 0.1
    influence = 0.01 + 0.08 * is_own + rng.normal(scale=0.02, size=num_landmarks)
    held_out = influence + rng.normal(scale=noise, size=num_landmarks)
    return shown.Target(
        name=name,
        selected_documents=300,
        selected_tokens=120_000,
        influence=influence,
        tokens=rng.integers(40, 900, num_landmarks),
        held_out=held_out,
        would_take=held_out >= np.quantile(held_out, 1 - taken),
        agreement=float(stats.spearmanr(influence, held_out).statistic),
    )


@pytest.fixture(scope="module")
def distilled(data: shown.ReportData):
    """Makes the data of a run over targets."""

    def make(
        *items: shown.Target, config: dict | None = None, **changes: object
    ) -> shown.ReportData:
        groups = tuple(shown.QueryGroup(t.name, 60, 21_400, halves_agreement=0.31) for t in items)
        selected = sum(t.selected_tokens for t in items)
        found = manifest(9000, 900, (10**6, selected, selected), scored=400, config=config or {})
        bare = shown.ReportData(
            "Influence Distillation", found, targets=items, query_groups=groups, best=data.best, worst=data.worst,
        )  # fmt: skip
        return dataclasses.replace(bare, **changes)

    return make


def cells(page: str) -> list[list[str]]:
    """The rows of the section's table, as text."""
    section = page[page.index('<section id="targets"') :]
    rows = section[: section.index("</table>")].split("<tr>")[2:]
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]


def test_the_table_shows_token_weighted_means_with_their_intervals(distilled):
    target = make_target("biomedicine")
    other = dataclasses.replace(make_target("law"), selected_tokens=360_000)
    means, widths = [], []
    for mask in (np.ones(400, bool), target.would_take):
        x, t = target.influence[mask], target.tokens[mask]
        mean = (t * x).sum() / t.sum()
        # The error of a ratio of two sums over a plain sample.
        error = np.sqrt(len(x) / (len(x) - 1) * ((t * (x - mean)) ** 2).sum()) / t.sum()
        means.append(mean)
        widths.append(stats.norm.ppf(0.975) * error)
    deviation = np.sqrt(np.cov(target.influence, fweights=target.tokens, bias=True))
    row = cells(report.render(distilled(target, other)))[0]
    assert row[:4] == ["biomedicine", "300", "120 k", "25.0 %"]
    values = [[float(x) for x in cell.split(" ± ")] for cell in row[4:6]]
    np.testing.assert_allclose(values, np.transpose([means, widths]), rtol=0.05)
    np.testing.assert_allclose([value[0] for value in values], means, rtol=0.005)
    assert float(row[6]) == pytest.approx((means[1] - means[0]) / deviation, rel=0.05)
    assert float(row[8]) == pytest.approx(target.agreement, abs=0.005)


def test_predictions_without_error_keep_all_of_the_gain_and_chance_keeps_none():
    exact = make_target("exact", noise=0.0)
    assert comparison.share_of_exact_gain(exact) == pytest.approx(1.0)
    chance = dataclasses.replace(exact, would_take=np.arange(400) % 2 == 0)
    assert comparison.share_of_exact_gain(chance) == pytest.approx(0.0, abs=0.1)


def test_landmarks_that_were_taken_count_with_their_exact_influence(distilled):
    target = make_target("exact", noise=1e3)
    taken = target.influence >= np.quantile(target.influence, 0.9)
    tokens = int(target.tokens[taken].sum())
    mean = float(target.tokens[taken] @ target.influence[taken]) / tokens
    all_exact = dataclasses.replace(
        target, taken=taken, selected_tokens=tokens, would_take=np.zeros(400, bool)
    )
    contrast = comparison.compare_target(all_exact)
    assert contrast.selection.mean == pytest.approx(mean)
    assert contrast.selection.half_width == 0
    half = dataclasses.replace(target, taken=taken, selected_tokens=2 * tokens)
    without = comparison.compare_target(dataclasses.replace(half, taken=None)).selection.mean
    assert comparison.compare_target(half).selection.mean == pytest.approx((mean + without) / 2)


def test_a_mean_of_few_landmarks_is_not_shown(distilled):
    few = make_target("few", taken=0.02)
    assert "too few landmarks (8)" in cells(report.render(distilled(few)))[0]
    assert "Too few landmarks stand for them" in judgements.verdict(distilled(few))


def test_the_verdict_says_for_how_many_targets_random_was_beaten(distilled):
    good, bad = make_target("good"), make_target("chance", noise=1e3)
    some, none = (good, bad, make_target("better")), (bad, make_target("dice", noise=1e3))
    words = "For 2 of the 3 targets (not for chance), the mean influence of what was taken for it"
    assert words in judgements.verdict(distilled(*some))
    assert "2 of 3<small> targets</small>" in report.render(distilled(*some))
    for items, words in (
        ((good,), "is higher than that of a random draw by"),
        (none, "For none of the 2 targets"),
        ((good, make_target("fine")), "For each of the 2 targets"),
    ):
        assert words in judgements.verdict(distilled(*items))


def test_influence_is_described_by_the_options(distilled):
    target = make_target("law")
    plain = report.render(distilled(target, config={"curvature": "identity"}))
    assert "the cosine of an example's gradient with the target's; higher" in html.unescape(plain)
    options = {"curvature": "ekfac", "optimizer_state": "adam.safetensors"}
    page = html.unescape(report.render(distilled(target, config=options)))
    assert "gradient, multiplied as Adam would, with the target's, preconditioned with" in page


def test_a_page_with_targets_speaks_of_landmarks_and_not_of_a_pilot(distilled):
    page = report.render(distilled(make_target("law"), make_target("biomedicine")))
    assert "pilot" not in page
    assert "Correlation of the groups' scores in the landmarks" in page
    assert re.search(r"above [\d.]+ % of the landmarks", page)


def test_every_target_shows_its_best_landmarks_and_what_the_second_order_changed(distilled):
    items = [dataclasses.replace(make_target(name), shared=240) for name in ("law", "biomedicine")]
    best = {
        t.name: (shown.Example(f"{t.name}#1", "A text.", float(t.influence.max()), 9),)
        for t in items
    }
    page = report.render(distilled(*items, best=None, best_by_target=best))
    assert all(row[-1] == "60 (20.0 %)" for row in cells(page))
    for name in best:
        listed = page[page.index(f"Highest for {name}") :]
        assert listed.index(f"{name}#1") < listed.index("</article>")
        assert "above 99.8 % of the landmarks" in listed[: listed.index("</article>")]
    assert "New in order 2" not in report.render(distilled(make_target("law")))


def test_weights_are_told_by_their_range_and_the_number_of_equal_ones(distilled):
    weights = WeightSums.of(np.array([1.0, 3.0])) + WeightSums.of(np.array([2.0])) + WeightSums()
    page = report.render(distilled(make_target("law"), weights=weights))
    assert "weights 1.00 to 3.00, worth 3 equal ones" in page
    assert weights.effective_number == pytest.approx(36 / 14)


def test_names_of_targets_are_escaped_and_no_mathematics(distilled):
    names = ("<b>law</b> & \\frac{1}", "$x_1^{$ cost \x00")
    page = report.render(distilled(*(make_target(name) for name in names)))
    parsed = Page(page)
    assert "b" not in parsed.tags[parsed.tags.index("section") :]
    assert "$x_1^{$ cost" in "".join(parsed.text)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_a_page_without_targets_leaves_the_section_out(page):
    assert '<section id="targets"' not in page


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        dataclasses.replace(make_target("law"), would_take=np.ones(3, bool))
