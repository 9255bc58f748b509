"""The report's plots, which turn numbers into a `Figure`. No plot contains text of the corpus."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from beam_quad.report import formatting
from beam_quad.report.comparison import Estimate
from beam_quad.report.data import Arm, Cluster, Round
from beam_quad.report.svg import INK, KINDS, LINE, MUTED, RANDOM, SELECTED, SHARE_RAMP, settings

# Width and height in inches of 72 units, for half or a third of a wide screen; also legible on a phone.
_SIZE = (5.0, 3.2)
_SMALL = (4.2, 2.4)
_FONT_SIZE = 9.5
_DASHED: Final[dict[str, Any]] = {"linewidth": 1, "linestyle": (0, (4, 3))}
# With more arms or clusters than this, close ones share a mark, so that the page stays small and readable.
MAX_MARKS = 300


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    with settings({"font.size": _FONT_SIZE, "axes.linewidth": 0.8}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.tick_params(which="both", colors=MUTED, length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, axes


def _ticks(axis: Axis, form: Callable[[float], str], is_count: bool = False) -> None:
    axis.set_major_locator(MaxNLocator(5, integer=is_count))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def _tick(value: float) -> str:
    # Ticks at multiples of a step have the step's float error: 0.30000000000000004.
    return f"{round(value, 12):g}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{_tick(100 * share)} %"


def share_class(share: float) -> int:
    """Returns the class of a share on the five-step colour ramp: 0, up to 1/3, up to 2/3, below 1, and 1."""
    if share <= 0:
        return 0
    return 4 if share >= 1 else 1 + min(int(share * 3), 2)


def arms(items: Sequence[Arm]) -> Figure:
    """Plots mean influence against pulls; area shows a cluster's tokens, colour the accepted share of pulls.

    Every arm has pulls and a finite mean influence.
    """
    pulls = np.array([a.pulls for a in items], dtype=np.float64)
    influence = np.array([a.mean_influence for a in items])
    tokens = np.array([a.tokens for a in items], dtype=np.float64)
    accepted = np.array([a.accepted for a in items], dtype=np.float64)
    if len(pulls) > MAX_MARKS:
        pulls, influence, tokens, accepted = _merge(pulls, influence, tokens, accepted)
    figure, axes = _figure()
    # A corpus with one giant cluster would leave no room for the other marks, so areas are capped.
    areas = np.minimum(10 + 1200 * tokens / max(tokens.sum(), 1.0), 260)
    # Multiples of the golden ratio spread marks of equal pulls evenly and deterministically.
    positions = pulls + 0.6 * ((np.arange(len(pulls)) * 0.6180339887) % 1) - 0.3
    # Large marks first: drawn last they would hide the small ones.
    for index in np.argsort(-areas, kind="stable"):
        color = SHARE_RAMP[share_class(accepted[index] / pulls[index])]
        mark = (positions[index], influence[index], areas[index])
        axes.scatter(*mark, color=color, linewidths=0.6, edgecolors=MUTED)
    axes.set(xlabel="pulls", ylabel="mean influence")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _ticks(axes.yaxis, _tick)
    return figure


def _merge(
    pulls: np.ndarray, influence: np.ndarray, tokens: np.ndarray, accepted: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Joins arms of equal pulls and nearly equal influence; their tokens add up."""
    rows = max(MAX_MARKS // len(np.unique(pulls)), 8)
    low, high = influence.min(), influence.max()
    level = ((influence - low) / max(high - low, 1e-300) * (rows - 1)).round()
    _, index, sizes = np.unique(
        np.stack([pulls, level]), axis=1, return_inverse=True, return_counts=True
    )
    index = index.reshape(-1)
    return (
        np.bincount(index, pulls) / sizes,
        np.bincount(index, influence) / sizes,
        np.bincount(index, tokens),
        np.bincount(index, accepted) / sizes,
    )


def cluster_shares(clusters: Sequence[Cluster]) -> Figure:
    """Plots each cluster's share of the selection against its share of the corpus, on logarithmic axes.

    Clusters without selected tokens are drawn on the lower edge. If there are many clusters, only the largest are drawn.
    """
    by_size = sorted(clusters, key=lambda c: (-c.selected_tokens, -c.tokens, c.cluster_id))
    # With too many clusters, a third of the marks is reserved for clusters without selected tokens.
    gave = [c for c in by_size if c.selected_tokens > 0]
    nothing = [c for c in by_size if c.selected_tokens <= 0 < c.tokens]
    kept_nothing = nothing[: max(MAX_MARKS - len(gave), MAX_MARKS // 3)]
    chosen = [*gave[: MAX_MARKS - len(kept_nothing)], *kept_nothing]
    corpus = np.array([c.tokens for c in chosen]) / max(sum(c.tokens for c in clusters), 1)
    selection = np.array([c.selected_tokens for c in chosen]) / max(
        sum(c.selected_tokens for c in clusters), 1
    )
    figure, axes = _figure()
    positive = np.concatenate([corpus, selection[selection > 0]])
    low, high = (positive.min() / 2, min(positive.max() * 2, 1.0)) if len(positive) else (1e-3, 1)
    axes.plot([low, high], [low, high], color=MUTED, **_DASHED)
    taken = selection > 0
    axes.scatter(corpus[taken], selection[taken], 26, color=SELECTED, alpha=0.75, linewidths=0)
    axes.scatter(
        corpus[~taken], np.full((~taken).sum(), low), 16, color=RANDOM, linewidths=0, clip_on=False
    )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    # Over less than two decades, powers of ten alone would leave an axis with a single number.
    subs = (1, 2, 5) if high < 100 * low else (1,)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set(xlabel="share of the corpus's tokens", ylabel="share of the selection's")
    return figure


def cluster_concentration(clusters: Sequence[Cluster]) -> Figure:
    """Plots the share of tokens in the largest clusters, one curve for the corpus and one for the selection."""
    figure, axes = _figure()
    for values, color in (
        ([c.tokens for c in clusters], RANDOM),
        ([c.selected_tokens for c in clusters], SELECTED),
    ):
        cumulated = np.cumsum(np.sort(np.array(values, dtype=np.float64))[::-1])
        share = np.concatenate([[0.0], cumulated / max(cumulated[-1], 1.0)])
        # Two hundred points, dense at the start, are enough to draw a curve of ten thousand.
        at = np.unique((np.linspace(0, 1, 200) ** 2 * (len(share) - 1)).round().astype(int))
        axes.plot(at, share[at], color=color, linewidth=2)
    axes.set(xlim=(0, len(clusters)), ylim=(0, 1.02))
    axes.set(xlabel="largest clusters", ylabel="share of the tokens in them")
    _ticks(axes.xaxis, formatting.count, is_count=True)
    _ticks(axes.yaxis, _percent)
    return figure


def histograms(
    series: Sequence[tuple[np.ndarray, np.ndarray, str]], tau: float | None = None
) -> Figure:
    """Plots distributions of influence over common bins.

    Args:
      series: (values, weights, colour) of each series; the weights of a series are scaled to sum 1.
      tau: Position of the line for the last threshold.

    Returns:
      The figure. The outermost bins include all values outside the middle 99.5 %.
    """
    # All series share the bins; otherwise their heights could not be compared.
    values = np.concatenate([v for v, _, _ in series])
    low, high = np.quantile(values, [0.0025, 0.9975])
    if not high > low:
        low, high = low - 0.5, low + 0.5
    # About the square root of the smallest series' size, so that no shape is just noise.
    bins = int(np.clip(1.5 * np.sqrt(min(len(v) for v, _, _ in series)), 10, 40))
    edges = np.linspace(low, high, bins + 1)
    figure, axes = _figure()
    for points, weights, color in series:
        heights, _ = np.histogram(np.clip(points, low, high), edges, weights=weights)
        heights = heights / max(weights.sum(), 1e-300)
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.14)
        axes.stairs(heights, edges, color=color, linewidth=1.6)
    if tau is not None and np.isfinite(tau):
        axes.axvline(tau, color=INK, **_DASHED)
    axes.set(xlim=(low, high), xlabel="influence", ylabel="share")
    _ticks(axes.xaxis, _tick)
    _ticks(axes.yaxis, _percent)
    return figure


def estimates(lines: Sequence[tuple[str, Sequence[tuple[Estimate, str]]]]) -> Figure:
    """Plots means with their 95 % intervals.

    Args:
      lines: Label of each line, with its (estimate, colour) pairs. Labels are drawn literally, without math mode.
    """
    figure, axes = _figure((_SIZE[0], 0.9 + 0.5 * len(lines)))
    for row, (_, pairs) in enumerate(lines):
        for place, (estimate, color) in enumerate(pairs):
            axes.errorbar(
                estimate.mean, row + 0.22 * (place - (len(pairs) - 1) / 2), xerr=estimate.half_width,
                fmt="o", color=color, capsize=4, linewidth=2, markersize=7,
            )  # fmt: skip
    labels = [label for label, _ in lines]
    axes.set_yticks(range(len(lines)), labels, color=INK, parse_math=False)
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="mean influence per token")
    axes.margins(x=0.12)
    _ticks(axes.xaxis, _tick)
    return figure


def round_line(rounds: Sequence[Round], values: Sequence[float], limit: float | None) -> Figure:
    """Plots one number per round as a line, with a dashed line at `limit`; non-finite values are left out."""
    figure, axes = _figure(_SMALL)
    points = [(r.number, v) for r, v in zip(rounds, values, strict=True) if np.isfinite(v)]
    axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=SELECTED, markersize=4)
    if limit is not None:
        axes.axhline(limit, color=INK, **_DASHED)
        axes.set_ylim(0, 1.08 * max([limit, *(y for _, y in points)]))
    _finish_rounds(axes, rounds)
    _ticks(axes.yaxis, _tick if limit is None else formatting.compact)
    return figure


