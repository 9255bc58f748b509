"""What the scores say: against a random draw, their distributions, the best and the worst examples, how they were made."""

from collections.abc import Mapping, Sequence

import numpy as np

from beam_quad import answers
from beam_quad.report import plots
from beam_quad.report.comparison import (
    Comparison,
    Estimate,
    finite,
    sampling_weights,
    token_shares,
)
from beam_quad.report.data import Example, ReportData, Scores
from beam_quad.report.formatting import clean, decimal
from beam_quad.report.outcomes import why
from beam_quad.report.pages import Section
from beam_quad.report.svg import RANDOM, SCORED, SELECTED, Picture

_NAME_CHARACTERS = 60


def scores(data: ReportData, comparison: Comparison | None) -> Section | None:
    """Shows the selection against a random draw, and the distributions of influence; None without scores."""
    if data.scores is None or not np.isfinite(data.scores.scored.influence).any():
        return None
    pictures, estimates = [_histogram(data, data.scores)], []
    if comparison is not None:
        estimates = _named_estimates(comparison)
        # Whether the selection is better comes before how the scores are spread.
        pictures.insert(0, _intervals(comparison, estimates))
    title = "Against a random draw" if comparison is not None else "Scores"
    view = {"pictures": pictures, "estimates": estimates, "comparison": comparison}
    return Section("scores", title, view, _unit(data))


def _unit(data: ReportData) -> str:
    unit = f"decrease of the query loss, in nats per token, per {_step(data.manifest['config'])}"
    if len(data.query_groups or ()) > 1:
        unit = f"{unit}, for each query group; the groups are put on one scale and added"
    return (
        f"Influence estimates how much a document helps with the query set if a model is trained on it: the {unit}. Higher is better, "
        "and below 0 a document harms. Numbers under another proxy or query set cannot be compared."
    )


def _step(options: Mapping[str, object]) -> str:
    """Says for which step on a document the query loss decreases by the influence."""
    is_plain, is_normalized = options.get("curvature") == "identity", options.get("normalize")
    if is_plain and is_normalized:
        return "gradient step of length 1 on the document"
    if is_plain:
        return "unit of a gradient step on the document"
    step = "unit of a curvature-preconditioned step on the document"
    return f"{step}, its gradient first scaled to length 1" if is_normalized else step


def _named_estimates(comparison: Comparison) -> list[tuple[str, Estimate, str]]:
    named = [("random draw", comparison.random, RANDOM)]
    label = "selection"
    if comparison.by_clusters is not None:
        label = "selection, by blocks"
        # The cautious estimate, which is the headline's, comes first.
        named.append(("selection, by clusters", comparison.by_clusters, SELECTED))
    return [*named, (label, comparison.by_blocks, SELECTED)]


def _intervals(comparison: Comparison, named: Sequence[tuple[str, Estimate, str]]) -> Picture:
    note = "95 % intervals."
    if comparison.by_clusters is not None:
        note += (
            " By blocks: the mean of the scored examples of the accepted blocks; it is too high, because these scores decided which "
            "blocks were accepted. By clusters: the mean of all scored examples of the selected clusters, weighted by what was "
            "selected of each."
        )
    drawing = plots.estimates([(label, [(estimate, color)]) for label, estimate, color in named])
    return Picture.of(drawing, "estimates", "Mean influence per token", (), note)


def _histogram(data: ReportData, all_scores: Scores) -> Picture:
    corpus, selection = token_shares(data.clusters)
    series, keys = [], []
    # A census is the selection itself; a part of the selection is weighted by the clusters that it stands for.
    for sample, shares, color, key in (
        (all_scores.pilot, corpus, RANDOM, ("random", "random draw (pilot, weighted)")),
        (all_scores.scored, None, SCORED, ("scored", "all scored")),
        (all_scores.selected, None if all_scores.is_census else selection, SELECTED,
         ("selected", "selection")),
    ):  # fmt: skip
        kept = finite(sample) if sample is not None else None
        weights = sampling_weights(kept, shares) if kept is not None else np.zeros(0)
        if kept is not None and weights.any():
            series.append((kept.influence, weights, color))
            keys.append(key)
    tau = data.rounds[-1].tau if data.rounds else None
    note = "Shares of tokens; the outermost bins hold the tails."
    if tau is not None and np.isfinite(tau):
        note += f" Dashed: the last threshold, {decimal(tau)}."
    drawing = plots.histograms(series, tau)
    return Picture.of(drawing, "histograms", "Distribution of influence", keys, note)


def examples(data: ReportData) -> Section | None:
    """Shows the best and the worst scored examples side by side; None if there are neither."""
    targets = data.targets or ()
    sample, values = "pilot", np.zeros(0)
    # An example is compared with a sample drawn without regard to influence, if there is one: the pilot, or landmarks.
    if targets:
        sample, values = "landmarks", np.max([t.influence for t in targets], axis=0)
    elif data.scores is not None and data.scores.pilot is not None:
        values = finite(data.scores.pilot).influence
    elif data.scores is not None:
        sample, values = "scored examples", finite(data.scores.scored).influence
    lists = [("Highest", data.best or (), values)]
    for target in targets:
        best = (data.best_by_target or {}).get(target.name, ())
        lists.append(
            (f"Highest for {clean(target.name, _NAME_CHARACTERS)}", best, target.influence)
        )
    lists.append(("Lowest", data.worst or (), values))
    shown = [(title, _ranked(data, own, among)) for title, own, among in lists if own]
    if not shown:
        return None
    lead = f"The scored examples of the highest and the lowest influence, each with the share of the {sample} below it."
    if targets:
        lead = "The landmarks of the highest and the lowest influence, each with the share of them below it."
        if len(targets) > 1:
            lead += " For the lowest, the influence shown is that on the target for which it is highest."
    view = {"lists": shown, "sample": sample}
    # The lead explains the shares, which need scores to compare with.
    return Section("examples", "Best and worst", view, lead if len(values) else None)


def _ranked(
    data: ReportData, items: Sequence[Example], values: np.ndarray
) -> list[tuple[Example, str, float | None, str]]:
    """Each example with its text, the share of some scores that are below its own, and why it was selected or not."""
    ranked = []
    for example in items:
        share = float((values < example.influence).mean()) if len(values) else None
        ranked.append((example, answers.plain(example.text), share, why(data, example)))
    return ranked
