"""The map of the corpus."""

import dataclasses
import html
import math
import re

import numpy as np
import pytest

from beam_quad import report
from beam_quad.report import data as shown
from beam_quad.report.sections import clusters, corpus_map
from tests.report.made import manifest
from tests.report.parsed import Page

MANIFEST = manifest(100, 40, (10_000, 4000, 4000))


def cluster(number: int, tokens: int = 100, **changes: object) -> shown.Cluster:
    """A cluster on the map, of which a quarter is selected."""
    own = shown.Cluster(number, 9, tokens, 2, tokens // 4, position=(float(number), 0.0))
    return dataclasses.replace(own, **changes)


def view_of(*items: shown.Cluster) -> dict:
    """What the map's template is given."""
    return dict(corpus_map.corpus_map(shown.ReportData("", MANIFEST, clusters=items)).view)


def test_areas_are_shares_of_the_tokens_and_rings_shares_of_the_cluster():
    large, small = view_of(cluster(0, 1600), cluster(1, 400, selected_tokens=0))["marks"]
    assert large["radius"] / small["radius"] == pytest.approx(math.sqrt(1600 / 400), rel=0.02)
    assert (large["selected"], small["selected"]) == (25.0, 0.0)


def test_colours_are_five_classes_of_influence_the_best_the_darkest():
    items = [cluster(i, mean_influence=i / 10) for i in range(10)]
    view = view_of(*items, cluster(10))
    kinds = [mark["kind"] for mark in view["marks"]]
    assert kinds == [f"share-{i // 2}" for i in range(10)] + ["random"]
    assert [kind for kind, _ in view["keys"]] == [*dict.fromkeys(kinds), "ring"]
    assert view_of(cluster(0, mean_influence=0.5))["marks"][0]["kind"] == "share-4"


def test_pointing_at_a_cluster_tells_its_words_or_why_there_are_none():
    named = cluster(7, words=("<q>", "law"), mean_influence=0.5)
    page = report.render(
        shown.ReportData("", MANIFEST, clusters=(named, cluster(8, why_no_words="none read")))
    )
    titles = [html.unescape(title) for title in re.findall("<title>(.*?)</title>", page)[1:]]
    assert titles == [
        "cluster 7: <q>, law · 9 examples, 50.0 % of the corpus · 25.0 % of it selected · mean influence 0.500",
        "cluster 8: none read · 9 examples, 50.0 % of the corpus · 25.0 % of it selected",
    ]
    assert "q" not in Page(page).tags


def test_no_label_covers_another_and_all_are_within_the_drawing():
    rng = np.random.default_rng(0)
    items = [cluster(i, words=("w" * 20,), position=tuple(rng.normal(size=2))) for i in range(200)]
    labels = view_of(*items)["labels"]
    assert 5 < len(labels) <= 30
    width, height = 14 * corpus_map._CHARACTER_WIDTH, corpus_map._LABEL_HEIGHT
    for at, (x, y, *_) in enumerate(labels):
        assert width / 2 - 1 <= x <= 1000 - width / 2 + 1
        assert 0 <= y <= 620
        for u, v, *_ in labels[:at]:
            assert abs(x - u) >= width or abs(y - v) >= height
    # A telephone draws them larger, and fewer.
    scale = 30 / 14
    first = [(x, y) for x, y, _, is_first in labels if is_first]
    assert 1 < len(first) < len(labels)
    for at, (x, y) in enumerate(first):
        for u, v in first[:at]:
            assert abs(x - u) >= scale * width or abs(y - v) >= scale * height


def test_no_circle_and_no_ring_crosses_the_margin_of_the_page():
    for mark in view_of(cluster(0, 9000), cluster(1, 9000), cluster(2, 10))["marks"]:
        reach = mark["radius"] + corpus_map._RING
        assert reach <= mark["x"] + 0.1
        assert mark["x"] + reach <= 1000.1


def test_one_cluster_and_clusters_of_one_place_have_a_map():
    assert view_of(cluster(0, position=(0.0, 0.0)))["marks"][0]["x"] == 500
    assert len(view_of(*(cluster(i, position=(1.0, 1.0)) for i in range(3)))["marks"]) == 3


@pytest.mark.parametrize("num_clusters", [60, 300])
def test_every_cluster_that_is_listed_is_one_of_which_texts_are_read(make_report, num_clusters):
    items = make_report(num_clusters).clusters
    named = set(clusters.named(items))
    assert {c.cluster_id for _, own, _ in clusters.listed(items) for c in own} <= named
    assert len(named) == min(num_clusters, 100)
    # The largest come next.
    left = [c.tokens for c in items if c.cluster_id not in named]
    assert max(left, default=0) <= sorted((c.tokens for c in items), reverse=True)[59]
