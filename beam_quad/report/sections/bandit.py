"""The bandit: its arms at the end, its rounds over time."""

import math

from beam_quad.report import plots
from beam_quad.report.data import ReportData
from beam_quad.report.formatting import count, percent, ratio
from beam_quad.report.pages import Section
from beam_quad.report.svg import RANDOM, SCORED, SELECTED, Picture

_SHARE_KEYS = (
    ("share-0", "none accepted"),
    ("share-1", "up to 1/3"),
    ("share-2", "up to 2/3"),
    ("share-3", "more"),
    ("share-4", "all"),
)


def arms(data: ReportData) -> Section | None:
    """Shows mean influence against pulls; None without a bandit."""
    # An arm without a finite score has no place on the axis of influence.
    items = [a for a in data.arms or () if a.pulls > 0 and math.isfinite(a.mean_influence)]
    if not items:
        return None
    pulls, accepted = sum(a.pulls for a in items), sum(a.accepted for a in items)
    drained = sum(a.pulls >= a.num_blocks for a in items)
    lead = (
        "An arm is a cluster, cut into blocks at random; a pull scores a few documents of one block. "
        f"{count(len(items))} arms, {count(pulls)} pulls, {percent(ratio(accepted, pulls))} of the pulled blocks "
        f"accepted; {count(sum(a.pulls > 1 for a in items))} arms were pulled again after the pilot, "
        f"{count(drained)} until no block was left."
    )
    note = "Area: tokens of the cluster."
    if len(items) > plots.MAX_MARKS:
        note += f" Arms of equal pulls and nearly equal influence share one mark ({count(len(items))} arms)."
    # Thousands of arms fit no table; arms of equal pulls have fared alike.
    by_pulls = []
    for number in sorted({a.pulls for a in items}):
        own = [a for a in items if a.pulls == number]
        mean = math.fsum(a.mean_influence for a in own) / len(own)
        share = sum(a.accepted for a in own) / (number * len(own))
        by_pulls.append((number, len(own), mean, share))
    drawing = Picture.of(
        plots.arms(items), "arms", "Mean influence against pulls", _SHARE_KEYS, note
    )
    return Section("arms", "Arms", {"picture": drawing, "by_pulls": by_pulls}, lead)


def rounds(data: ReportData) -> Section | None:
    """Shows the rounds over time; None without rounds."""
    items, budget = data.rounds, data.manifest["tokens"]["budget"]
    if not items:
        return None
    accepted = [float(r.accepted_tokens) for r in items]
    # A pilot without a fixed threshold accepts by none; its place on the line stays empty.
    taus = [math.nan if r.tau is None else r.tau for r in items]
    pulls = (([r.pulls for r in items], RANDOM), ([r.accepted for r in items], SELECTED))
    pictures = [
        Picture.of(
            plots.round_line(items, accepted, budget),
            "round-tokens", "Accepted tokens", (), "Dashed: the budget." if budget else None,
        ),
        Picture.of(
            plots.round_line(items, taus, None),
            "round-tau", "Threshold tau", (), "The lowest influence that is accepted in the round.",
        ),
        Picture.of(
            plots.round_bars(items, pulls),
            "round-pulls", "Pulls", (("selected", "accepted"), ("random", "not accepted")),
        ),
        Picture.of(
            plots.round_bars(items, (([r.scored for r in items], SCORED),)),
            "round-scored", "Scored examples",
        ),
    ]  # fmt: skip
    # Clocks may have been deleted together with the artifacts of the rounds.
    if any(r.seconds is not None for r in items):
        drawing = plots.round_bars(items, (([r.seconds or 0.0 for r in items], RANDOM),))
        pictures.append(Picture.of(drawing, "round-seconds", "Seconds"))
    view = {"pictures": pictures, "rounds": items, "budget": budget or 0}
    return Section(
        "rounds",
        "Rounds",
        view,
        "Round 0, the pilot, pulls every arm once; later rounds pull the arms that promise most.",
    )