def round_bars(rounds: Sequence[Round], layers: Sequence[tuple[Sequence[float], str]]) -> Figure:
    """Plots numbers per round as bars; layers are (values, colour), later ones in front."""
    figure, axes = _figure(_SMALL)
    for values, color in layers:
        axes.bar([r.number for r in rounds], values, 0.75, color=color)
    _finish_rounds(axes, rounds)
    _ticks(axes.yaxis, formatting.compact)
    return figure


def layer_shares(parts: Sequence[tuple[int, str, float]]) -> Figure:
    """Plots shares by layer as grouped bars, one bar per kind; parts are (layer, kind, share), with layer -1 for none."""
    figure, axes = _figure()
    kinds = [kind for kind in KINDS if any(own == kind for _, own, _ in parts)]
    width = 0.8 / len(kinds)
    for place, kind in enumerate(kinds):
        own = [(layer, share) for layer, name, share in parts if name == kind]
        at = [layer + width * (place - (len(kinds) - 1) / 2) for layer, _ in own]
        axes.bar(at, [share for _, share in own], width, color=KINDS[kind][1])
    axes.set(xlabel="layer", ylabel="share")
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    _ticks(axes.yaxis, _percent)
    return figure


def _finish_rounds(axes: Axes, rounds: Sequence[Round]) -> None:
    axes.set(xlabel="round", xlim=(-0.6, max(r.number for r in rounds) + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
