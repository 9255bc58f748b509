"""Influence by layer: what of it is in the attention and what in the MLPs of the proxy."""

import math

from beam_quad.records import PLAIN_QUERY
from beam_quad.report import plots
from beam_quad.report.data import QueryGroup, ReportData
from beam_quad.report.formatting import clean, percent
from beam_quad.report.pages import Section
from beam_quad.report.svg import KINDS, Picture

_MAX_DRAWN, _NAME_CHARACTERS = 6, 60
_NAMES = {
    "attention": "attention",
    "mlp": "MLP",
    "both": "both at once",
    "other": "outside of layers",
}


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
