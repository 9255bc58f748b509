"""The query set: is it large enough, and what does each of its groups think of the examples that were scored first?"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from beam_quad.report.comparison import finite, sampling_weights, token_shares
from beam_quad.report.data import Notice, QueryGroup, ReportData, ScoredSample
from beam_quad.report.formatting import compact, correlation, count, decimal
from beam_quad.report.markup import Column, Html, Section, join, table, tag

# Of what a half's scores tell apart, the share that another half would confirm is their correlation r. Below 0.5 a
# half says more about which texts are in it than about what they have in common, and the whole set (2r / (1 + r)
# below 2/3) leaves over a third to that chance.
_LEAST_AGREEMENT = 0.5
# From here on the whole set's reliability is at least 0.89: its ranking is nearly that of endless query texts.
_GOOD_AGREEMENT = 0.8
# Of files of one making that is more than stray rows.
_MOST_UNUSED = 0.1


def query_groups(data: ReportData) -> Section | None:
    """Shows the groups, and whether the halves of each agree; None for one group of which that is not known."""
    groups = data.query_groups or ()
    several = len(groups) > 1
    body = [_groups_table(data), _correlations(data)] if several else []
    if any(_agreement(group) is not None for group in groups):
        body.append(_halves(groups, compared_on(data)))
    if not body:
        return None
    lead = (
        "Each group's scores are divided by their standard deviation in the pilot and added with the weights. "
        "Groups that correlate weakly or negatively compete for the budget."
    )
    if data.targets:
        lead = "Each group is a target, and they take turns. Groups that correlate strongly want the same examples."
    title = "Query groups" if several else "Query set"
    return Section("groups", title, join(body), lead if several else None)


def compared_on(data: ReportData) -> str:
    """Names the examples on which query groups and their halves are compared."""
    return "landmarks" if data.targets else "pilot"


def reliability(agreement: float) -> float:
    """Estimates the agreement of the whole set with another one of its size from that of its halves, r.

    Returns:
      2r / (1 + r); 0 where r is negative.

    References:
      Spearman, Correlation Calculated from Faulty Data, 1910; Brown, Some Experimental Results, 1910.
    """
    return max(0.0, 2 * agreement / (1 + agreement)) if agreement > -1 else 0.0


def texts_used(name: str, used: int, unused: Mapping[str, int]) -> str:
    """Says how many texts of a query group are used, and how many are not for which reason.

    Args:
      name: The group's name.
      used: Its texts that are used.
      unused: How many are not, by reason.
    """
    number = sum(unused.values())
    texts = "query texts" if name == "query" else f"texts of query group {name}"
    words = f"{count(used)} of {count(used + number)} {texts} are used"
    reasons = ", ".join(f"{count(n)} {reason}" for reason, n in sorted(unused.items()) if n)
    return f"{words}, {count(number)} cannot be: {reasons}" if number else words


def is_poor(used: int, unused: Mapping[str, int]) -> bool:
    """Tells whether so many texts of a query group are unused, over a tenth, that its files may not be what they seem."""
    number = sum(unused.values())
    return number > _MOST_UNUSED * (used + number)


def poor_agreement(name: str, agreement: float | None, sample: str = "pilot") -> str | None:
    """Says what to do about a group whose halves rank examples differently; None where they do not.

    Args:
      name: The group's name.
      agreement: Rank correlation of the scores under its halves; None where it is not known.
      sample: What was scored under both, "pilot" or "landmarks".
    """
    if agreement is None or not agreement < _LEAST_AGREEMENT:
        return None
    part = "mostly" if reliability(agreement) < 0.5 else "in good part"
    return (
        f"The halves of query group {name} rank the {sample} differently (rank correlation {correlation(agreement)}): "
        f"scores are {part} chance of which texts are in it; pass more query texts, or split unlike ones into groups "
        "(--query_group)."
    )


def poor_agreements(data: ReportData) -> list[Notice]:
    """Warns of each group whose halves rank examples differently."""
    sample = compared_on(data)
    groups = data.query_groups or ()
    words = (poor_agreement(group.name, group.halves_agreement, sample) for group in groups)
    return [Notice(each) for each in words if each is not None]


def _agreement(group: QueryGroup) -> float | None:
    agreement = group.halves_agreement
    return agreement if agreement is not None and math.isfinite(agreement) else None


def _halves(groups: Sequence[QueryGroup], sample: str) -> Html:
    columns = (
        Column("Query group", "name"),
        Column("Texts"),
        Column("Halves, r", hint="rank correlation of the scores under the two halves"),
        Column("Whole set", hint="2r / (1 + r): its agreement with another set of its size"),
        Column("", "wide"),
    )
    rows = [
        (
            group.name,
            count(group.documents),
            correlation(_agreement(group)),
            correlation(reliability(r) if (r := _agreement(group)) is not None else None),
            _in_words(_agreement(group), sample),
        )
        for group in groups
    ]
    explanation = (
        f"The texts were split in halves, and each half scored the {sample}: r is the rank correlation of the two "
        "scores. The whole set, by Spearman and Brown's 2r / (1 + r), would agree so well with another set of its "
        "size. A high value says that there are texts enough, not that they are the right ones."
    )
    heading = tag("h3", "Is the query set good enough?")
    return join([heading, tag("p", explanation, class_="lead"), table(columns, rows)])


def _in_words(agreement: float | None, sample: str) -> str:
    if agreement is None:
        return "not known: a half has no text"
    if agreement < _LEAST_AGREEMENT:
        return f"the two halves of the query set rank the {sample} differently"
    degree = "alike" if agreement >= _GOOD_AGREEMENT else "roughly alike"
    return f"the two halves of the query set rank the {sample} {degree}"


def _groups_table(data: ReportData) -> Html:
    corpus, _ = token_shares(data.clusters)
    pilot = data.scores.pilot if data.scores is not None else None
    columns = [
        Column("Query group", "text"), Column("Texts"), Column("Tokens"), Column("Weight"),
        Column("Pilot mean"), Column("Std. deviation"), Column("5 %"), Column("Median"), Column("95 %"),
    ]  # fmt: skip
    rows = [_group_row(group, pilot, corpus) for group in data.query_groups or ()]
    if data.targets:
        # What the landmarks say of each has a section of its own.
        columns, rows = columns[:4], [row[:4] for row in rows]
    return table(columns, rows)


def _group_row(
    group: QueryGroup, pilot: ScoredSample | None, corpus: dict[int, int] | None
) -> tuple[object, ...]:
    known = (group.name, count(group.documents), compact(group.tokens), f"{group.weight:g}")
    if group.pilot is None or not np.isfinite(group.pilot).any():
        return (*known, *[decimal(None)] * 5)
    values = group.pilot[np.isfinite(group.pilot)]
    mean = float(values.mean())
    if pilot is not None and len(pilot.influence) == len(group.pilot):
        weighted = finite(dataclasses.replace(pilot, influence=group.pilot))
        mean = float(sampling_weights(weighted, corpus) @ weighted.influence)
    quantiles = np.quantile(values, [0.05, 0.5, 0.95])
    return (
        *known,
        decimal(mean),
        decimal(float(values.std())),
        *(decimal(float(q)) for q in quantiles),
    )


def _correlations(data: ReportData) -> Html | None:
    groups = data.query_groups or ()
    by_target = {target.name: target.influence for target in data.targets or ()}
    scores = (by_target.get(g.name, g.pilot) for g in groups)
    columns = [c for c in scores if c is not None]
    if len(columns) < len(groups) or len({len(c) for c in columns}) > 1 or len(groups) > 12:
        return None
    values = np.stack(columns)
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[1] < 3 or (values.std(axis=1) == 0).any():
        return None
    matrix = np.corrcoef(values)
    rows = (
        (g.name, *(correlation(float(x)) for x in row))
        for g, row in zip(groups, matrix, strict=True)
    )
    head = [Column("", "text"), *(Column(g.name) for g in groups)]
    heading = f"Correlation of the groups' scores in the {compared_on(data)}"
    return join([tag("h3", heading), table(head, rows)])
