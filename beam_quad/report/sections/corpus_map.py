"""A map of the corpus: its clusters in the plane, how large and how good they are, and what was taken of each."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_quad.report.data import Cluster, ReportData
from beam_quad.report.formatting import clean, count, decimal, percent, ratio
from beam_quad.report.pages import Section

# A page of more would be too large to open at once, and a map of more too full to read.
MAX_DRAWN = 1000
_WIDTH, _HEIGHT, _MARGIN = 1000, 620, 36
# Share of the drawing that all marks cover together, and radii that can be seen and do not hide others.
_COVERED, _LEAST_RADIUS, _MOST_RADIUS = 0.12, 3.0, 60.0
_NUM_CLASSES = 5
_MOST_LABELS, _FIRST_LABELS, _LABEL_CHARACTERS, _WORDS = 30, 8, 14, 6
_LABEL_HEIGHT, _CHARACTER_WIDTH = 17.0, 8.2
# On a telephone `style.css` draws labels so many times as large, and only the first ones.
_ON_TELEPHONE = 30 / 14
# Half of the width of a ring, and its distance from its circle.
_RING = 4.5


def drawn(items: Sequence[Cluster]) -> list[Cluster]:
    """Chooses the clusters that a map shows, the largest first."""
    return sorted(items, key=lambda c: (-c.tokens, c.cluster_id))[:MAX_DRAWN]


def corpus_map(data: ReportData) -> Section | None:
    """Draws the clusters; None if nobody has placed them."""
    items = [c for c in drawn(data.clusters or ()) if c.position is not None]
    if not items:
        return None
    total = sum(c.tokens for c in data.clusters or ())
    edges = _edges(items)
    radii = _radii(items, total)
    # The drawing ends at the margins of the page, which the largest circles and their rings must not cross.
    places = _places(np.array([c.position for c in items]), max(_MARGIN, max(radii) + _RING))
    marks = [
        {
            "x": round(float(x), 1),
            "y": round(float(y), 1),
            "radius": radius,
            "kind": _kind(cluster, edges),
            # In percent, because the ring's path is given a length of 100.
            "selected": round(100 * (ratio(cluster.selected_tokens, cluster.tokens) or 0.0), 2),
            "words": _about(cluster, total),
        }
        for cluster, (x, y), radius in zip(items, places, radii, strict=True)
    ]
    view = {
        "size": (_WIDTH, _HEIGHT),
        "marks": marks,
        "labels": _labels(items, marks),
        "keys": _keys(items, edges),
        "not_drawn": len(data.clusters or ()) - len(items),
    }
    lead = (
        "Each circle is a cluster of documents that are alike. Clusters close to each other are alike too; long distances say little. "
        "Point at a circle to see its words."
    )
    return Section("map", "Map of the corpus", view, lead)


def _places(positions: np.ndarray, margin: float) -> np.ndarray:
    """Fits positions, float [n, 2], into the drawing within a margin, with one scale for both axes."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    room = np.array([_WIDTH, _HEIGHT]) - 2 * margin
    # One scale for both axes: distances would otherwise depend on the shape of the page.
    scale = (room / np.maximum(high - low, 1e-9)).min()
    places: np.ndarray = (positions - (low + high) / 2) * scale + np.array([_WIDTH, _HEIGHT]) / 2
    return places


def _radii(items: Sequence[Cluster], total: int) -> list[float]:
    """Radii of which the areas are in proportion to the tokens, but for those that would be too small to see."""
    shares = np.array([ratio(c.tokens, total) or 0.0 for c in items])
    radii = np.sqrt(shares * _COVERED * _WIDTH * _HEIGHT / math.pi)
    radii *= min(1.0, _MOST_RADIUS / max(radii.max(), 1e-9))
    return [round(float(radius), 1) for radius in np.maximum(radii, _LEAST_RADIUS)]


def _edges(items: Sequence[Cluster]) -> np.ndarray:
    """What divides the clusters into classes of as many each, by their mean influence: float64 [at most 4], ascending."""
    known = [c.mean_influence for c in items if c.mean_influence is not None]
    if not known:
        return np.zeros(0)
    # Where many clusters are equal, edges coincide; a class between two equal edges would be empty.
    return np.unique(np.quantile(known, np.arange(1, _NUM_CLASSES) / _NUM_CLASSES))


def _kind(cluster: Cluster, edges: np.ndarray) -> str:
    if cluster.mean_influence is None:
        return "random"
    # The last class is the best one, however few there are.
    own = int(np.searchsorted(edges, cluster.mean_influence, side="right"))
    return f"share-{_NUM_CLASSES - 1 - len(edges) + own}"


def _keys(items: Sequence[Cluster], edges: np.ndarray) -> list[tuple[str, str]]:
    keys: list[tuple[str, str]] = []
    if any(c.mean_influence is not None for c in items):
        bounds = [None, *edges.tolist(), None]
        for number, (low, high) in enumerate(itertools.pairwise(bounds)):
            words = f"below {decimal(high)}" if low is None else f"from {decimal(low)}"
            if low is None and high is None:
                words = "scored"
            first = "mean influence " if number == 0 else ""
            keys.append((f"share-{_NUM_CLASSES - 1 - len(edges) + number}", first + words))
    if any(c.mean_influence is None for c in items):
        keys.append(("random", "not scored"))
    return [*keys, ("ring", "ring: share of it that is selected; area: its tokens")]


def _about(cluster: Cluster, total: int) -> str:
    words = ", ".join(cluster.words[:_WORDS]) or cluster.why_no_words
    about = (
        f"cluster {cluster.cluster_id}{': ' if words else ''}{words} · {count(cluster.documents)} examples, "
        f"{percent(ratio(cluster.tokens, total))} of the corpus · {percent(ratio(cluster.selected_tokens, cluster.tokens))} "
        "of it selected"
    )
    if cluster.mean_influence is None:
        return about
    return f"{about} · mean influence {decimal(cluster.mean_influence)}"


def _labels(
    items: Sequence[Cluster], marks: Sequence[Mapping[str, Any]]
) -> list[tuple[float, float, str, bool]]:
    """First words of the largest clusters, as far as none covers another: place, word, and whether there is room on a telephone."""
    taken: list[tuple[float, float, float]] = []
    first: list[tuple[float, float, float]] = []
    labels: list[tuple[float, float, str, bool]] = []
    # The largest clusters come first, so where two labels collide the larger cluster keeps its own.
    for cluster, mark in zip(items, marks, strict=True):
        if len(labels) == _MOST_LABELS:
            break
        if not cluster.words:
            continue
        word = clean(cluster.words[0], _LABEL_CHARACTERS)
        half = _CHARACTER_WIDTH * len(word) / 2
        x = round(min(max(mark["x"], half), _WIDTH - half), 1)
        y = round(min(mark["y"] + mark["radius"] + _LABEL_HEIGHT, _HEIGHT - 4.0), 1)
        if not _is_free((x, y, half), taken, 1.0):
            continue
        taken.append((x, y, half))
        is_first = len(first) < _FIRST_LABELS and _is_free((x, y, half), first, _ON_TELEPHONE)
        if is_first:
            first.append((x, y, half))
        labels.append((x, y, word, is_first))
    return labels


def _is_free(
    label: tuple[float, float, float], others: Sequence[tuple[float, float, float]], scale: float
) -> bool:
    """Tells whether a label, its middle and half its width, covers no other if all are drawn at a scale."""
    x, y, half = label
    return not any(
        abs(y - v) < scale * _LABEL_HEIGHT and abs(x - u) < scale * (half + w) for u, v, w in others
    )
