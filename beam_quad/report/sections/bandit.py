"""The bandit: its arms at the end, its rounds over time."""

import math

from beam_quad.report import plots
from beam_quad.report.data import ReportData, Round
from beam_quad.report.formatting import count, decimal, duration, percent, ratio
from beam_quad.report.markup import Column, Html, Section, join, table, tag
from beam_quad.report.sections.common import ImageKey, figure
from beam_quad.report.svg import RANDOM, SCORED, SELECTED

_SHARE_KEYS = (
    ImageKey("share-0", "none accepted"),
    ImageKey("share-1", "up to 1/3"),
    ImageKey("share-2", "up to 2/3"),
    ImageKey("share-3", "more"),
    ImageKey("share-4", "all"),
)


def arms(data: ReportData) -> Section | None:
    """Shows mean influence against pulls; None without a bandit."""
    items = [a for a in data.arms or () if a.pulls > 0 and math.isfinite(a.mean_influence)]
    if not items:
        return None
    pulls, accepted = sum(a.pulls for a in items), sum(a.accepted for a in items)
    drained = sum(a.pulls >= a.num_blocks for a in items)
    lead = (
        f"{count(len(items))} arms, {count(pulls)} pulls, {percent(ratio(accepted, pulls))} of the pulled blocks "
        f"accepted; {count(sum(a.pulls > 1 for a in items))} arms were pulled again after the pilot, "
        f"{count(drained)} until no block was left."
    )
    note = "Area: tokens of the cluster."
    if len(items) > plots.MAX_MARKS:
        note += f" Arms of equal pulls and nearly equal influence share one mark ({count(len(items))} arms)."
    drawing = figure(plots.arms(items), "arms", "Mean influence against pulls", _SHARE_KEYS, note)
    return Section(
        "arms", "Arms", tag("div", drawing, _influence_table(data), class_="plots"), lead
    )


def _influence_table(data: ReportData) -> Html:
    """Lists the arms by number of pulls: how many, how good, how often accepted."""
    groups: dict[int, list[tuple[float, int]]] = {}
    for arm in data.arms or ():
        if arm.pulls > 0 and math.isfinite(arm.mean_influence):
            groups.setdefault(arm.pulls, []).append((arm.mean_influence, arm.accepted))
    rows = [
        (
            count(pulls),
            count(len(members)),
            decimal(math.fsum(m for m, _ in members) / len(members)),
            percent(sum(a for _, a in members) / (pulls * len(members))),
        )
        for pulls, members in sorted(groups.items())
    ]
    columns = (Column("Pulls"), Column("Arms"), Column("Mean influence"), Column("Accepted"))
    return tag("div", tag("h3", "Arms by number of pulls"), table(columns, rows))


def rounds(data: ReportData) -> Section | None:
    """Shows the rounds over time; None without rounds."""
    items = data.rounds
    if not items:
        return None
    budget = data.funnel.tokens_budget
    drawings = [
        figure(
            plots.round_line(items, [float(r.accepted_tokens) for r in items], budget),
            "round-tokens", "Accepted tokens", (), "Dashed: the budget." if budget else None,
        ),
        figure(
            plots.round_line(items, [_finite(r.tau) for r in items], None),
            "round-tau", "Threshold tau", (), "The least mean influence at which a block is accepted.",
        ),
        figure(
            plots.round_bars(items, (([r.pulls for r in items], RANDOM), ([r.accepted for r in items], SELECTED))),
            "round-pulls", "Pulls", (ImageKey("selected", "accepted"), ImageKey("random", "not accepted")),
        ),
        figure(
            plots.round_bars(items, (([r.scored for r in items], SCORED),)),
            "round-scored", "Scored examples",
        ),
    ]  # fmt: skip
    if any(r.seconds is not None for r in items):
        seconds = [r.seconds or 0.0 for r in items]
        drawing = plots.round_bars(items, ((seconds, RANDOM),))
        drawings.append(figure(drawing, "round-seconds", "Seconds"))
    body = [tag("div", *drawings, class_="plots small"), _round_table(items, budget)]
    return Section("rounds", "Rounds", join(body), "Round 0 is the pilot: it pulls every arm once.")


def _finite(tau: float | None) -> float:
    return math.nan if tau is None else tau


def _round_table(items: tuple[Round, ...], budget: int | None) -> Html:
    columns = (
        Column("Round"), Column("Tau"), Column("Pulls"), Column("Accepted"), Column("Scored"),
        Column("Accepted tokens"), Column("Of the budget"), Column("Time"),
    )  # fmt: skip
    rows = [
        (
            count(r.number), decimal(r.tau), count(r.pulls), count(r.accepted), count(r.scored),
            count(r.accepted_tokens), percent(ratio(r.accepted_tokens, budget or 0)), duration(r.seconds),
        )
        for r in items
    ]  # fmt: skip
    summary = tag("summary", "The rounds as a table")
    return tag("details", summary, table(columns, rows), class_="more")
