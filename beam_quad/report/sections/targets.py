"""The targets of Influence Distillation: what each was given, what that is worth, and how well it was predicted."""

from collections.abc import Mapping, Sequence

from beam_quad.report import plots
from beam_quad.report.comparison import (
    compare_target,
    finite,
    landmarks,
    sampling_weights,
    share_of_exact_gain,
    stratified_mean,
    taken_landmarks,
)
from beam_quad.report.data import ReportData, Target
from beam_quad.report.formatting import clean, count
from beam_quad.report.pages import Section
from beam_quad.report.svg import RANDOM, SELECTED, Picture

_MAX_HISTOGRAMS, _MAX_LINES = 6, 20
_LABEL_CHARACTERS, _NAME_CHARACTERS = 22, 60
_KEYS = (("random", "all landmarks"), ("selected", "those it would select"))


def targets(data: ReportData) -> Section | None:
    """Shows each target's share, its influence against a random draw, and the held-out agreement; None without targets."""
    items = data.targets
    if not items:
        return None
    # A target without a finite score has neither a mean nor a distribution.
    drawn = [t for t in items if len(finite(landmarks(t)).influence)]
    pictures = [_intervals(drawn)] if drawn else []
    pictures += [
        _histogram(target, number) for number, target in enumerate(drawn[:_MAX_HISTOGRAMS])
    ]
    view = {
        "rows": [_row(target) for target in items],
        "tokens": data.manifest["tokens"]["selected"],
        "has_second_order": any(target.shared is not None for target in items),
        "pictures": pictures,
    }
    return Section("targets", "Targets", view, _influence(data))


def _influence(data: ReportData) -> str:
    target = "the target's" + _preconditioned(data.manifest["config"])
    multiplied = ""
    if data.manifest["config"].get("optimizer_state"):
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


def _row(target: Target) -> dict[str, object]:
    return {
        "target": target,
        "random": stratified_mean(landmarks(target), None),
        "contrast": compare_target(target),
        "num_taken": len(taken_landmarks(target).influence),
        "share_of_exact": share_of_exact_gain(target),
        # What several targets together have too much is cut after it was counted.
        "new": max(0, target.selected_documents - (target.shared or 0)),
    }


def _intervals(items: Sequence[Target]) -> Picture:
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
    title = "Selection against a random draw"
    # Too few landmarks may stand for every selection; then only the random draw is drawn.
    keys = _KEYS[: max(len(pairs) for _, pairs in lines)]
    return Picture.of(plots.estimates(lines), "targets", title, keys, note)


def _histogram(target: Target, number: int) -> Picture:
    samples = [(finite(landmarks(target)), RANDOM)]
    # Too few landmarks would draw a shape that is noise.
    if compare_target(target) is not None:
        samples.append((taken_landmarks(target), SELECTED))
    series = [(s.influence, sampling_weights(s, None), color) for s, color in samples]
    title = f"Exact influence on {clean(target.name, _NAME_CHARACTERS)}"
    note = "Shares of tokens; the outermost bins hold the tails."
    drawing = plots.histograms(series)
    return Picture.of(drawing, f"target-{number}", title, _KEYS[: len(series)], note)
