"""The targets of Influence Distillation: what each was given, what that is worth, and how well it was predicted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from beam_quad.report import plots
from beam_quad.report.comparison import (
    Contrast,
    Estimate,
    compare_target,
    finite,
    landmarks,
    sampling_weights,
    share_of_exact_gain,
    stratified_mean,
    taken_landmarks,
)
from beam_quad.report.data import Notice, ReportData, ScoredSample, Target
from beam_quad.report.formatting import (
    MISSING,
    compact,
    correlation,
    count,
    decimal,
    percent,
    ratio,
    signed,
)
from beam_quad.report.markup import Column, Html, Section, clean, join, table, tag
from beam_quad.report.sections.common import ImageKey, figure
from beam_quad.report.svg import RANDOM, SELECTED

# Measured on 1,600 documents, with 8 domains as targets, plain and under EK-FAC, 100 to 800 landmarks, and hashed words with
# more or less noise added: below 0.2 the best 2 to 10 % by prediction keep an eighth (median) of the gain of the best by
# exact influence, from 0.3 to 0.4 a half. Embeddings that say nothing give 0. A rare target unlike all else may lose little.
_LEAST_AGREEMENT = 0.2
_MAX_HISTOGRAMS = 6
_MAX_LINES = 20
_LABEL_CHARACTERS = 22
_NAME_CHARACTERS = 60
# Sentences, since a text of the page is cut at a paragraph's length.
_READING = (
    "Means are per token, ± half their 95 % interval. Landmarks that were taken count with their exact influence.",
    "For what was taken by prediction stand the landmarks that the target would take by what the others predict for them.",
    "Of exact gain: what predictions keep of the gain over a random draw that exact influence of every example would give.",
    "Held-out r: rank correlation of those predictions with exact influence; at 1 the corpus is ranked as exact influence "
    "would rank it, at 0 by chance.",
)
_KEYS = (ImageKey("random", "all landmarks"), ImageKey("selected", "those that it would take"))


def targets(data: ReportData) -> Section | None:
    """Shows each target's share, its influence against a random draw, and the held-out agreement; None without targets."""
    if not data.targets:
        return None
    body = [
        tag("p", join(_READING, " "), class_="lead"),
        _table(data.targets, data.funnel.tokens_selected),
        _plots(data.targets),
    ]
    return Section("targets", "Targets", join(body), _influence(data))


def few_landmarks(manifest: Mapping[str, Any]) -> str | None:
    """Says in a sentence that the corpus has fewer landmarks than were asked for; None where it has enough.

    Args:
      manifest: Of any run; only one of Influence Distillation has landmarks.
    """
    asked, found = manifest["config"].get("num_landmarks"), manifest.get("landmarks")
    if not asked or not found or asked <= (drawn := found["scored"] + found["unscorable"]):
        return None
    return f"All {count(drawn)} usable examples are landmarks: the corpus has no {count(asked)} (--num_landmarks)."


def poor_propagation(name: str, agreement: float | None) -> str | None:
    """Says what to do about a target whose influence is predicted poorly; None where it is predicted well enough.

    Args:
      name: The target's name.
      agreement: Rank correlation of the landmarks' exact influence with what the others predict; None (or not finite)
        where one of the two does not vary.
    """
    if agreement is None or not math.isfinite(agreement):
        return (
            f"Influence on target {name}, exact or predicted, is the same for every landmark: what was taken for it is "
            "chance; draw more landmarks (--num_landmarks), or pass another --embedder."
        )
    if agreement >= _LEAST_AGREEMENT:
        return None
    return (
        f"Influence on target {name} is predicted poorly (held-out rank correlation {correlation(agreement)}), so that "
        "much of what exact influence would gain may be missed; draw more landmarks (--num_landmarks), or pass another "
        "--embedder."
    )


def poor_propagations(items: Sequence[Target]) -> list[Notice]:
    """Warns of each target whose influence is predicted poorly."""
    words = (poor_propagation(t.name, t.agreement) for t in items if t.is_predicted)
    return [Notice(each) for each in words if each is not None]


def _influence(data: ReportData) -> str:
    target = "the target's" + _preconditioned(data.configuration or {})
    multiplied = ""
    if (data.configuration or {}).get("optimizer_state"):
        multiplied = ", multiplied as Adam would,"
    number = max(len(target.tokens) for target in data.targets or ())
    return (
        f"Influence: the cosine of an example's gradient{multiplied} with {target}; higher is better, below 0 harms. "
        f"It is exact for {count(number)} landmarks, a uniform sample of the corpus, and predicted from them for all "
        "other examples."
    )


