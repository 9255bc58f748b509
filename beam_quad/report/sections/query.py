"""The query set: is it large enough, what does each group think of the first scores, and which layers make them?"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from beam_quad.records import PLAIN_QUERY, finite_or_none
from beam_quad.report import plots
from beam_quad.report.comparison import finite, sampling_weights, token_shares
from beam_quad.report.data import QueryGroup, ReportData, ScoredSample
from beam_quad.report.formatting import clean, percent
from beam_quad.report.judgements import LEAST_HALVES_AGREEMENT, reliability
from beam_quad.report.pages import Section
from beam_quad.report.svg import KINDS, Picture

# From here on the whole set's reliability is at least 0.89: its ranking is nearly that of endless query texts.
_GOOD_AGREEMENT = 0.8
# A table with more columns would be wider than the page.
_MAX_CORRELATED = 12
_MAX_DRAWN, _NAME_CHARACTERS = 6, 60
_NAMES = {
    "attention": "attention",
    "mlp": "MLP",
    "both": "both at once",
    "other": "outside of layers",
}


def query_groups(data: ReportData) -> Section | None:
    """Shows the groups, and whether the halves of each agree; None for one group of which that is not known."""
    groups = data.query_groups or ()
    several = len(groups) > 1
    sample = "landmarks" if data.targets else "pilot"
    knows_halves = any(finite_or_none(group.halves_agreement) is not None for group in groups)
    if not several and not knows_halves:
        return None
    has_pilot = any(group.pilot is not None for group in groups)
    view = {
        "sample": sample,
        "groups": _rows(data) if several else [],
        # A shortlist has no pilot, and what the landmarks say of each group has a section of its own.
        "has_pilot": has_pilot,
        "heads": [["", "text"], *([group.name] for group in groups)],
        "correlations": _correlations(data, groups) if several else [],
        "halves": [_halves(group, sample) for group in groups] if knows_halves else [],
    }
    lead = "Each group's scores are put on one scale and added with the weights."
    if has_pilot:
        lead = (
            "Each group's scores are divided by their standard deviation in the pilot and added with the weights. "
            "Groups that correlate weakly or negatively compete for the budget."
        )
    if data.targets:
        lead = "Each group is a target, and they take turns. Groups that correlate strongly want the same examples."
    title = "Query groups" if several else "Query set"
    return Section("groups", title, view, lead if several else None)


def _halves(group: QueryGroup, sample: str) -> tuple[QueryGroup, float | None, float | None, str]:
    agreement = finite_or_none(group.halves_agreement)
    if agreement is None:
        return group, None, None, "not known: a half has no text"
    degree = "alike" if agreement >= _GOOD_AGREEMENT else "roughly alike"
    if agreement < LEAST_HALVES_AGREEMENT:
        degree = "differently"
    words = f"the two halves of the query set rank the {sample} {degree}"
    return group, agreement, reliability(agreement), words


def _rows(data: ReportData) -> list[tuple[QueryGroup, tuple[float | None, ...]]]:
    corpus, _ = token_shares(data.clusters)
    pilot = data.scores.pilot if data.scores is not None else None
    return [(group, _statistics(group, pilot, corpus)) for group in data.query_groups or ()]


def _statistics(
    group: QueryGroup, pilot: ScoredSample | None, corpus: dict[int, int] | None
) -> tuple[float | None, ...]:
    """Mean of a random draw, standard deviation, and three quantiles of the pilot."""
    if group.pilot is None or not np.isfinite(group.pilot).any():
        return (None,) * 5
    values = group.pilot[np.isfinite(group.pilot)]
    mean = float(values.mean())
    # The pilot has as many examples of small clusters as of large ones; weights make it a random draw, if they fit it.
    if pilot is not None and len(pilot.influence) == len(group.pilot):
        weighted = finite(dataclasses.replace(pilot, influence=group.pilot))
        mean = float(sampling_weights(weighted, corpus) @ weighted.influence)
    quantiles = np.quantile(values, [0.05, 0.5, 0.95])
    return mean, float(values.std()), *map(float, quantiles)


def _correlations(data: ReportData, groups: Sequence[QueryGroup]) -> list[tuple[str, list[float]]]:
    by_target = {target.name: target.influence for target in data.targets or ()}
    scores = (by_target.get(g.name, g.pilot) for g in groups)
    columns = [c for c in scores if c is not None]
    is_whole = len(columns) == len(groups) and len({len(c) for c in columns}) == 1
    if not is_whole or len(groups) > _MAX_CORRELATED:
        return []
    values = np.stack(columns)
    # Only examples that every group could score can be compared.
    values = values[:, np.isfinite(values).all(axis=0)]
    # Any two points correlate fully, and constant scores with nothing.
    if values.shape[1] < 3 or (values.std(axis=1) == 0).any():
        return []
    return list(zip((g.name for g in groups), np.corrcoef(values).tolist(), strict=True))


def layers(data: ReportData) -> Section | None:
    """Draws the shares of each group's variance; None if they are not known."""
    groups = [group for group in data.query_groups or () if group.layers][:_MAX_DRAWN]
    if not groups:
        return None
    lead = (
        "Influence is a sum over the parts of the proxy that --layers tracks. Each bar is the share of a part in the variance of that "
        "sum over a few of the pilot's examples: how much the part decides of their ranking. Shares sum to 100 %; a part below 0 "
        "works against the rest."
    )
    view = {"pictures": [_picture(group, number) for number, group in enumerate(groups)]}
    return Section("layers", "Influence by layer", view, lead)


def _picture(group: QueryGroup, number: int) -> Picture:
    kinds = [kind for kind in _NAMES if any(own == kind for _, own, _ in group.layers)]
    shares = {k: math.fsum(s for _, own, s in group.layers if own == k) for k in kinds}
    note = "; ".join(f"{_NAMES[kind]} {percent(share)}" for kind, share in shares.items())
    keys = [(KINDS[kind][0], _NAMES[kind]) for kind in kinds]
    title = "Share of the variance of influence"
    if group.name != PLAIN_QUERY:
        title = f"{title} on {clean(group.name, _NAME_CHARACTERS)}"
    return Picture.of(
        plots.layer_shares(group.layers), f"layers-{number}", title, keys, f"In all: {note}."
    )
