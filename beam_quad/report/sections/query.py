"""The query set: is it large enough, and what does each of its groups think of the examples that were scored first?"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from beam_quad.records import finite_or_none
from beam_quad.report.comparison import finite, sampling_weights, token_shares
from beam_quad.report.data import QueryGroup, ReportData, ScoredSample
from beam_quad.report.judgements import LEAST_HALVES_AGREEMENT, reliability
from beam_quad.report.pages import Section

# From here on the whole set's reliability is at least 0.89: its ranking is nearly that of endless query texts.
_GOOD_AGREEMENT = 0.8
_MAX_CORRELATED = 12


def query_groups(data: ReportData) -> Section | None:
    """Shows the groups, and whether the halves of each agree; None for one group of which that is not known."""
    groups = data.query_groups or ()
    several = len(groups) > 1
    sample = "landmarks" if data.targets else "pilot"
    knows_halves = any(finite_or_none(group.halves_agreement) is not None for group in groups)
    if not several and not knows_halves:
        return None
    view = {
        "sample": sample,
        "groups": _rows(data) if several else [],
        # What the landmarks say of each has a section of its own.
        "has_pilot": not data.targets,
        "heads": [["", "text"], *([group.name] for group in groups)],
        "correlations": _correlations(data, groups) if several else [],
        "halves": [_halves(group, sample) for group in groups] if knows_halves else [],
    }
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
    if values.shape[1] < 3 or (values.std(axis=1) == 0).any():
        return []
    return list(zip((g.name for g in groups), np.corrcoef(values).tolist(), strict=True))