def _preconditioned(options: Mapping[str, object]) -> str:
    is_plain = options.get("curvature", "identity") == "identity"
    return (
        "" if is_plain else f", preconditioned with the inverse curvature ({options['curvature']})"
    )


def _table(items: Sequence[Target], tokens_selected: int) -> Html:
    columns = [
        Column("Target", "text"),
        Column("Selected examples"),
        Column("Selected tokens"),
        Column("Share", hint="of the selected tokens"),
        Column("Random token", hint="mean influence over all landmarks, weighted by their tokens"),
        Column(
            "Selection",
            hint="landmarks by their exact influence, all else by the landmarks that it would take",
        ),
        Column("Gain, std. dev.", hint="of the influence of a random token's example"),
        Column(
            "Of exact gain",
            hint="gain over that of as many tokens of the landmarks of highest exact influence",
        ),
        Column("Held-out r", hint="rank correlation of predicted with exact influence"),
    ]
    rows = [_row(target, tokens_selected) for target in items]
    if any(target.shared is not None for target in items):
        hint = "examples that the first order does not select for it"
        columns.append(Column("New in order 2", hint=hint))
        rows = [(*row, _new(target)) for row, target in zip(rows, items, strict=True)]
    return table(columns, rows)


def _new(target: Target) -> str:
    # What several targets together have too much is cut after it was counted.
    new = max(0, target.selected_documents - (target.shared or 0))
    return f"{count(new)} ({percent(ratio(new, target.selected_documents))})"


def _row(target: Target, tokens_selected: int) -> tuple[object, ...]:
    contrast = compare_target(target)
    random = stratified_mean(landmarks(target), None)
    few = f"too few landmarks ({count(len(taken_landmarks(target).influence))})"
    return (
        clean(target.name, _NAME_CHARACTERS),
        count(target.selected_documents),
        compact(target.selected_tokens),
        percent(ratio(target.selected_tokens, tokens_selected)),
        _mean(random) if random is not None else MISSING,
        _mean(contrast.selection) if contrast is not None else few,
        signed(in_deviations(contrast), 2) if contrast is not None else MISSING,
        percent(share_of_exact_gain(target)),
        correlation(target.agreement),
    )


def _mean(estimate: Estimate) -> str:
    return f"{decimal(estimate.mean)} ± {decimal(estimate.half_width, 2)}"


def in_deviations(contrast: Contrast) -> float | None:
    """Gives the gain in standard deviations of the random draw; None where that does not vary."""
    return ratio(contrast.gain.mean, contrast.spread)


def _plots(items: Sequence[Target]) -> Html | None:
    known = [t for t in items if len(finite(landmarks(t)).influence)]
    if not known:
        return None
    drawings = [_intervals(known)]
    drawings += [_histogram(target, i) for i, target in enumerate(known[:_MAX_HISTOGRAMS])]
    return tag("div", *drawings, class_="plots")


def _intervals(items: Sequence[Target]) -> Html:
    lines = []
    for target in items[:_MAX_LINES]:
        random, contrast = stratified_mean(landmarks(target), None), compare_target(target)
        pairs = [(random, RANDOM)] if random is not None else []
        pairs += [(contrast.selection, SELECTED)] if contrast is not None else []
        lines.append((clean(target.name, _LABEL_CHARACTERS), pairs))
    note = "95 % intervals."
    if len(items) > _MAX_LINES:
        note += f" The first {_MAX_LINES} of {count(len(items))} targets."
    if len(items) > _MAX_HISTOGRAMS:
        note += f" Distributions are drawn of the first {_MAX_HISTOGRAMS} targets."
    return figure(plots.estimates(lines), "targets", "Selection against a random draw", _KEYS, note)


def _histogram(target: Target, number: int) -> Html:
    samples: list[tuple[ScoredSample, str]] = [(finite(landmarks(target)), RANDOM)]
    if compare_target(target) is not None:
        samples.append((taken_landmarks(target), SELECTED))
    series = [(s.influence, sampling_weights(s, None), color) for s, color in samples]
    title = f"Exact influence on {clean(target.name, _NAME_CHARACTERS)}"
    note = "Shares of tokens; the outermost bins hold the tails."
    return figure(plots.histograms(series), f"target-{number}", title, _KEYS[: len(series)], note)
