import re

import numpy as np
import pytest

from beam_quad.report import data as shown
from beam_quad.report import plots
from beam_quad.report.svg import SELECTED, to_svg


def test_a_drawing_takes_its_colours_and_its_font_from_the_page():
    values = np.linspace(0, 1, 50)
    text = to_svg(plots.histograms([(values, np.ones(50), SELECTED)], 0.5), "h", 'a "plot"')
    assert text.startswith('<svg role="img" aria-label="a &#34;plot&#34;"')
    assert "var(--selected)" in text
    assert not any(x in text for x in ("font-family", "<style", "<metadata", "#0", "#fff"))


def test_two_drawings_share_no_id():
    items = [shown.Arm(0, 16, 2, 1, 0.1, 100), shown.Arm(1, 16, 1, 0, 0.0, 50)]
    drawings = [to_svg(plots.arms(items), name, "arms") for name in ("one", "two")]
    first, second = (set(re.findall(r' id="([^"]+)"', text)) for text in drawings)
    assert first
    assert not first & second
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', drawings[0]))
    assert used <= first


def test_an_axis_of_counts_has_whole_numbers_and_a_logarithmic_one_has_several():
    items = [shown.Cluster(i, 9, 100 + 40 * i, 2, 90 + 30 * i) for i in range(12)]
    (axes,) = plots.cluster_concentration(items).axes
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    (axes,) = plots.cluster_shares(items).axes
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) > 1


def test_many_arms_share_marks_and_lose_no_tokens():
    rng = np.random.default_rng(0)
    columns = (
        rng.integers(1, 16, 5000).astype(float),
        rng.normal(size=5000),
        rng.random(5000),
        np.zeros(5000),
    )
    pulls, influence, tokens, _ = plots._merge(*columns)
    assert len(pulls) <= plots.MAX_MARKS
    assert tokens.sum() == pytest.approx(columns[2].sum())
    assert influence.min() >= columns[1].min()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_only_all_is_shown_as_all_and_only_none_as_none(share):
    assert plots.share_class(share) == {0.0: 0, 0.2: 1, 0.5: 2, 0.99: 3, 1.0: 4}[share]
