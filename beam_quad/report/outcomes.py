"""Why an example that the page shows was selected or not, in a sentence with the numbers that decided it."""

import math

from beam_quad.report.data import Example, Outcome, ReportData
from beam_quad.report.formatting import decimal

# Reasons of the decisions in words.
_WHY_NOT = {
    "share_full": "its share of the budget is full",
    "too_long": "it is too long for the budget",
    "contaminated": "it holds a text that no selection may",
    "left_out_before": "the last run left it out",
    "not_shortlisted": "its n-grams put it below the end of the shortlist",
}
# In a refresh, what the last run selected fills the budget before all else.
_BELOW_CUT_OF_REFRESH = "the budget ends before it, as the last run's documents keep their places"


def why(data: ReportData, example: Example) -> str:
    """States why an example was selected or not, without a capital or a full stop; empty if that is unknown."""
    outcome = example.outcome
    if outcome is None:
        return ""
    if outcome.reason is None:
        return f"selected: {_why_selected(data, outcome)}"
    return f"not selected: {_why_not(data, example, outcome, outcome.reason)}"


def _why_selected(data: ReportData, outcome: Outcome) -> str:
    if outcome.is_kept:
        return "the last run had selected it"
    # Without a round the example only fills the budget up, by its own rank.
    accepted = outcome.round is not None and _acceptance(data)
    threshold = _threshold(data, outcome.round)
    if accepted == "instance":
        return f"round {outcome.round} accepted it for its own influence{threshold}"
    if accepted == "block":
        return (
            f"round {outcome.round} accepted its block, of which the scored documents have a mean influence of "
            f"{decimal(outcome.block_influence)}{threshold}"
        )
    if _acceptance(data) == "cluster" and outcome.worth is not None:
        return f"its cluster was accepted: its mean influence is {decimal(outcome.worth)}"
    if outcome.target is not None and (least := _least_taken(data, outcome.target)) is not None:
        return f"for {outcome.target}; the lowest influence of a landmark selected for it is {decimal(least)}"
    if outcome.worth is not None:
        return f"by an influence of {decimal(outcome.worth)} it ranks above where the budget ends"
    return f"{_what_ranks(data)} above where the budget ends"


def _why_not(data: ReportData, example: Example, outcome: Outcome, reason: str) -> str:
    if reason == "near_duplicate":
        return f"{outcome.twin or 'another document'} is nearly the same, and ranks higher"
    if reason == "block_not_accepted" and _acceptance(data) == "cluster":
        means = {arm.cluster_id: arm.mean_influence for arm in data.arms or ()}
        return f"its cluster was not accepted: its mean influence is {decimal(means.get(example.cluster_id or 0))}"
    if reason == "block_not_accepted":
        # Blocks of a refresh wait for better ones, and are judged at the end.
        pulled = outcome.round if "refresh" not in data.manifest else None
        return (
            "its block was not accepted: the scored documents of it have a mean influence of "
            f"{decimal(example.block_influence)}{_threshold(data, pulled)}"
        )
    if reason == "below_cut" and data.targets:
        least = [(t.name, _least_taken(data, t.name)) for t in data.targets]
        words = ", ".join(f"{decimal(own)} for {name}" for name, own in least if own is not None)
        return f"it ranks below where the budget ends; the lowest influence of a selected landmark is {words}"
    if reason == "below_cut" and "refresh" in data.manifest:
        return _BELOW_CUT_OF_REFRESH
    if reason == "below_cut":
        return f"{_what_ranks(data)} below where the budget ends"
    return _WHY_NOT.get(reason, reason.replace("_", " "))


def _acceptance(data: ReportData) -> object:
    config = data.manifest["config"]
    # Baselines have the option too, and do not use it.
    return config.get("acceptance") if config.get("policy") == "quad" else None


def _what_ranks(data: ReportData) -> str:
    if _acceptance(data) == "shortlist":
        return "its joint rank, by influence and by n-grams, is"
    return "it ranks"


def _threshold(data: ReportData, number: int | None) -> str:
    """States the threshold of a round; empty if it had none."""
    taus = [own.tau for own in data.rounds or () if own.number == number and own.tau is not None]
    return f", and the threshold was {decimal(taus[0])}" if taus and math.isfinite(taus[0]) else ""


def _least_taken(data: ReportData, name: str) -> float | None:
    """Returns the lowest influence on a target of a landmark selected for it; None if there is none."""
    for target in data.targets or ():
        if target.name == name and target.taken is not None and target.taken.any():
            return float(target.influence[target.taken].min())
    return None
